"""Laguna: experts behind a first dense layer, a gate on what attention gives, windows with a rope of their own.

Sources: LagunaConfig of transformers 5.23; conversion/laguna.py of llama.cpp. Layers differ in their numbers of heads.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import EMBD, HEADS, MLP_TYPES, Dim, Is, LayerPattern, LeadingLayers, Q
from ..tables.layer_kinds import BeginsWith, HasWord, RopeIs
from ..tables.layer_rows import FirstOf, PerLayer
from ..tables.layer_words import EachLayer
from ..tables.rows import Constant, Key, LayerFlags, LeadingDense, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    FUSED_EXPERTS,
    HEAD,
    HEAD_DIM_KEYS,
    LAYER_PREFIX,
    SIZE_KEYS,
    attention,
    correction,
    experts_of_either_layout,
    gated_mlp,
    qk_norm,
    shared_expert,
)

_FIRST = Is(MLP_TYPES, "dense")
_SLIDES = HasWord("layer_types", "sliding_attention")
_PER_ELEMENT = Is("gating", "per-element")
_GATE, _MLP = LAYER_PREFIX + "self_attn.g_proj", LAYER_PREFIX + "mlp."
_SHARED = Dim("shared_expert_intermediate_size")

LAGUNA = Arch(
    name="laguna",
    classes={
        "LagunaForCausalLM": HFClass(
            "laguna",
            {
                "vocab_size": 100352, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 40,
                "usual_heads": 48, "num_attention_heads": None, "num_key_value_heads": 8, "hidden_act": "silu",
                "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "sliding_window": 512, "head_dim": 128,
                "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_experts_per_tok": 8,
                "num_local_experts": 256, "output_router_logits": False, "router_aux_loss_coef": 0.001,
                "layer_types": None, "mlp_layer_types": None, "attention_bias": False, "gating": True,
                "moe_routed_scaling_factor": 1.0, "moe_apply_router_weight_on_input": False,
                "moe_router_logit_softcapping": 0.0,
                "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
                },
            },
            {
                "num_attention_heads": "usual_heads", "num_attention_heads_per_layer": "num_attention_heads",
                "num_experts": "num_local_experts",
            },
        )
    },
    config=(
        *SIZE_KEYS[:4],
        PerLayer("num_attention_heads", "attention.head_count", each=True),
        FirstOf("usual_heads", "attention.head_count"),
        SIZE_KEYS[5],
        Rope(sliding="swa_rope_theta", dimension=True, dimension_swa=True),
        EPS_KEY,
        *EXPERT_KEYS,
        *HEAD_DIM_KEYS,
        Key("vocab_size", "vocab_size"),
        Key("sliding_window", "attention.sliding_window", optional=True, when=_SLIDES),
        LayerFlags("layer_types", "attention.sliding_window_pattern", when=_SLIDES),
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
        Constant("expert_weights_norm", True),
        Key("moe_routed_scaling_factor", "expert_weights_scale"),
        Constant("expert_gating_func", 2),
        LeadingDense(),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        Rule(_GATE, Role.ATTN_GATE, (HEADS, EMBD), when=~_PER_ELEMENT),
        Rule(_GATE, Role.ATTN_GATE, (Q, EMBD), when=_PER_ELEMENT),
        *qk_norm(),
        FFN_NORM,
        *gated_mlp(when=_FIRST),
        *experts_of_either_layout(when=~_FIRST),
        correction(_MLP + "experts.e_score_correction_bias", ~_FIRST),
        *shared_expert(at=_MLP + "shared_expert.", width=_SHARED, when=~_FIRST),
        FINAL_NORM,
        HEAD,
    ),
    fixed={
        "hidden_act": "silu", "attention_bias": False, "moe_apply_router_weight_on_input": False,
        "moe_router_logit_softcapping": 0.0,
    },
    needs={
        "gating": _PER_ELEMENT | Is("gating", True) | Is("gating", "per-head"),
        "rope_parameters": RopeIs("sliding_attention", "rope_type", "default"),
        "layer_types": ~BeginsWith("layer_types", "sliding_attention"),
    },
    implied={
        "num_attention_heads": EachLayer(Dim("usual_heads")),
        "layer_types": LayerPattern("full_attention", "full_attention", Dim(1)),
        MLP_TYPES: LeadingLayers("dense", "sparse", Dim(1)),
    },
    spellings={
        "mlp.gate.e_score_correction_bias": "mlp.experts.e_score_correction_bias",
        "mlp.shared_experts.": "mlp.shared_expert.",
    },
    layouts=FUSED_EXPERTS,
)  # fmt: skip
