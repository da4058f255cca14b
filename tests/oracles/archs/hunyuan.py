"""Hunyuan, dense and with experts."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 48}
_EXPERTS = {
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "num_experts": 5, "moe_topk": 2,
}  # fmt: skip
_ALPHA = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0}}

PROOFS = (
    Proof("hunyuan-dense", "HunYuanDenseV1ForCausalLM", _HEADS),
    Proof("hunyuan-dense", "HunYuanDenseV1ForCausalLM", _HEADS | _ALPHA, "alpha"),
    Proof("hunyuan-moe", "HunYuanMoEV1ForCausalLM", _EXPERTS),
    Proof("hunyuan-moe", "HunYuanMoEV1ForCausalLM", _EXPERTS | _ALPHA, "alpha"),
)
