"""Laguna."""

from oracles.proofs import Proof

_KINDS = ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
_SMALL = {
    "num_hidden_layers": 5, "layer_types": _KINDS, "num_attention_heads_per_layer": [8, 12, 8, 12, 8],
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "sliding_window": 24, "num_experts": 6,
    "num_experts_per_tok": 2, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 128,
    "moe_routed_scaling_factor": 2.5,
}  # fmt: skip
_FULL = {
    "rope_type": "yarn", "rope_theta": 500000.0, "factor": 4.0, "original_max_position_embeddings": 32,
    "beta_slow": 1.0, "beta_fast": 32.0, "partial_rotary_factor": 0.5,
}  # fmt: skip
_YARN = {
    "full_attention": _FULL,
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
}  # fmt: skip

# All layers see everything, and YaRN leaves the sines as they are.
_WHOLE = {
    "layer_types": ["full_attention"] * 3, "num_hidden_layers": 3, "num_attention_heads_per_layer": [8, 8, 8],
    "gating": "per-element", "rope_parameters": _YARN | {"full_attention": _FULL | {"attention_factor": 1.0}},
}  # fmt: skip

PROOFS = (
    Proof("laguna", "LagunaForCausalLM", _SMALL | {"rope_parameters": _YARN}),
    Proof("laguna", "LagunaForCausalLM", _SMALL | _WHOLE, "whole"),
)
