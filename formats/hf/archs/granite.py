"""Granite 3 and 3.x, dense and with experts; Granite 4, which alternates Mamba 2 and attention; Granite with windows.

Sources: GraniteConfig, GraniteMoeConfig, GraniteMoeSharedConfig, GraniteMoeHybridConfig, GraniteSWAConfig and
GraniteMoeSWAConfig of transformers 5.23; conversion/granite.py of llama.cpp. llama.cpp turns neighbouring pairs, as in
Llama.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import ALWAYS, EMBD, EXPERTS, FF, HEAD_DIM, HEADS, Condition, Dim, Equal, Is, LayerPattern
from ..tables.hybrid_rows import AttentionLayers
from ..tables.layer_kinds import HasWord
from ..tables.layer_rows import LayerThetas
from ..tables.ops import Split
from ..tables.rows import Computed, Key, LayerFlags, Mapped
from ..tables.rules import Arch, HFClass, Rule
from .mamba import NO_LIMIT, mamba2
from .shared import (
    ATTN_NORM,
    EMBEDDING,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    HEAD,
    KEYS,
    LAYER_PREFIX,
    SIZE_KEYS,
    TEXT_ROOTS,
    VISION,
    around,
    attention,
    beside,
    gated_mlp,
)

_COMMON = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": 2, "attention_bias": False,
    "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0,
}  # fmt: skip
_EXPERTS = {
    "num_local_experts": 8, "num_experts_per_tok": 2, "output_router_logits": False, "router_aux_loss_coef": 0.001,
}  # fmt: skip
_SCALES = (
    Key("vocab_size", "vocab_size"),
    Key("head_dim", "rope.dimension_count"),
    Key("attention_multiplier", "attention.scale"),
    Key("embedding_multiplier", "embedding_scale"),
    Key("residual_multiplier", "residual_scale"),
    Key("logits_scaling", "logit_scale"),
)
_FIXED = {"hidden_act": "silu"}
_ATTENTION = attention(permute=True, bias="attention_bias", out_bias="attention_bias")
_SHARED_FF = Dim("shared_intermediate_size")
_SHARED = Is("shared_intermediate_size")

_GRANITE = HFClass("granite", _COMMON | {"mlp_bias": False})

GRANITE = Arch(
    name="granite",
    classes={
        "GraniteForCausalLM": _GRANITE,
        **around("GraniteForCausalLM", _GRANITE, "GraniteSpeechForConditionalGeneration", ties=True),
        **around("GraniteForCausalLM", _GRANITE, "LlavaNextForConditionalGeneration/granite"),  # Granite Vision
    },
    config=(*KEYS, *_SCALES),
    rules=(EMBEDDING, ATTN_NORM, *_ATTENTION, FFN_NORM, *gated_mlp(bias="mlp_bias"), FINAL_NORM, HEAD),
    fixed=_FIXED,
    roots=TEXT_ROOTS,
    extras=(
        *VISION,
        *beside("image_newline", "vision tower"),
        *beside("encoder.*", "audio tower"),
        *beside("projector.*", "projector"),
    ),
)

_MOE = LAYER_PREFIX + "block_sparse_moe."
_ROUTED = Is("num_local_experts")


def _experts(when: Condition = ALWAYS) -> tuple[Rule, ...]:
    """The router, and experts stacked in one tensor for each layer."""
    return (
        Rule(_MOE + "router.layer", Role.FFN_GATE_INP, (EXPERTS, EMBD), when=when),
        Rule(
            _MOE + "input_linear",
            (Role.FFN_GATE_EXPS, Role.FFN_UP_EXPS),
            (EXPERTS, 2 * FF, EMBD),
            (Split((FF, FF), axis=1),),
            when=when,
        ),
        Rule(_MOE + "output_linear", Role.FFN_DOWN_EXPS, (EXPERTS, EMBD, FF), when=when),
    )


def _shared(gate: Role, up: Role, down: Role, when: Condition) -> tuple[Rule, ...]:
    """The expert that every token goes to."""
    halves = (Split((_SHARED_FF, _SHARED_FF)),)
    at = LAYER_PREFIX + "shared_mlp."
    return (
        Rule(at + "input_linear", (gate, up), (2 * _SHARED_FF, EMBD), halves, when=when),
        Rule(at + "output_linear", down, (EMBD, _SHARED_FF), when=when),
    )


_SHARED_EXPERT = (Role.FFN_GATE_SHEXP, Role.FFN_UP_SHEXP, Role.FFN_DOWN_SHEXP)

GRANITE_MOE = Arch(
    name="granitemoe",
    classes={
        "GraniteMoeForCausalLM": HFClass("granitemoe", _COMMON | _EXPERTS),
        "GraniteMoeSharedForCausalLM": HFClass(
            "granitemoeshared", _COMMON | _EXPERTS | {"shared_intermediate_size": 0}
        ),
    },
    config=(
        *KEYS,
        *EXPERT_KEYS,
        *_SCALES,
        Key("shared_intermediate_size", "expert_shared_feed_forward_length", optional=True),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *_ATTENTION,
        FFN_NORM,
        *_experts(),
        *_shared(*_SHARED_EXPERT, when=_SHARED),
        FINAL_NORM,
        HEAD,
    ),
    fixed=_FIXED,
)

_MAMBA = Is("layer_types", "linear_attention") | Is("layer_types", "mamba")

GRANITE_HYBRID = Arch(
    name="granitehybrid",
    classes={
        "GraniteMoeHybridForCausalLM": HFClass(
            "granitemoehybrid",
            _COMMON
            | _EXPERTS
            | {"shared_intermediate_size": 1024, "position_embedding_type": None, "mamba_n_heads": 128}
            | {"mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_head": "auto", "mamba_d_conv": 4, "mamba_expand": 2}
            | {"mamba_chunk_size": 256, "mamba_conv_bias": True, "mamba_proj_bias": False},
        )
    },
    config=(
        *(key for key in KEYS if key not in SIZE_KEYS[3:]),
        Key("intermediate_size", "feed_forward_length", when=_ROUTED),
        Key("num_attention_heads", "attention.head_count"),
        AttentionLayers("linear_attention"),
        Key("num_local_experts", "expert_count"),
        Key("num_experts_per_tok", "expert_used_count", optional=True),
        *_SCALES,
        Key("shared_intermediate_size", "expert_shared_feed_forward_length", optional=True),
        Key("shared_intermediate_size", "feed_forward_length", when=~_ROUTED),
        Key("mamba_d_conv", "ssm.conv_kernel"),
        Key("mamba_d_state", "ssm.state_size"),
        Key("mamba_n_groups", "ssm.group_count"),
        Computed("ssm.inner_size", 2 * EMBD),
        Key("mamba_n_heads", "ssm.time_step_rank"),
        Mapped("position_embedding_type", "rope.scaling.finetuned", {None: False, "nope": False, "rope": True}),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(permute=True, bias="attention_bias", out_bias="attention_bias", when=~_MAMBA),
        *mamba2(
            LAYER_PREFIX + "mamba.",
            inner=2 * EMBD,
            heads=Dim("mamba_n_heads"),
            groups=Dim("mamba_n_groups"),
            state=Dim("mamba_d_state"),
            kernel=Dim("mamba_d_conv"),
            when=_MAMBA,
            bias=Is("mamba_conv_bias"),
        ),
        FFN_NORM,
        *_experts(when=_ROUTED),
        *_shared(*_SHARED_EXPERT, when=_ROUTED & _SHARED),
        *_shared(Role.FFN_GATE, Role.FFN_UP, Role.FFN_DOWN, when=~_ROUTED),
        FINAL_NORM,
        HEAD,
    ),
    # llama.cpp normalizes each group, transformers all groups together
    fixed=_FIXED | {"mamba_expand": 2, "mamba_n_groups": 1, "mamba_proj_bias": False, "time_step_limit": NO_LIMIT},
)

_SWA = {"sliding_window": 128, "layer_types": None, "layer_rope_theta": None}
_FUSED = _MOE + "experts."

GRANITE_SWA = Arch(
    name="granite_swa",
    classes={
        "GraniteSWAForCausalLM": HFClass(
            "granite_swa",
            _COMMON
            | {"vocab_size": 100352, "hidden_size": 2560, "intermediate_size": 8192, "num_hidden_layers": 24}
            | {"num_attention_heads": 20, "num_key_value_heads": 4, "max_position_embeddings": 8192}
            | {"rms_norm_eps": 1e-5, "bos_token_id": 100257, "eos_token_id": 100257, "tie_word_embeddings": True}
            | {"mlp_bias": False, **_SWA},
        ),
        "GraniteMoeSWAForCausalLM": HFClass(
            "granitemoe_swa", _COMMON | _EXPERTS | {"shared_intermediate_size": 0, **_SWA}
        ),
    },
    config=(
        *KEYS,
        LayerThetas(),
        Key("num_local_experts", "expert_count", optional=True),
        Key("num_experts_per_tok", "expert_used_count", optional=True),
        *_SCALES,
        Key("shared_intermediate_size", "expert_shared_feed_forward_length", optional=True, when=_SHARED),
        Key("sliding_window", "attention.sliding_window"),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
    ),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *_ATTENTION,
        Rule(LAYER_PREFIX + "self_attn.sinks", Role.ATTN_SINKS, (HEADS,), tensor=True),
        FFN_NORM,
        *gated_mlp(bias="mlp_bias", when=~_ROUTED),
        Rule(_MOE + "router", Role.FFN_GATE_INP, (EXPERTS, EMBD), when=_ROUTED),
        Rule(_FUSED + "gate_up_proj", Role.FFN_GATE_UP_EXPS, (EXPERTS, 2 * FF, EMBD), when=_ROUTED, tensor=True),
        Rule(_FUSED + "down_proj", Role.FFN_DOWN_EXPS, (EXPERTS, EMBD, FF), when=_ROUTED, tensor=True),
        Rule(
            LAYER_PREFIX + "shared_mlp.input_linear", Role.FFN_UP_SHEXP, (2 * _SHARED_FF, EMBD),
            when=_ROUTED & _SHARED,
        ),
        Rule(
            LAYER_PREFIX + "shared_mlp.output_linear", Role.FFN_DOWN_SHEXP, (EMBD, _SHARED_FF), when=_ROUTED & _SHARED
        ),
        FINAL_NORM,
        HEAD,
    ),
    fixed=_FIXED,
    needs={"head_dim": Equal(HEAD_DIM, EMBD // HEADS), "layer_types": HasWord("layer_types", "sliding_attention")},
    implied={"layer_types": LayerPattern("sliding_attention", "full_attention", Dim(4), first=True)},
    spellings={  # as in Granite 3
        "block_sparse_moe.router.layer.": "block_sparse_moe.router.",
        "block_sparse_moe.input_linear.weight": "block_sparse_moe.experts.gate_up_proj",
        "block_sparse_moe.output_linear.weight": "block_sparse_moe.experts.down_proj",
    },
)  # fmt: skip
