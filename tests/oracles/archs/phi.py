"""Phi."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 2, "pad_token_id": 0}
# 16 frequencies of heads of 64, of which half turn.
_LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
    "short_factor": [1 + i / 16 for i in range(16)], "long_factor": [1.05 + i * i / 10 for i in range(16)],
}  # fmt: skip
_LONG = _HEADS | {"rope_parameters": _LONGROPE, "max_position_embeddings": 1024, "partial_rotary_factor": 0.5}
# What all published models have; transformers 5.23 saves them under its own class.
_MOE = _HEADS | {
    "num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True,
    "sliding_window": 100, "max_position_embeddings": 1024,
    "rope_parameters": {key: value for key, value in _LONGROPE.items() if key != "partial_rotary_factor"}
    | {f"{kind}_factor": _LONGROPE[f"{kind}_factor"] * 2 for kind in ("short", "long")}
    | {"short_mscale": 1.243163121016122, "long_mscale": 1.243163121016122, "original_max_position_embeddings": 32},
}  # fmt: skip

PROOFS = (
    Proof("phi2", "PhiForCausalLM", {"num_attention_heads": 4}),
    Proof("phi3", "Phi3ForCausalLM", _HEADS | {"sliding_window": 100}),
    # transformers goes by the tokens there are (64), llama.cpp by the cache's size (512): both are beyond 32.
    Proof("phi3", "Phi3ForCausalLM", _LONG | {"original_max_position_embeddings": 32}, "long factors"),
    Proof("phi3", "Phi3ForCausalLM", _LONG | {"original_max_position_embeddings": 512}, "short factors"),
    Proof(
        "phimoe",
        "PhimoeForCausalLM",
        _MOE,
        published={"architectures": ["PhiMoEForCausalLM"], "original_max_position_embeddings": 32},
        other_logits=True,
    ),
)
