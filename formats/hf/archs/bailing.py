"""Ling 3.0 (BailingMoeV3): layers of KDA, and in each group one of latent attention (MLA) with gates; experts.

Sources: BailingHybridConfig of transformers 5.23; conversion/bailingmoe3.py of llama.cpp. Published configs call a head
of KDA ``head_dim``, which those that transformers saves have for what turns in the other layers' heads. The limits of
experts' activations are what llama.cpp computes; transformers reads over them.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import (
    EMBD,
    EXPERT_FF,
    HEAD_DIM,
    HEADS,
    MLP_TYPES,
    VOCAB,
    Dim,
    Equal,
    Follows,
    Is,
    LayerPattern,
    LeadingLayers,
    OrDefault,
)
from ..tables.hybrid_rows import AttentionLayers
from ..tables.layer_kinds import NoOther, Unscaled
from ..tables.layer_rows import Limits
from ..tables.ops import Reshape
from ..tables.rows import Computed, Constant, Key, LeadingDense, Rope
from ..tables.rules import Arch, HFClass, Rule
from ..tables.values import Multiply, NegExp
from .kda import KDA_DIM, KDA_HEADS, LINEAR, kda_rules, only, renamed
from .mla import ATTENTION, GROUPS_FIT, MLA_KEYS, MLP
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    LAYER_PREFIX,
    NEXTN_LAYERS,
    SIZE_KEYS,
    correction,
    experts,
    gated_mlp,
    shared_expert,
)

_ONE = Dim(1)
_SAVED_BARE = Is("embedding_is_embed_tokens")  # as transformers saves a model without a head
_SHARED = EXPERT_FF * Dim("n_shared_experts")
_DENSE = Is(MLP_TYPES, "dense")
_THEIRS = {"self_attn.": "attention.", "o_proj": "dense"}
_DECAY = (NegExp(), Multiply(-1.0), Reshape((KDA_HEADS,), (KDA_HEADS, _ONE)))  # llama.cpp's has no sign
_FIRST_DENSE = LeadingLayers("dense", "sparse", Dim("first_k_dense_replace"))
_JOIN = {Role.NEXTN_ENORM, Role.NEXTN_HNORM, Role.NEXTN_EH_PROJ}
_FURTHER = replace(
    NEXTN_LAYERS,
    hf="num_mtp_layers",
    rules=(
        *(rule for rule in NEXTN_LAYERS.rules if rule.role in _JOIN),
        Rule(LAYER_PREFIX + "final_layernorm", Role.LAYER_OUT_NORM, (EMBD,)),
    ),
    sees={"layer_types": "full_attention", MLP_TYPES: "sparse"},
)
_LING = HFClass(
    "bailing_hybrid",
    {"vocab_size": 157184, "hidden_size": 2560, "intermediate_size": 6144, "moe_intermediate_size": 768}
    | {"num_hidden_layers": 42, "num_attention_heads": 32, "num_key_value_heads": 32, "n_shared_experts": 1}
    | {"output_router_logits": False, "routed_scaling_factor": 2.5, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    | {"v_head_dim": 128, "qk_nope_head_dim": 128, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8}
    | {"first_k_dense_replace": 2, "norm_topk_prob": True, "hidden_act": "silu", "max_position_embeddings": 262144}
    | {"rms_norm_eps": 1e-6, "pad_token_id": 156892, "eos_token_id": 156895, "pretraining_tp": 1}
    | {"attention_bias": False, "num_mtp_layers": 1, "num_local_experts": 512, "rope_theta": 6000000.0}
    | {"head_dim": 128, "short_conv_kernel_size": 4, "layer_group_size": 6, "kda_safe_gate": True}
    | {"kda_lower_bound": -5.0, "layer_types": None, "mlp_layer_types": None, "mtp_loss_scaling_factor": 0.0},
    {
        "model_max_length": "max_position_embeddings",
        "moe_renormalize": "norm_topk_prob",
        "num_expert_group": "n_group",
        "num_experts": "num_local_experts",
        "num_experts_per_token": "num_experts_per_tok",
        "num_shared_experts": "n_shared_experts",
        "num_nextn_predict_layers": "num_mtp_layers",
    },
)

BAILINGMOE3 = Arch(
    name="bailingmoe3",
    classes={"BailingHybridForCausalLM": _LING, "BailingMoeV3ForCausalLM": _LING},
    config=(
        *(key for key in SIZE_KEYS if key.hf != "num_key_value_heads"),
        AttentionLayers("linear_attention", heads=_ONE),
        Rope(),
        *EXPERT_KEYS,
        Key("n_group", "expert_group_count"),
        Key("topk_group", "expert_group_used_count"),
        Constant("expert_gating_func", 2),
        Key("short_conv_kernel_size", "ssm.conv_kernel"),
        Key("linear_conv_kernel_dim", "ssm.conv_kernel"),
        Key("linear_head_dim", "kda.head_dim"),
        Key("kda_safe_gate", "kda.safe_gate"),
        Key("kda_lower_bound", "kda.gate_lower_bound"),
        *MLA_KEYS,
        Computed("attention.value_length", KDA_DIM),
        Key("moe_intermediate_size", "expert_feed_forward_length"),
        Computed("expert_shared_feed_forward_length", _SHARED),
        Key("n_shared_experts", "expert_shared_count"),
        Key("first_k_dense_replace", "leading_dense_block_count"),
        LeadingDense(),
        Key("routed_scaling_factor", "expert_weights_scale"),
        Key("norm_topk_prob", "expert_weights_norm"),
        Limits("expert_swiglu_limit_list", "swiglu_clamp_exp"),
        Limits("share_expert_swiglu_limit_list", "swiglu_clamp_shexp"),
        _FURTHER,
    ),
    rules=(
        Rule("model.word_embeddings", Role.TOKEN_EMBD, (VOCAB, EMBD), when=~_SAVED_BARE),
        replace(EMBEDDING, when=_SAVED_BARE),
        ATTN_NORM,
        *renamed(kda_rules(*_DECAY, shape=(KDA_HEADS,), low_rank=False), _THEIRS),
        *renamed(only(~LINEAR, ATTENTION), _THEIRS),
        Rule(LAYER_PREFIX + "attention.g_proj", Role.ATTN_GATE, (HEADS, EMBD), when=~LINEAR),
        FFN_NORM,
        *gated_mlp(when=_DENSE),
        *experts(when=~_DENSE),
        correction(MLP + "gate.expert_bias", ~_DENSE),
        *shared_expert(at=MLP + "shared_experts.", width=_SHARED, when=~_DENSE),
        FINAL_NORM,
        HEAD,
    ),
    fixed={"hidden_act": "silu", "attention_bias": False, "kda_safe_gate": True}
    | {"tie_word_embeddings": False},  # transformers never ties them
    needs={
        **GROUPS_FIT,
        "rope_parameters": Unscaled(),
        "q_lora_rank": ~Is("q_lora_rank"),
        MLP_TYPES: Follows(MLP_TYPES, _FIRST_DENSE),
        "linear_num_heads": Equal(KDA_HEADS, HEADS),
        # keys of published configs
        "no_kda_lora": NoOther("no_kda_lora", True),
        "gated_attention_proj_granularity_type": NoOther("gated_attention_proj_granularity_type", "head_wise"),
        "moe_shared_expert_intermediate_size": NoOther("moe_shared_expert_intermediate_size", _SHARED),
        "score_function": NoOther("score_function", "sigmoid"),
    },
    implied={
        "layer_types": LayerPattern("linear_attention", "full_attention", OrDefault("layer_group_size", 6)),
        MLP_TYPES: _FIRST_DENSE,
        "linear_head_dim": HEAD_DIM,
        "linear_num_heads": HEADS,
        "linear_conv_kernel_dim": Dim("short_conv_kernel_size"),
    },
    layouts={"embedding_is_embed_tokens": "*embed_tokens.weight"},
)
