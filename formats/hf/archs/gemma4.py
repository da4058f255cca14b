"""Gemma 4, text: dense, with experts, and with an input of its own for each layer (E2B, E4B); Unified (12B).

Sources: Gemma4TextConfig and Gemma4UnifiedTextConfig of transformers 5.23; conversion/gemma.py of llama.cpp.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import (
    EMBD,
    EXPERT_FF,
    EXPERTS,
    FF,
    HEAD_DIM,
    KV,
    LAYER_INDEX,
    LAYERS,
    VOCAB,
    Condition,
    Dim,
    If,
    Is,
    LayerOverrides,
    LayerPattern,
    Q,
)
from ..tables.extras import LeftOut
from ..tables.layer_kinds import AllAmongFirst, EndsWith
from ..tables.layer_rows import SizeOfLayer
from ..tables.rows import Alternating, Key, LayerFlags, Rope
from ..tables.rules import Arch, HFClass, Rule
from .shared import EMBEDDING, EPS_KEY, FINAL_NORM, HEAD, LAYER_PREFIX, TEXT_ROOTS, TIED_HEAD, VISION, gated_mlp

_INPUT = Dim("hidden_size_per_layer_input")
_OWN_INPUT, _EXPERTS = Is("hidden_size_per_layer_input"), Is("enable_moe_block")
_OWN_KV = LAYERS - Dim("num_kv_shared_layers") > LAYER_INDEX
_HAS_V = ~(Is("attention_k_eq_v") & Is("layer_types", "full_attention"))
_ATTN = LAYER_PREFIX + "self_attn."
_FF = If(Is("use_double_wide_mlp") & ~_OWN_KV, 2 * FF, FF)

_COMMON = {
    "vocab_size": 262144, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "sliding_window": 512, "layer_types": None,
    "final_logit_softcapping": None, "attention_k_eq_v": False, "num_kv_shared_layers": 0, "use_double_wide_mlp": False,
    "use_bidirectional_attention": None,
}  # fmt: skip
_TEXT = HFClass(
    "gemma4_text",
    _COMMON
    | {"vocab_size_per_layer_input": 262144, "hidden_size_per_layer_input": 256, "enable_moe_block": False}
    | {"num_local_experts": None, "num_experts_per_tok": None, "moe_intermediate_size": None},
    names={"num_experts": "num_local_experts", "top_k_experts": "num_experts_per_tok"},
)
_UNIFIED = HFClass(
    "gemma4_unified_text",
    _COMMON
    | {"max_position_embeddings": 262144, "sliding_window": 1024, "use_bidirectional_attention": "vision"},
)  # fmt: skip


def _norm(hf: str, role: Role, when: Condition) -> Rule:
    return Rule(LAYER_PREFIX + hf, role, (EMBD,), when=when)


_OWN = (
    Rule(_ATTN + "k_proj", Role.ATTN_K, (KV, EMBD), when=_OWN_KV),
    Rule(_ATTN + "v_proj", Role.ATTN_V, (KV, EMBD), when=_OWN_KV & _HAS_V),
    Rule(_ATTN + "k_norm", Role.ATTN_K_NORM, (HEAD_DIM,), when=_OWN_KV),
)
# Checkpoints as they are published have them in all layers. Where keys are shared, nothing reads them.
_KEYS_AND_VALUES = (*_OWN, *(replace(rule, when=~_OWN_KV, optional=True) for rule in _OWN))

GEMMA4 = Arch(
    name="gemma4",
    classes={
        "Gemma4ForCausalLM": _TEXT,
        "Gemma4ForConditionalGeneration": replace(_TEXT, text_of="Gemma4ForCausalLM"),
        "Gemma4UnifiedForCausalLM": _UNIFIED,
        "Gemma4UnifiedForConditionalGeneration": replace(_UNIFIED, text_of="Gemma4UnifiedForCausalLM"),
    },
    config=(
        Key("num_hidden_layers", "block_count"),
        Key("max_position_embeddings", "context_length"),
        Key("hidden_size", "embedding_length"),
        SizeOfLayer("intermediate_size", "feed_forward_length", _FF, flag="use_double_wide_mlp"),
        Key("num_attention_heads", "attention.head_count"),
        Alternating("num_key_value_heads", "attention.head_count_kv", "", "num_global_key_value_heads"),
        Rope(sliding="rope_local_base_freq"),
        EPS_KEY,
        Key("num_local_experts", "expert_count", optional=True),
        Key("num_experts_per_tok", "expert_used_count", optional=True),
        Key("moe_intermediate_size", "expert_feed_forward_length", optional=True),
        Key("final_logit_softcapping", "final_logit_softcapping", optional=True),
        Key("sliding_window", "attention.sliding_window"),
        Key("num_kv_shared_layers", "attention.shared_kv_layers"),
        Key("hidden_size_per_layer_input", "embedding_length_per_layer_input"),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
        *(
            Alternating("head_dim", f"{what}", f"{what}_swa", "global_head_dim")
            for what in ("attention.key_length", "attention.value_length", "rope.dimension_count")
        ),
    ),
    rules=(
        EMBEDDING,
        Rule(
            "model.embed_tokens_per_layer", Role.PER_LAYER_TOKEN_EMBD, (VOCAB, LAYERS * _INPUT), when=_OWN_INPUT
        ),
        Rule("model.per_layer_model_projection", Role.PER_LAYER_MODEL_PROJ, (LAYERS * _INPUT, EMBD), when=_OWN_INPUT),
        Rule("model.per_layer_projection_norm", Role.PER_LAYER_PROJ_NORM, (_INPUT,), when=_OWN_INPUT),
        Rule(LAYER_PREFIX + "input_layernorm", Role.ATTN_NORM, (EMBD,)),
        Rule(_ATTN + "q_proj", Role.ATTN_Q, (Q, EMBD)),
        *_KEYS_AND_VALUES,
        Rule(_ATTN + "o_proj", Role.ATTN_OUTPUT, (EMBD, Q)),
        Rule(_ATTN + "q_norm", Role.ATTN_Q_NORM, (HEAD_DIM,)),
        Rule(LAYER_PREFIX + "post_attention_layernorm", Role.ATTN_POST_NORM, (EMBD,)),
        Rule(LAYER_PREFIX + "pre_feedforward_layernorm", Role.FFN_NORM, (EMBD,)),
        *gated_mlp(width=_FF),
        Rule(LAYER_PREFIX + "post_feedforward_layernorm", Role.FFN_POST_NORM, (EMBD,)),
        Rule(LAYER_PREFIX + "router.proj", Role.FFN_GATE_INP, (EXPERTS, EMBD), when=_EXPERTS),
        Rule(LAYER_PREFIX + "router.scale", Role.FFN_GATE_INP, (EMBD,), when=_EXPERTS, tensor=True, part="scale"),
        Rule(
            LAYER_PREFIX + "router.per_expert_scale", Role.FFN_DOWN_EXPS, (EXPERTS,), when=_EXPERTS, tensor=True,
            part="scale",
        ),
        Rule(
            LAYER_PREFIX + "experts.gate_up_proj", Role.FFN_GATE_UP_EXPS, (EXPERTS, 2 * EXPERT_FF, EMBD), when=_EXPERTS,
            tensor=True,
        ),
        Rule(
            LAYER_PREFIX + "experts.down_proj", Role.FFN_DOWN_EXPS, (EXPERTS, EMBD, EXPERT_FF), when=_EXPERTS,
            tensor=True,
        ),
        _norm("post_feedforward_layernorm_1", Role.FFN_POST_NORM_1, _EXPERTS),
        _norm("pre_feedforward_layernorm_2", Role.FFN_PRE_NORM_2, _EXPERTS),
        _norm("post_feedforward_layernorm_2", Role.FFN_POST_NORM_2, _EXPERTS),
        Rule(LAYER_PREFIX + "per_layer_input_gate", Role.PER_LAYER_INP_GATE, (_INPUT, EMBD), when=_OWN_INPUT),
        Rule(LAYER_PREFIX + "per_layer_projection", Role.PER_LAYER_PROJ, (EMBD, _INPUT), when=_OWN_INPUT),
        _norm("post_per_layer_input_norm", Role.PER_LAYER_POST_NORM, _OWN_INPUT),
        Rule(LAYER_PREFIX + "layer_scalar", Role.LAYER_OUT_SCALE, (Dim(1),), tensor=True),
        FINAL_NORM,
        HEAD,
    ),
    fixed={
        "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False,
        "use_bidirectional_attention": (None, "vision"),
    },
    needs={
        "layer_types": EndsWith("layer_types", "full_attention"),
        "num_kv_shared_layers": AllAmongFirst("layer_types", LAYERS - Dim("num_kv_shared_layers")),
    },
    implied={
        "layer_types": LayerPattern("sliding_attention", "full_attention", Dim(6)),
        "global_head_dim": Dim(512),
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": Dim(0),
        "per_layer_config": LayerOverrides(
            "full_attention", {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
        ),
    },
    roots=TEXT_ROOTS,
    extras=(
        TIED_HEAD,
        *VISION,
        LeftOut("*embed_vision.*", "vision tower"),
        LeftOut("*vision_embedder.*", "vision tower"),
        LeftOut("*audio_tower.*", "audio tower"),
        LeftOut("*embed_audio.*", "audio tower"),
    ),
)  # fmt: skip
