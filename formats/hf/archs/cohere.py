"""Cohere's Command-R, Command-R+, Aya (cohere) and Command-R7B, Command-A (cohere2), and those with experts.

Sources: CohereConfig, Cohere2Config and Cohere2MoeConfig of transformers 5.23; conversion/command_r.py of llama.cpp.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import (
    FF,
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    LAYERS,
    MLP_TYPES,
    Dim,
    Is,
    LayerPattern,
    LeadingLayers,
    OrDefault,
)
from ..tables.layer_kinds import HasWord, Together
from ..tables.layer_words import InTurn
from ..tables.rows import Computed, Constant, Key, LayerFlags, LeadingDense, Mapped, Rope
from ..tables.rules import LANGUAGE_MODEL, Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EXPERT_KEYS,
    FINAL_NORM,
    FUSED_EXPERTS,
    HEAD,
    HEAD_DIM_KEYS,
    LAYER_PREFIX,
    NEXTN_LAYERS,
    SIZE_KEYS,
    TEXT_ROOTS,
    TIED_HEAD,
    VISION,
    attention,
    experts_of_either_layout,
    gated_mlp,
    shared_expert,
)

_COMMON = {
    "vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
    "num_attention_heads": 64, "num_key_value_heads": None, "max_position_embeddings": 8192, "hidden_act": "silu",
    "logit_scale": 0.0625, "layer_norm_eps": 1e-5, "attention_bias": False, "tie_word_embeddings": True,
    "pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 255001,
}  # fmt: skip
# Untied only if the head is equal all the same.
_FIXED = {"hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": (True, False)}
_LOGITS = Key("logit_scale", "logit_scale")
_NORM_AND_LOGITS = (Key("layer_norm_eps", "attention.layer_norm_epsilon"), _LOGITS)
_NORMED = Is("use_qk_norm")
_DEEP = LAYERS >= 64

COMMAND_R = Arch(
    name="command-r",
    classes={
        "CohereForCausalLM": HFClass("cohere", _COMMON | {"use_qk_norm": False, "rope_theta": 500000.0}),
    },
    # max_position_embeddings is the context at the beginning of training
    config=(
        *SIZE_KEYS,
        Rope(says_none=True),
        *_NORM_AND_LOGITS,
        Computed("context_length", Dim("model_max_length"), when=Is("model_max_length")),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        Rule(LAYER_PREFIX + "self_attn.q_norm", Role.ATTN_Q_NORM, (HEADS, HEAD_DIM), when=_NORMED),
        Rule(LAYER_PREFIX + "self_attn.k_norm", Role.ATTN_K_NORM, (KV_HEADS, HEAD_DIM), when=_NORMED),
        *gated_mlp(),
        FINAL_NORM,
    ),
    fixed=_FIXED,
    # llama.cpp recognizes the models with norms of q and k by their number of layers.
    needs={"use_qk_norm": _NORMED & _DEEP | ~_NORMED & ~_DEEP},
    extras=(TIED_HEAD,),
)

_COHERE2 = HFClass("cohere2", _COMMON | {"sliding_window": 4096})

COHERE2 = Arch(
    name="cohere2",
    classes={"Cohere2ForCausalLM": _COHERE2},
    config=(
        *SIZE_KEYS,
        Rope(dimension=True, says_none=True),
        *_NORM_AND_LOGITS,
        *HEAD_DIM_KEYS,
        Key("vocab_size", "vocab_size"),
        Key("sliding_window", "attention.sliding_window"),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
    ),
    rules=(EMBEDDING, ATTN_NORM, *attention(), *gated_mlp(), FINAL_NORM),
    fixed=_FIXED,
    extras=(TIED_HEAD,),
)

# Command A Vision: transformers does not scale the logits of the class around the text model.
COHERE2_VISION = replace(
    COHERE2,
    name="cohere2_vision",
    gguf_name="cohere2",
    classes={
        "Cohere2VisionForConditionalGeneration": replace(
            _COHERE2, wraps="cohere2_vision", root=LANGUAGE_MODEL, ties=True
        )
    },
    config=tuple(Constant("logit_scale", 1.0) if row == _LOGITS else row for row in COHERE2.config),
    roots=TEXT_ROOTS,
    extras=(TIED_HEAD, *VISION),
)

_FULL, _SLIDING = "full_attention", "sliding_attention"
_FIRST = Is(MLP_TYPES, "dense")
_FIRST_FF, _N_FIRST = Dim("prefix_dense_intermediate_size"), OrDefault("first_k_dense_replace", 0)
_SHARED = Is("num_shared_experts")
_SHARED_FF = FF * Dim("num_shared_experts")
_MLP = LAYER_PREFIX + "mlp."

COHERE2_MOE = Arch(
    name="cohere2moe",
    classes={
        "Cohere2MoeForCausalLM": HFClass(
            "cohere2_moe",
            _COMMON
            | {"head_dim": 128, "sliding_window": 4096, "num_experts_per_tok": 2, "num_local_experts": 8}
            | {"output_router_logits": False, "num_shared_experts": 0, "rope_theta": 10000.0, "rope_scaling": None}
            | {"shared_expert_combination_strategy": "average", "expert_selection_fn": "softmax"}
            | {"layer_types": None, "mlp_layer_types": None, "prefix_dense_sliding_window_pattern": 1}
            | {"norm_topk_prob": True, "rms_norm_eps": None, "sliding_window_pattern": 4},
            {"num_experts": "num_local_experts"},
        )
    },
    config=(
        *(row for row in SIZE_KEYS if row.hf != "intermediate_size"),
        Key("prefix_dense_intermediate_size", "feed_forward_length"),
        Rope(says_none=True),
        Key("rms_norm_eps", "attention.layer_norm_rms_epsilon", optional=True),
        *_NORM_AND_LOGITS,
        *EXPERT_KEYS,
        Mapped("expert_selection_fn", "expert_gating_func", {"softmax": 1, "sigmoid": 2}),
        *HEAD_DIM_KEYS,
        Key("head_dim", "rope.dimension_count"),
        Key("vocab_size", "vocab_size"),
        Key("sliding_window", "attention.sliding_window"),
        LayerFlags("layer_types", "attention.sliding_window_pattern", own=True),
        Key("intermediate_size", "expert_feed_forward_length"),
        LeadingDense(),
        Key("norm_topk_prob", "expert_weights_norm"),
        Key("num_shared_experts", "expert_shared_count", optional=True, when=_SHARED),
        Computed("expert_shared_feed_forward_length", _SHARED_FF, when=_SHARED),
        replace(NEXTN_LAYERS, sees={"layer_types": _FULL, MLP_TYPES: "sparse"}),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        *gated_mlp(width=_FIRST_FF, when=_FIRST),
        *experts_of_either_layout(width=FF, when=~_FIRST),
        *shared_expert(at=_MLP + "shared_experts.", width=_SHARED_FF, when=~_FIRST & _SHARED),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu", "attention_bias": False},
    needs={
        "layer_types": HasWord("layer_types", _SLIDING),
        "norm_topk_prob": Is("norm_topk_prob") | Is("expert_selection_fn", "sigmoid"),
        "shared_expert_combination_strategy": ~_SHARED | Is("shared_expert_combination_strategy", "average"),
        # llama.cpp turns all dense layers
        "prefix_dense_sliding_window_pattern": Is("prefix_dense_sliding_window_pattern", 1)
        | ~Together({MLP_TYPES: "dense", "layer_types": _FULL}),
    },
    implied={
        "prefix_dense_intermediate_size": FF,
        "layer_types": InTurn(
            LayerPattern(_SLIDING, _FULL, OrDefault("prefix_dense_sliding_window_pattern", 1)),
            _N_FIRST,
            LayerPattern(_SLIDING, _FULL, OrDefault("sliding_window_pattern", 4)),
        ),
        MLP_TYPES: LeadingLayers("dense", "sparse", _N_FIRST),
    },
    layouts=FUSED_EXPERTS,
    extras=(TIED_HEAD,),
)
