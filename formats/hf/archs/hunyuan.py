"""Hunyuan, dense and with experts (A13B).

Sources: HunYuanDenseV1Config and HunYuanMoEV1Config of transformers 5.23; conversion/hunyuan.py of llama.cpp.
"""

from __future__ import annotations

from ..dimensions import FF, Is
from ..rows import Constant, Key
from ..rules import Arch, HFClass
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    HEAD_DIM_KEYS,
    KEYS,
    LAYER_PREFIX,
    TIED_HEAD,
    attention,
    experts,
    gated_mlp,
    qk_norm,
    shared_expert,
)

_COMMON = {
    "vocab_size": 290943, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "hidden_act": "silu",
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "attention_bias": False, "pretraining_tp": 1,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "eod_token_id": 3,
}  # fmt: skip
_FIXED = {"hidden_act": "silu", "attention_bias": False}
_QK_NORM = qk_norm(names=("query_layernorm", "key_layernorm"))

HUNYUAN = Arch(
    name="hunyuan-dense",
    classes={"HunYuanDenseV1ForCausalLM": HFClass("hunyuan_v1_dense", _COMMON)},
    config=(*KEYS, *HEAD_DIM_KEYS),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(bias="attention_bias"),
        *_QK_NORM,
        FFN_NORM,
        *gated_mlp(),
        FINAL_NORM,
        HEAD,
    ),
    fixed=_FIXED,
    extras=(TIED_HEAD,),
)

HUNYUAN_MOE = Arch(
    name="hunyuan-moe",
    classes={
        "HunYuanMoEV1ForCausalLM": HFClass(
            "hunyuan_v1_moe",
            _COMMON
            | {"sep_token_id": 4, "num_local_experts": 1, "num_experts_per_tok": 1, "output_router_logits": False},
            {"num_experts": "num_local_experts", "moe_topk": "num_experts_per_tok"},
        )
    },
    config=(
        *KEYS,
        *HEAD_DIM_KEYS,
        *EXPERT_KEYS,
        Constant("expert_shared_count", 1),
        Key("intermediate_size", "expert_shared_feed_forward_length"),
        Key("intermediate_size", "expert_feed_forward_length"),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        *_QK_NORM,
        FFN_NORM,
        *experts(router="gate.wg", width=FF),
        *shared_expert(at=LAYER_PREFIX + "mlp.shared_mlp.", width=FF),
        FINAL_NORM,
        HEAD,
    ),
    fixed=_FIXED,
    extras=(TIED_HEAD,),
    needs={"use_qk_norm": ~Is("use_qk_norm", False)},
)
