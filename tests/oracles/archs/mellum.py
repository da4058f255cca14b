"""Mellum."""

from oracles.proofs import Proof

_YARN = {
    "rope_type": "yarn", "rope_theta": 500000.0, "factor": 4.0, "original_max_position_embeddings": 32,
    "beta_slow": 1.0, "beta_fast": 32.0,
}  # fmt: skip
_SMALL = {
    "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 48, "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
    "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
    "rope_parameters": {
        "full_attention": _YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
    },
}  # fmt: skip

PROOFS = (Proof("mellum", "MellumForCausalLM", _SMALL),)
