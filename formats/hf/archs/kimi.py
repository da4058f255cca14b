"""Kimi-Linear: layers of KDA, and every few layers one of latent attention (MLA) without positions; experts.

Sources: KimiLinearConfig of transformers 5.23; conversion/kimi_linear.py of llama.cpp. Published configs have KDA's
sizes and the kinds of layers in ``linear_attn_config``; in their weights the dense layers' MLP is called ``mlp``, in
those that transformers 5 saves it is called as the experts.
"""

from __future__ import annotations

from ..tables.dimensions import EXPERT_FF, HEADS, MLP_TYPES, Dim, Equal, Follows, Is, LeadingLayers, OrDefault
from ..tables.hybrid_rows import AttentionLayers
from ..tables.layer_kinds import NoOther
from ..tables.layer_words import ListedLayers
from ..tables.rows import Computed, Constant, Key, LeadingDense
from ..tables.rules import Arch, HFClass
from ..tables.values import NegExp
from .kda import KDA_HEADS, LINEAR, kda_rules, only
from .mla import ATTENTION, MLA_KEYS, ROPE
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    FURTHER_LAYERS,
    LAYER_PREFIX,
    OWN_HEAD,
    SIZE_KEYS,
    correction,
    experts,
    gated_mlp,
    shared_expert,
)

_MOE = LAYER_PREFIX + "block_sparse_moe."
_DENSE, _SAVED = Is(MLP_TYPES, "dense"), Is("dense_is_named_sparse")
_ONE = Dim(1)
_PART = "linear_attn_config"
_KINDS = ListedLayers({"linear_attention": f"{_PART}.kda_layers", "full_attention": f"{_PART}.full_attn_layers"})
_NAMES = {
    "model_max_length": "max_position_embeddings",
    "moe_renormalize": "norm_topk_prob",
    "num_expert_group": "n_group",
    "num_experts": "num_local_experts",
    "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
    f"{_PART}.head_dim": "linear_head_dim",
    f"{_PART}.num_heads": "linear_num_heads",
    f"{_PART}.short_conv_kernel_size": "linear_conv_kernel_dim",
    # what transformers 5 calls them, and so what is written
    **{name: name for name in ("linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim")},
}

KIMI_LINEAR = Arch(
    name="kimi-linear",
    classes={
        "KimiLinearForCausalLM": HFClass(
            "kimi_linear",
            {"vocab_size": 163840, "hidden_size": 2304, "intermediate_size": 9216, "moe_intermediate_size": 1024}
            | {"num_hidden_layers": 27, "num_attention_heads": 32, "num_key_value_heads": 32, "n_shared_experts": 1}
            | {"output_router_logits": False, "routed_scaling_factor": 2.446, "kv_lora_rank": 512, "q_lora_rank": None}
            | {"qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128, "n_group": 1, "topk_group": 1}
            | {"num_experts_per_tok": 8, "norm_topk_prob": True, "hidden_act": "silu", "rms_norm_eps": 1e-5}
            | {"max_position_embeddings": 1048576, "pad_token_id": 163839, "bos_token_id": 163584}
            | {"eos_token_id": 163586, "pretraining_tp": 1, "attention_bias": False, "num_local_experts": 256}
            | {"mlp_layer_types": None, "layer_types": None, "linear_head_dim": 128, "linear_num_heads": 32}
            | {"linear_conv_kernel_dim": 4},
            _NAMES,
            parts=(_PART,),
        )
    },
    config=(
        *(key for key in SIZE_KEYS if key.hf != "num_key_value_heads"),
        AttentionLayers("linear_attention", heads=_ONE),
        Key("rope_theta", "rope.freq_base", optional=True),  # of no use: nothing turns
        *EXPERT_KEYS,
        Key("n_group", "expert_group_count", when=Dim("n_group") >= 2),
        Key("topk_group", "expert_group_used_count"),
        Key("linear_conv_kernel_dim", "ssm.conv_kernel"),
        Key("linear_head_dim", "kda.head_dim"),
        *MLA_KEYS,
        Computed("attention.value_length", ROPE),
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Key("n_shared_experts", "expert_shared_count"),
        LeadingDense(),
        Key("routed_scaling_factor", "expert_weights_scale"),
        Constant("expert_gating_func", 2),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *kda_rules(NegExp(), shape=(_ONE, _ONE, KDA_HEADS, _ONE)),
        *only(~LINEAR, ATTENTION),
        FFN_NORM,
        *gated_mlp(when=_DENSE & ~_SAVED),
        *gated_mlp(at=_MOE, when=_DENSE & _SAVED),
        *experts(at=_MOE, names=("w1", "w3", "w2"), when=~_DENSE),
        correction(_MOE + "gate.e_score_correction_bias", ~_DENSE),
        *shared_expert(at=_MOE + "shared_experts.", width=EXPERT_FF * Dim("n_shared_experts"), when=~_DENSE),
        FINAL_NORM,
        OWN_HEAD,
    ),
    fixed={"hidden_act": "silu", "attention_bias": False, "norm_topk_prob": True}
    | {"tie_word_embeddings": False},  # transformers never ties them
    needs={
        "layer_types": Follows("layer_types", _KINDS),
        "linear_num_heads": Equal(KDA_HEADS, HEADS),
        # keys of published configs
        "mla_use_nope": NoOther("mla_use_nope", True),
        "moe_layer_freq": NoOther("moe_layer_freq", 1),
        "moe_router_activation_func": NoOther("moe_router_activation_func", "sigmoid"),
    },
    implied={
        MLP_TYPES: LeadingLayers("dense", "sparse", OrDefault("first_k_dense_replace", 1)),
        "layer_types": _KINDS,
        "head_dim": ROPE,
    },
    layouts={"dense_is_named_sparse": "*.block_sparse_moe.down_proj.weight"},
    extras=(FURTHER_LAYERS,),
)
