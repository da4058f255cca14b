"""Hunyuan, dense and with experts (A13B), and the text model of HunYuan-VL and -OCR; Hy3.

Sources: HunYuanDenseV1Config, HunYuanMoEV1Config and HYV3Config of transformers 5.23; conversion/hunyuan.py of
llama.cpp.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import EXPERT_FF, FF, MLP_TYPES, Dim, Is, LeadingLayers, OrDefault
from ..tables.extras import LeftOut
from ..tables.rows import Computed, Constant, Key, LeadingDense
from ..tables.rules import Arch, HFClass
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
    NEXTN_LAYERS,
    TEXT_ROOTS,
    TIED_HEAD,
    attention,
    beside,
    correction,
    experts,
    gated_mlp,
    qk_norm,
    shared_expert,
    with_sections,
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

HUNYUAN_VL = replace(
    HUNYUAN,
    name="hunyuan_vl",
    classes={
        "HunYuanVLForConditionalGeneration": HFClass(
            "hunyuan_vl_text",
            _COMMON | {"sep_token_id": 4, "tie_word_embeddings": True},
            wraps="hunyuan_vl",
            ties=True,
        )
    },
    config=with_sections(HUNYUAN.config, (), axes=4),
    roots=TEXT_ROOTS,
    extras=(TIED_HEAD, LeftOut("vit.*", "vision tower"), *beside("vision_tower.*", "vision tower")),
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

_FIRST = Is(MLP_TYPES, "dense")
_SHARED = EXPERT_FF * Dim("num_shared_experts")
_MLP = LAYER_PREFIX + "mlp."

# The norm after the block is called the layer's last.
_NEXTN_RULES = tuple(
    replace(rule, hf=LAYER_PREFIX + "final_layernorm") if rule.role is Role.NEXTN_SHARED_HEAD_NORM else rule
    for rule in NEXTN_LAYERS.rules
)

HY_V3 = Arch(
    name="hy_v3",
    classes={
        "HYV3ForCausalLM": HFClass(
            "hy_v3",
            {
                "vocab_size": 120832, "hidden_size": 4096, "intermediate_size": 13312, "num_hidden_layers": 80,
                "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu",
                "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False,
                "num_local_experts": 192, "num_experts_per_tok": 8, "num_shared_experts": 1, "rope_theta": 11158840.0,
                "moe_intermediate_size": 1536, "router_scaling_factor": 2.826, "enable_moe_fp32_combine": True,
                "mlp_layer_types": None, "output_router_logits": False,
            },
            {"num_experts": "num_local_experts"},
        )
    },
    config=(
        *KEYS,
        *EXPERT_KEYS,
        *HEAD_DIM_KEYS,
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Computed("expert_shared_feed_forward_length", _SHARED),
        Key("num_shared_experts", "expert_shared_count"),
        Constant("expert_weights_norm", True),
        Key("router_scaling_factor", "expert_weights_scale"),
        Constant("expert_gating_func", 2),
        LeadingDense(),
        replace(NEXTN_LAYERS, rules=_NEXTN_RULES, sees={MLP_TYPES: "sparse"}),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        *qk_norm(),
        FFN_NORM,
        *gated_mlp(when=_FIRST),
        *experts(router="router.gate", when=~_FIRST),
        replace(correction(_MLP + "expert_bias", ~_FIRST), part=""),
        *shared_expert(at=_MLP + "shared_mlp.", width=_SHARED, when=~_FIRST),
        FINAL_NORM,
        HEAD,
    ),
    fixed=_FIXED | {"mlp_bias": False},
    needs={"route_norm": ~Is("route_norm", False)},
    implied={MLP_TYPES: LeadingLayers("dense", "sparse", OrDefault("first_k_dense_replace", 1))},
)  # fmt: skip
