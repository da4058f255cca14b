"""EXAONE 4; K-EXAONE, with experts.

Sources: Exaone4Config and ExaoneMoeConfig of transformers 5.23; conversion/exaone.py of llama.cpp.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import (
    EMBD,
    EXPERT_FF,
    LAYERS,
    MLP_TYPES,
    Dim,
    Equal,
    Follows,
    Is,
    LayerPattern,
    LeadingLayers,
    OrDefault,
)
from ..tables.rows import Computed, Constant, Key, LayerFlags, LeadingDense, Rope
from ..tables.rules import Arch, Further, HFClass, Rule
from .qwen import MTP, MTP_ROOTS
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    HEAD_DIM_KEYS,
    KEYS,
    LAYER_PREFIX,
    OWN_HEAD,
    SIZE_KEYS,
    TEXT_ROOTS,
    VISUAL,
    around,
    attention,
    correction,
    experts,
    gated_mlp,
    qk_norm,
    shared_expert,
)

_EXAONE4 = HFClass(
    "exaone4",
    {
        "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 2048, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "sliding_window": 4096, "sliding_window_pattern": 4, "bos_token_id": 0,
        "eos_token_id": 2,
    },
)  # fmt: skip

# EXAONE 4.5's, of which llama.cpp computes nothing.
_FURTHER = replace(
    MTP, hf="num_nextn_predict_layers", rules=tuple(replace(rule, ops=()) for rule in MTP.rules)
)  # fmt: skip

EXAONE4 = Arch(
    name="exaone4",
    classes={
        "Exaone4ForCausalLM": _EXAONE4,
        **around("Exaone4ForCausalLM", _EXAONE4, "Exaone4_5_ForConditionalGeneration"),
    },
    config=(
        *KEYS,
        *HEAD_DIM_KEYS,
        Key("vocab_size", "vocab_size"),
        Key("sliding_window", "attention.sliding_window", optional=True),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
        _FURTHER,
    ),
    rules=(
        EMBEDDING,
        *attention(),
        *qk_norm(),
        replace(FFN_NORM, role=Role.ATTN_POST_NORM),
        *gated_mlp(),
        Rule(LAYER_PREFIX + "post_feedforward_layernorm", Role.FFN_POST_NORM, (EMBD,)),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu"},
    # llama.cpp has windows, and layers without positions beside them, in the model of 64 layers alone
    needs={"sliding_window": ~Is("sliding_window") | Equal(LAYERS, Dim(64))},
    roots=TEXT_ROOTS | MTP_ROOTS,
    extras=VISUAL,
)  # fmt: skip

_FIRST = Is(MLP_TYPES, "dense")
_SHARED = EXPERT_FF * Dim("num_shared_experts")
_MLP = LAYER_PREFIX + "mlp."

_EXAONE_MOE = HFClass(
    "exaone_moe",
    {
        "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 2048, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "sliding_window": 4096, "sliding_window_pattern": 4, "layer_types": None,
        "mlp_layer_types": None, "first_k_dense_replace": 1, "moe_intermediate_size": 1024, "num_local_experts": 64,
        "num_experts_per_tok": 8, "output_router_logits": False, "num_shared_experts": 1, "norm_topk_prob": True,
        "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 53,
    },
    {"num_experts": "num_local_experts"},
)  # fmt: skip

_MTP = Further(
    "num_nextn_predict_layers",
    (
        Rule("mtp.pre_fc_norm_embedding", Role.NEXTN_ENORM, (EMBD,)),
        Rule("mtp.pre_fc_norm_hidden", Role.NEXTN_HNORM, (EMBD,)),
        Rule("mtp.fc", Role.NEXTN_EH_PROJ, (EMBD, 2 * EMBD)),
        Rule("mtp.norm", Role.NEXTN_SHARED_HEAD_NORM, (EMBD,)),
    ),
    at="mtp.layers.{number}.",
    sees={"layer_types": "full_attention", MLP_TYPES: "dense"},
    zero=True,
)

EXAONE_MOE = Arch(
    name="exaone-moe",
    classes={"ExaoneMoeForCausalLM": _EXAONE_MOE, "ExaoneMoEForCausalLM": _EXAONE_MOE},  # the second of older files
    config=(
        *SIZE_KEYS,
        Rope(says_none=True),
        EPS_KEY,
        *EXPERT_KEYS,
        Key("n_group", "expert_group_count"),
        Key("topk_group", "expert_group_used_count"),
        Constant("expert_gating_func", 2),
        *HEAD_DIM_KEYS,
        Key("vocab_size", "vocab_size"),
        Key("sliding_window", "attention.sliding_window"),
        LayerFlags("layer_types", "attention.sliding_window_pattern", own=True),
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("num_shared_experts", "expert_shared_count"),
        Computed("expert_shared_feed_forward_length", _SHARED),
        Key("routed_scaling_factor", "expert_weights_scale"),
        Key("norm_topk_prob", "expert_weights_norm"),
        LeadingDense(last="dense"),
        _MTP,
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        *qk_norm(),
        FFN_NORM,
        *gated_mlp(when=_FIRST),
        *experts(when=~_FIRST),
        correction(_MLP + "e_score_correction_bias", ~_FIRST),
        *shared_expert(at=_MLP + "shared_experts.", width=_SHARED, when=~_FIRST),
        FINAL_NORM,
        OWN_HEAD,
    ),
    fixed={"hidden_act": "silu"},
    needs={"layer_types": Follows("layer_types", LayerPattern("sliding_attention", "full_attention", Dim(4)))},
    implied={
        MLP_TYPES: LeadingLayers("dense", "sparse", OrDefault("first_k_dense_replace", 1)),
        "layer_types": LayerPattern("sliding_attention", "full_attention", OrDefault("sliding_window_pattern", 4)),
    },
)
