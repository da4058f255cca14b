"""MiMo V2: layers with a window have twice the key/value heads and sinks, values are narrower than keys.

Sources: MiMoV2FlashConfig of transformers 5.23; conversion/mimo.py of llama.cpp. Published configs say the
layers' kinds in numbers.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import (
    EMBD,
    HEAD_DIM,
    HEADS,
    KV,
    KV_HEADS,
    MLP_TYPES,
    Dim,
    Follows,
    Is,
    LayerOverrides,
    LayerPattern,
    LeadingLayers,
    Q,
)
from ..tables.extras import LeftOut
from ..tables.layer_kinds import HasWord, NoOther, RopeIs, SameRope
from ..tables.layer_words import WordsFrom
from ..tables.rows import Alternating, Computed, Constant, Key, LayerFlags, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    FUSED_EXPERTS,
    LAYER_PREFIX,
    OWN_HEAD,
    SIZE_KEYS,
    correction,
    experts_of_either_layout,
    gated_mlp,
)

_FULL, _SLIDING = "full_attention", "sliding_attention"
_ATTN = LAYER_PREFIX + "self_attn."
_DENSE = Is(MLP_TYPES, "dense")
_V = Dim("v_head_dim")
_PREVIOUS = Is("sliding_window_size")  # without the token itself
_KINDS = WordsFrom({"hybrid_layer_pattern": {0: _FULL, 1: _SLIDING}})
_MLPS = WordsFrom({"moe_layer_freq": {0: "dense", 1: "sparse"}})
# What published configs say of layers with a window, and of the experts.
_SAME = {
    "swa_num_attention_heads": HEADS, "swa_head_dim": HEAD_DIM, "swa_v_head_dim": _V, "swa_num_key_value_heads":
    2 * KV_HEADS, "add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False, "scoring_func": "sigmoid",
    "topk_method": "noaux_tc", "n_shared_experts": 0,
}  # fmt: skip

MIMO2 = Arch(
    name="mimo2",
    classes={
        "MiMoV2FlashForCausalLM": HFClass(
            "mimo_v2_flash",
            {
                "vocab_size": 152576, "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 48,
                "num_attention_heads": 64, "num_key_value_heads": 4, "hidden_act": "silu", "rms_norm_eps": 1e-5,
                "max_position_embeddings": 131072, "attention_bias": False, "moe_intermediate_size": 2048,
                "num_experts_per_tok": 8, "output_router_logits": False, "num_local_experts": 256,
                "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "head_dim": 192,
                "v_head_dim": 128, "sliding_window": 129, "layer_types": None, "mlp_layer_types": None,
                "attention_value_scale": 0.707, "bos_token_id": 1,
                "rope_parameters": {
                    kind: {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 0.334}
                    for kind, theta in ((_FULL, 5_000_000.0), (_SLIDING, 10_000.0))
                },
            },
            {
                "n_routed_experts": "num_local_experts", "layernorm_epsilon": "rms_norm_eps",
                "rms_norm_eps": "rms_norm_eps",
            },
        )
    },
    config=(
        *SIZE_KEYS[:5],
        Alternating("num_key_value_heads", "attention.head_count_kv", "", "swa_num_key_value_heads", _SLIDING),
        Rope(sliding="swa_rope_theta", dimension=True),
        EPS_KEY,
        *EXPERT_KEYS,
        Key("n_group", "expert_group_count"),
        Key("topk_group", "expert_group_used_count"),
        Constant("expert_gating_func", 2),
        Key("head_dim", "attention.key_length"),
        Key("v_head_dim", "attention.value_length"),
        Key("sliding_window", "attention.sliding_window", when=~_PREVIOUS),
        Computed("attention.sliding_window", Dim("sliding_window_size") + 1, when=_PREVIOUS),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("attention_value_scale", "attention.value_scale", optional=True),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        Rule(_ATTN + "q_proj", Role.ATTN_Q, (Q, EMBD)),
        Rule(_ATTN + "k_proj", Role.ATTN_K, (KV, EMBD)),
        Rule(_ATTN + "v_proj", Role.ATTN_V, (KV_HEADS * _V, EMBD)),
        Rule(_ATTN + "o_proj", Role.ATTN_OUTPUT, (EMBD, HEADS * _V)),
        Rule(_ATTN + "attention_sink_bias", Role.ATTN_SINKS, (HEADS,), when=Is("layer_types", _SLIDING), tensor=True),
        FFN_NORM,
        *gated_mlp(when=_DENSE),
        *experts_of_either_layout(when=~_DENSE),
        correction(LAYER_PREFIX + "mlp.gate.e_score_correction_bias", ~_DENSE),
        FINAL_NORM,
        OWN_HEAD,
    ),
    fixed={
        "hidden_act": "silu", "attention_bias": False, "norm_topk_prob": True, "routed_scaling_factor": (1.0, None),
    },
    needs={
        "layer_types": Follows("layer_types", _KINDS) & HasWord("layer_types", _SLIDING),
        MLP_TYPES: Follows(MLP_TYPES, _MLPS),
        "rope_parameters": SameRope("partial_rotary_factor")
        & RopeIs(_SLIDING, "rope_type", "default")
        & RopeIs(_FULL, "rope_type", "default"),
        **{key: NoOther(key, value) for key, value in _SAME.items()},
    },
    implied={
        "layer_types": replace(
            _KINDS, otherwise=LeadingLayers(_FULL, LayerPattern(_SLIDING, _FULL, Dim(6)), Dim(1))
        ),
        MLP_TYPES: replace(_MLPS, otherwise=LeadingLayers("dense", "sparse", Dim(1))),
        "swa_num_key_value_heads": 2 * KV_HEADS,
        "per_layer_config": LayerOverrides(_SLIDING, {"num_key_value_heads": "swa_num_key_value_heads"}),
    },
    spellings={"self_attn.sinks": "self_attn.attention_sink_bias"},
    layouts=FUSED_EXPERTS,
    extras=(LeftOut("model.mtp.*", "layers that predict further tokens"),),
)  # fmt: skip
