"""gpt-oss: experts in MXFP4, attention with sinks.

Sources: GptOssConfig of transformers 5.23; conversion/gpt_oss.py of llama.cpp. Packed experts stay the MXFP4 blocks
they are: the ops only move their rows. llama.cpp rounds the ends of YaRN's range, which the published models do not
(``truncate``).
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import ALWAYS, EMBD, EXPERTS, FF, HEADS, Dim, LayerPattern
from ..tables.ops import Regroup, Split, Transpose
from ..tables.rows import Key, LayerFlags
from ..tables.rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EXPERT_KEYS,
    FINAL_NORM,
    HEAD_DIM_KEYS,
    KEYS,
    LAYER_PREFIX,
    OWN_HEAD,
    attention,
)

_EXPERTS = LAYER_PREFIX + "mlp.experts."
_PAIRS = (Regroup((-1, 2), (1, 0), axis=1), Split((FF, FF), axis=1))  # gate and up alternate
_GATE_UP = (Role.FFN_GATE_EXPS, Role.FFN_UP_EXPS)

GPT_OSS = Arch(
    name="gpt-oss",
    classes={
        "GptOssForCausalLM": HFClass(
            "gpt_oss",
            {
                "num_hidden_layers": 36, "num_local_experts": 128, "vocab_size": 201088, "hidden_size": 2880,
                "intermediate_size": 2880, "head_dim": 64, "num_attention_heads": 64, "num_key_value_heads": 8,
                "sliding_window": 128, "hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
                "num_experts_per_tok": 4, "swiglu_alpha": 1.702, "swiglu_limit": 7.0, "router_aux_loss_coef": 0.001,
                "output_router_logits": False, "attention_bias": True, "rope_theta": 150000.0,
            },
        )
    },
    config=(
        *KEYS,
        *HEAD_DIM_KEYS,
        *EXPERT_KEYS,
        Key("sliding_window", "attention.sliding_window"),
        Key("intermediate_size", "expert_feed_forward_length"),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(bias=ALWAYS, out_bias=ALWAYS),
        Rule(LAYER_PREFIX + "self_attn.sinks", Role.ATTN_SINKS, (HEADS,), tensor=True),
        Rule(LAYER_PREFIX + "post_attention_layernorm", Role.ATTN_POST_NORM, (EMBD,)),
        Rule(LAYER_PREFIX + "mlp.router", Role.FFN_GATE_INP, (EXPERTS, EMBD), bias=ALWAYS),
        Rule(_EXPERTS + "gate_up_proj", _GATE_UP, (EXPERTS, EMBD, 2 * FF), (Transpose(), *_PAIRS), tensor=True),
        Rule(
            _EXPERTS + "gate_up_proj_bias",
            _GATE_UP,
            (EXPERTS, 2 * FF),
            (Transpose(), Regroup((-1, 2), (1, 0)), Split((FF, FF)), Transpose()),
            tensor=True,
            part="bias",
        ),
        Rule(_EXPERTS + "down_proj", Role.FFN_DOWN_EXPS, (EXPERTS, FF, EMBD), (Transpose(),), tensor=True),
        Rule(_EXPERTS + "down_proj_bias", Role.FFN_DOWN_EXPS, (EXPERTS, EMBD), tensor=True, part="bias"),
        FINAL_NORM,
        OWN_HEAD,
    ),
    fixed={
        "hidden_act": "silu", "swiglu_alpha": 1.702, "swiglu_limit": 7.0, "attention_bias": True,
    },
    implied={"layer_types": LayerPattern("sliding_attention", "full_attention", Dim(2))},
)  # fmt: skip
