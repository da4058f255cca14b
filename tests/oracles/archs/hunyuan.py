"""Hunyuan, dense and with experts; Hy3."""

from oracles.archs.glm import FURTHER
from oracles.proofs import Further, Proof

_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 48}
_EXPERTS = {
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "num_experts": 5, "moe_topk": 2,
}  # fmt: skip
# llama.cpp's converter knows no other context and no other base.
_ALPHA = {
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0},
    "max_position_embeddings": 32768,
}
_WIDE = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128}
_EOD = {"eod_token_id": 310}  # what the tokenizer ends a text with
_LISTS = {"moe_intermediate_size": [512] * 3, "moe_topk": [2] * 3, "num_shared_expert": [1] * 3}

_HY3 = {
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 48, "num_experts": 6, "num_experts_per_tok": 2,
    "moe_intermediate_size": 256, "num_shared_experts": 2,
}  # fmt: skip

# As in tencent/Hy3, whose layer after the last takes the model's embedding and head.
_MTP = Further(
    FURTHER.at,
    FURTHER.like,
    {name: shape for name, shape in FURTHER.own.items() if 320 not in shape and "shared_head" not in name}
    | {"model.layers.3.final_layernorm.weight": (256,)},
)

PROOFS = (
    Proof("hunyuan-dense", "HunYuanDenseV1ForCausalLM", _HEADS, published=_EOD),
    Proof("hunyuan-dense", "HunYuanDenseV1ForCausalLM", _HEADS | _ALPHA, "alpha", published=_EOD),
    Proof("hunyuan-moe", "HunYuanMoEV1ForCausalLM", _EXPERTS, published=_LISTS),
    Proof("hunyuan-moe", "HunYuanMoEV1ForCausalLM", _EXPERTS | _WIDE | _ALPHA, "alpha", published=_LISTS),
    Proof("hy_v3", "HYV3ForCausalLM", _HY3 | {"num_nextn_predict_layers": 1}, further=_MTP),
)
