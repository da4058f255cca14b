"""Dots 3 Note: latent attention (MLA) of two kinds, to the keys that an indexer chooses or to those of a window.

Sources: Dots3NoteTextConfig of transformers 5.23; conversion/dots3.py of llama.cpp. What comes out of the norms of the
latent vectors is multiplied by a number; llama.cpp has it in the norms' weights. What dividing by it does not restore
is recorded. Up to ``index_topk`` tokens the indexer chooses all. Beyond, transformers turns its neighbouring pairs and
llama.cpp its halves (the same weights in both), so that they choose other keys; which is the model's is not known here.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import (
    EMBD,
    EXPERT_FF,
    HEADS,
    MLP_TYPES,
    Dim,
    Equal,
    HasWords,
    Is,
    LayerOverrides,
    LeadingLayers,
    OrDefault,
    Root,
    Uniform,
)
from ..tables.extras import LeftOut
from ..tables.rows import Alternating, Computed, ConfigRow, Constant, Key, LayerFlags, LeadingDense, Rope
from ..tables.rules import Arch, HFClass, Rule
from ..tables.values import Multiply
from .dsa import INDEXER_KEYS, INDEXER_NEEDS, indexer_rules
from .mla import (
    ATTENTION,
    ATTN,
    DEFAULTS,
    LATENT,
    MLA_SIZES,
    NAMES,
    NOPE,
    Q_LATENT,
    ROPE,
    ROUTED,
    Difference,
    model_rules,
    routed_rules,
)
from .shared import EPS_KEY, FURTHER_LAYERS, TEXT_ROOTS, TIED_HEAD

_WINDOW, _INDEXED = "sliding_attention", "indexed_attention"
_HAS_WINDOW = Is("layer_types", _WINDOW)
# The sizes of layers with a window, as published checkpoints name them. transformers 5 saves ``per_layer_config``.
_OTHERS = {
    key: f"swa_{key}"
    for key in (
        "num_attention_heads", "num_key_value_heads", "q_lora_rank", "kv_lora_rank", "head_dim", "qk_nope_head_dim",
        "qk_rope_head_dim", "v_head_dim",
    )
}  # fmt: skip
_TEXT = HFClass(
    "dots3_note_text",
    {key: value for key, value in DEFAULTS.items() if key != "pretraining_tp"}
    | {"vocab_size": 152064, "hidden_size": 5120, "intermediate_size": 13824, "moe_intermediate_size": 1536}
    | {"num_hidden_layers": 46, "num_attention_heads": 128, "num_key_value_heads": 128, "num_local_experts": 256}
    | {"n_shared_experts": 1, "num_experts_per_tok": 8, "norm_topk_prob": True, "routed_scaling_factor": 1.0}
    | {"q_lora_rank": 1024, "n_group": 1, "topk_group": 1, "max_position_embeddings": 524288, "rms_norm_eps": 1e-5}
    | {"pad_token_id": 151659, "bos_token_id": 151643, "eos_token_id": 151668, "index_topk": 2048}
    | {"index_head_dim": 128, "index_n_heads": 64, "mlp_bias": False, "head_dim": 256, "rope_theta": 8e7}
    | {"shared_experts_intermediate_size": None, "mlp_layer_types": None, "layer_types": None},
    NAMES
    | {"sliding_window_size": "sliding_window"}
    | {"moe_shared_expert_intermediate_size": "shared_experts_intermediate_size"},
)


def _each(hf: str, gguf: str) -> Alternating:
    return Alternating(hf, f"attention.{gguf}", f"attention.{gguf}_swa", _OTHERS[hf], _WINDOW)


def _computed(gguf: str, size: Dim) -> tuple[ConfigRow, ...]:
    return (
        Computed(f"attention.{gguf}", size, kind=_INDEXED),
        Computed(f"attention.{gguf}_swa", size, kind=_WINDOW),
    )


_SCALED = {
    ATTN + "q_a_layernorm": (Multiply(Root(EMBD, Q_LATENT)),),
    ATTN + "kv_a_layernorm": (Multiply(Root(EMBD, LATENT)),),
}

DOTS3_NOTE = Arch(
    name="dots3note",
    classes={
        "Dots3NoteForCausalLM": _TEXT,
        "Dots3NoteTextForCausalLM": _TEXT,
        "Dots3NoteForConditionalGeneration": replace(_TEXT, text_of="Dots3NoteForCausalLM"),
    },
    config=(
        *(row for row in MLA_SIZES if not isinstance(row, Key) or row.hf != "num_attention_heads"),
        Alternating("num_attention_heads", "attention.head_count", "", "swa_num_attention_heads", _WINDOW),
        Rope(sliding="swa_rope_theta"),
        EPS_KEY,
        Key("vocab_size", "vocab_size"),
        Key("q_lora_rank", "attention.q_lora_rank"),
        _each("kv_lora_rank", "kv_lora_rank"),
        *_computed("key_length", LATENT + ROPE),
        *_computed("value_length", LATENT),
        *_computed("key_length_mla", NOPE + ROPE),
        _each("v_head_dim", "value_length_mla"),
        Key("qk_rope_head_dim", "rope.dimension_count"),
        Difference("qk_nope_head_dim", "attention.key_length_mla", "rope.dimension_count"),
        Difference("swa_qk_nope_head_dim", "attention.key_length_mla_swa", "rope.dimension_count"),
        *ROUTED,
        LeadingDense(),
        Constant("expert_gating_func", 2),
        Key("sliding_window", "attention.sliding_window"),
        LayerFlags("layer_types", "attention.sliding_window_pattern", false=_INDEXED),
        *INDEXER_KEYS,
        LayerFlags("layer_types", "attention.indexer.types", true=_INDEXED, false=_WINDOW),
    ),
    rules=model_rules(
        *routed_rules(Is(MLP_TYPES, "dense")),
        attention=(
            *(replace(rule, ops=(*rule.ops, *_SCALED.get(rule.modules[0], ()))) for rule in ATTENTION),
            Rule(ATTN + "k_rope_only_layernorm", Role.ATTN_K_NORM, (ROPE,)),
            Rule(ATTN + "g_proj", Role.ATTN_GATE, (HEADS, EMBD)),
            *indexer_rules(~_HAS_WINDOW),
        ),
    ),
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "n_group": 1, "topk_group": 1},
    needs=INDEXER_NEEDS
    | {
        "layer_types": HasWords("layer_types", (_WINDOW,)),
        "use_dsa": ~Is("use_dsa", False),
        "apply_mla_qkv_lora_rescale": ~Is("apply_mla_qkv_lora_rescale", False),
        "moe_layer_freq": ~Is("moe_layer_freq") | Is("moe_layer_freq", 1),
        "shared_experts_intermediate_size": Equal(Dim("shared_experts_intermediate_size"), EXPERT_FF),
        "q_lora_rank": INDEXER_NEEDS["q_lora_rank"] & Uniform("q_lora_rank"),
        "qk_rope_head_dim": Uniform("qk_rope_head_dim"),
    },
    implied={
        MLP_TYPES: LeadingLayers("dense", "sparse", OrDefault("first_k_dense_replace", 1)),
        "per_layer_config": LayerOverrides(_WINDOW, _OTHERS),
        "sliding_window": Dim(512),
        "shared_experts_intermediate_size": EXPERT_FF,
        "swa_rope_theta": Dim(50000),
    },
    synonyms={"layer_types": {"full_attention": _INDEXED}},  # in published checkpoints
    roots=TEXT_ROOTS,
    extras=(
        TIED_HEAD,
        FURTHER_LAYERS,
        LeftOut("model.mtp.*", "layers that predict further tokens"),
        *(LeftOut(f"{root}vision_encoder.*", "vision tower") for root in ("", "model.")),
        *(LeftOut(f"{root}audio_encoder.*", "audio tower") for root in ("", "model.")),
    ),
)
