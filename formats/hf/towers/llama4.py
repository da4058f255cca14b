"""Llama 4's encoder.

Sources: Llama4VisionConfig of transformers 5.23; conversion/llama4.py of llama.cpp, which calls the norm before the MLP
``attn_post_norm``: llama.cpp looks for ``ln2`` and, where it finds none, runs without that norm. Here it is ``ln2``.
llama.cpp hands an image's tokens on column by column, transformers row by row.
"""

from __future__ import annotations

from ..tables.dimensions import EMBD, FF, Dim, Equal, Is
from ..tables.rows import Key
from ..tables.rules import HFClass, Rule
from ..tables.tower import Tower
from ..tables.tower_rows import Inverted
from .shared import BLOCK, GELU, PATCH, SIDE, TEXT_WIDTH, VISION_KEYS, linear, norm

_AT, _PROJECTOR = "vision_model.", "multi_modal_projector."
_LAYER = _AT + "model.layers.{layer}."
_IN, _OUT = Dim("projector_input_dim"), Dim("projector_output_dim")

LLAMA4 = Tower(
    name="llama4",
    classes={
        "Llama4ForConditionalGeneration": HFClass(
            "llama4_vision_model",
            {"hidden_size": 768, "intermediate_size": 5632, "num_hidden_layers": 34, "num_attention_heads": 16}
            | {"num_channels": 3, "image_size": 448, "patch_size": 14, "hidden_act": "gelu", "norm_eps": 1e-5}
            | {"pixel_shuffle_ratio": 0.5, "projector_input_dim": 4096, "projector_output_dim": 4096}
            | {"vision_output_dim": 7680, "multi_modal_projector_bias": False}
            | {"vision_feature_select_strategy": "default"},
            wraps="llama4",
        )
    },
    config=(
        *VISION_KEYS,
        Key("norm_eps", "vision.attention.layer_norm_epsilon"),
        Inverted("pixel_shuffle_ratio", "vision.projector.scale_factor"),
        GELU,
    ),
    rules=(
        Rule(_PROJECTOR + "linear_1", "mm.model.fc", (TEXT_WIDTH, Dim("vision_output_dim"))),
        Rule(_AT + "class_embedding", "v.class_embd", (EMBD,), tensor=True, part=""),
        norm(_AT + "layernorm_post", "v.post_ln"),
        norm(_AT + "layernorm_pre", "v.pre_ln"),
        norm(_LAYER + "input_layernorm", BLOCK + "ln1"),
        linear(_LAYER + "mlp.fc1", BLOCK + "ffn_up", FF, EMBD),
        linear(_LAYER + "mlp.fc2", BLOCK + "ffn_down", EMBD, FF),
        norm(_LAYER + "post_attention_layernorm", BLOCK + "ln2"),
        linear(_LAYER + "self_attn.k_proj", BLOCK + "attn_k", EMBD, EMBD),
        linear(_LAYER + "self_attn.o_proj", BLOCK + "attn_out", EMBD, EMBD),
        linear(_LAYER + "self_attn.q_proj", BLOCK + "attn_q", EMBD, EMBD),
        linear(_LAYER + "self_attn.v_proj", BLOCK + "attn_v", EMBD, EMBD),
        Rule(_AT + "patch_embedding.linear", "v.patch_embd", (EMBD, 3 * PATCH * PATCH)),
        Rule(_AT + "positional_embedding_vlm", "v.position_embd", (SIDE * SIDE + 1, EMBD), tensor=True),
        Rule(_AT + "vision_adapter.mlp.fc1", "mm.model.mlp.1", (_IN, FF)),
        Rule(_AT + "vision_adapter.mlp.fc2", "mm.model.mlp.2", (_OUT, _OUT)),
    ),
    fixed={
        "hidden_act": "gelu", "num_channels": 3, "multi_modal_projector_bias": False,
        "vision_feature_select_strategy": "default",
    },
    needs={
        "rope_parameters": ~Is("rope_parameters")
        | Is("rope_parameters", {"rope_theta": 10000.0, "rope_type": "default"}),
        "projector_output_dim": Equal(_OUT, Dim("vision_output_dim")),
    },
    text={"model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
    owns=("vision_model.*", "multi_modal_projector.*"),
)  # fmt: skip
