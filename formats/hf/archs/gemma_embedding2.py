"""EmbeddingGemma 2, text: bidirectional, an input of its own for each layer, and a projection to the embedding's width.

Sources: EmbeddingGemma2TextConfig of transformers 5.23; what llama.cpp's gemma-embedding2 loads.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import EMBD, LAYERS, Dim, LayerOverrides, LayerPattern
from ..tables.extras import LeftOut
from ..tables.rows import Alternating, Constant, Key, LayerFlags, Rope, Times
from ..tables.rules import Arch, HFClass, Rule
from .shared import AUDIO, EMBEDDING, EPS_KEY, FINAL_NORM, LAYER_PREFIX, VISION, around, attention, gated_mlp, qk_norm

_INPUT, _PLE = Dim("hidden_size_per_layer_input"), LAYER_PREFIX + "ple_block."


def _norm(hf: str, role: Role) -> Rule:
    return Rule(LAYER_PREFIX + hf, role, (EMBD,))


_TEXT = HFClass(
    "embedding_gemma2_text",
            {
                "vocab_size": 262144, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 24,
                "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 256, "rms_norm_eps": 1e-6,
                "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 262144, "pad_token_id": 0,
                "eos_token_id": 1, "bos_token_id": 2, "attention_bias": False, "sliding_window": 512,
                "layer_types": None, "hidden_size_per_layer_input": 512, "embedding_dim": 768,
            },
            bare=True,
)  # fmt: skip

GEMMA_EMBEDDING2 = Arch(
    name="gemma-embedding2",
    classes={
        "EmbeddingGemma2TextModel": _TEXT,
        **around("EmbeddingGemma2TextModel", _TEXT, "EmbeddingGemma2Model"),
    },
    config=(
        Key("num_hidden_layers", "block_count"),
        Key("max_position_embeddings", "context_length"),
        Key("hidden_size", "embedding_length"),
        Key("embedding_dim", "embedding_length_out"),
        Key("intermediate_size", "feed_forward_length"),
        Key("num_attention_heads", "attention.head_count"),
        Alternating("num_key_value_heads", "attention.head_count_kv", "", "num_global_key_value_heads"),
        Rope(sliding="rope_local_base_freq"),
        EPS_KEY,
        Constant("attention.causal", False),
        Times("sliding_window", "attention.sliding_window", 2),  # to both sides
        Key("hidden_size_per_layer_input", "embedding_length_per_layer_input"),
        LayerFlags("layer_types", "attention.sliding_window_pattern"),
        *(
            Alternating("head_dim", what, f"{what}_swa", "global_head_dim")
            for what in ("attention.key_length", "attention.value_length", "rope.dimension_count")
        ),
    ),
    rules=(
        EMBEDDING,
        Rule("model.ple.per_layer_model_projection", Role.PER_LAYER_MODEL_PROJ, (LAYERS * _INPUT, EMBD)),
        Rule("model.ple.per_layer_projection_norm", Role.PER_LAYER_PROJ_NORM, (_INPUT,)),
        _norm("input_layernorm", Role.ATTN_NORM),
        *attention(),
        *qk_norm(),
        _norm("post_attention_layernorm", Role.ATTN_POST_NORM),
        _norm("pre_feedforward_layernorm", Role.FFN_NORM),
        *gated_mlp(),
        _norm("post_feedforward_layernorm", Role.FFN_POST_NORM),
        Rule(_PLE + "per_layer_input_gate", Role.PER_LAYER_INP_GATE, (_INPUT, EMBD)),
        Rule(_PLE + "per_layer_projection", Role.PER_LAYER_PROJ, (EMBD, _INPUT)),
        Rule(_PLE + "post_per_layer_input_norm", Role.PER_LAYER_POST_NORM, (EMBD,)),
        Rule(LAYER_PREFIX + "layer_scalar", Role.LAYER_OUT_SCALE, (Dim(1),), tensor=True),
        FINAL_NORM,
        Rule("model.embedding_projection", Role.OUTPUT, (Dim("embedding_dim"), EMBD)),
    ),
    fixed={"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False},
    implied={
        "layer_types": LayerPattern("sliding_attention", "full_attention", Dim(6)),
        "global_head_dim": Dim(512),
        "num_global_key_value_heads": Dim(1),
        "per_layer_config": LayerOverrides(
            "full_attention", {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
        ),
    },
    roots={"language_model.": "model.", "model.language_model.": "model."},
    extras=(*VISION, *AUDIO, LeftOut("*embed_vision.*", "vision tower"), LeftOut("*embed_audio.*", "audio tower")),
    pools=True,
)
