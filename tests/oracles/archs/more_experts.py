"""ERNIE 4.5 and Hunyuan with experts."""

from oracles.proofs import Proof

_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
_ERNIE = {"moe_num_experts": 5, "moe_k": 2, "moe_intermediate_size": 256, "moe_layer_start_index": 1}
_HUNYUAN = {"head_dim": 64, "num_experts": 5, "moe_topk": 2}
_ALPHA = {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0}

PROOFS = (
    Proof("ernie4_5-moe", "Ernie4_5_MoeForCausalLM", _HEADS | _ERNIE),
    Proof("hunyuan-moe", "HunYuanMoEV1ForCausalLM", _HEADS | _HUNYUAN),
    Proof("hunyuan-moe", "HunYuanMoEV1ForCausalLM", _HEADS | _HUNYUAN | {"rope_parameters": _ALPHA}, "alpha"),
)
