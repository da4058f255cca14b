"""Mellum 2: experts in every layer, some layers with a window.

Sources: MellumConfig of transformers 5.23; conversion/mellum.py of llama.cpp, which turns layers of both kinds with one
base, and scales only those without a window.
"""

from __future__ import annotations

from ..tables.dimensions import MLP_TYPES, Dim, Follows, LayerPattern, LeadingLayers
from ..tables.extras import LeftOut
from ..tables.layer_kinds import HasWord, RopeIs, SameRope
from ..tables.rows import Key, LayerFlags, Rope
from ..tables.rules import Arch, HFClass
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    FUSED_EXPERTS,
    HEAD_DIM_KEYS,
    OWN_HEAD,
    SIZE_KEYS,
    attention,
    experts_of_either_layout,
    qk_norm,
)

_SPARSE = LeadingLayers("sparse", "sparse", Dim(0))
_SLIDES = HasWord("layer_types", "sliding_attention")

MELLUM = Arch(
    name="mellum",
    classes={
        "MellumForCausalLM": HFClass(
            "mellum",
            {
                "vocab_size": 98304, "hidden_size": 2304, "intermediate_size": 7168, "num_hidden_layers": 28,
                "num_attention_heads": 32, "num_key_value_heads": 4, "hidden_act": "silu", "head_dim": 128,
                "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "attention_bias": False,
                "sliding_window": 1024, "moe_intermediate_size": 896, "num_experts_per_tok": 8,
                "num_local_experts": 64, "norm_topk_prob": True, "output_router_logits": False,
                "router_aux_loss_coef": 0.001, "layer_types": None, "mlp_layer_types": None, "num_mtp_layers": None,
                "mtp_layer_types": None, "mtp_mlp_layer_types": None,
                "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 500000.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                },
            },
            {"num_experts": "num_local_experts"},
        )
    },
    config=(
        *SIZE_KEYS,
        Rope(sliding="swa_rope_theta"),
        EPS_KEY,
        *EXPERT_KEYS,
        *HEAD_DIM_KEYS,
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("sliding_window", "attention.sliding_window", optional=True, when=_SLIDES),
        LayerFlags("layer_types", "attention.sliding_window_pattern", when=_SLIDES),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        *qk_norm(),
        FFN_NORM,
        *experts_of_either_layout(),
        FINAL_NORM,
        OWN_HEAD,
    ),
    fixed={"hidden_act": "silu", "attention_bias": False, "norm_topk_prob": True},
    needs={
        MLP_TYPES: Follows(MLP_TYPES, _SPARSE),
        "rope_parameters": SameRope("rope_theta") & RopeIs("sliding_attention", "rope_type", "default"),
    },
    implied={"layer_types": LayerPattern("full_attention", "full_attention", Dim(1)), MLP_TYPES: _SPARSE},
    layouts=FUSED_EXPERTS,
    extras=(LeftOut("mtp.*", "layers that predict further tokens"),),
)  # fmt: skip
