"""StableLM."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}

PROOFS = (
    Proof("stablelm", "StableLmForCausalLM", _HEADS | {"use_qkv_bias": True}),
    Proof(
        "stablelm",
        "StableLmForCausalLM",
        _HEADS | {"qk_layernorm": True, "use_parallel_residual": True, "partial_rotary_factor": 0.5},
        "12b",
    ),
)
