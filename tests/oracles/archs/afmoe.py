"""AFMoE."""

from oracles.proofs import Proof

_EXPERTS = {
    "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 48, "sliding_window": 24,
    "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "num_shared_experts": 2,
    "num_dense_layers": 1, "mup_enabled": True, "route_scale": 2.5,
}  # fmt: skip
_PUBLISHED = {"score_func": "sigmoid", "route_norm": True}

PROOFS = (Proof("afmoe", "AfmoeForCausalLM", _EXPERTS, published=_PUBLISHED),)
