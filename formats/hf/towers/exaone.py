"""EXAONE 4.5's encoder: that of Qwen2.5-VL, whose heads share keys and values.

Sources: Exaone4_5_VisionConfig of transformers 5.23; conversion/exaone.py of llama.cpp.
"""

from __future__ import annotations

from ..tables.dimensions import ALWAYS, EMBD, FF, HEADS, KV_HEADS, Dim
from ..tables.rows import Constant, Key
from ..tables.rules import HFClass, Rule
from ..tables.tower import Tower
from ..tables.tower_rows import EvenlySpaced
from .shared import (
    AXIAL,
    BLOCK,
    COLOURS,
    ENCODER,
    HEADER,
    PIXEL_LIMITS,
    PIXELS,
    SILU,
    TEXT_WIDTH,
    linear,
    norm,
    two_frames,
)

_AT = "model.visual."
_LAYER = _AT + "blocks.{layer}."
_MERGED = EMBD * Dim(4)
_FIXED = {"temporal_patch_size": 2, "in_channels": 3, "spatial_merge_size": 2, "hidden_act": "silu"}

EXAONE_4_5 = Tower(
    name="exaone4_5",
    classes={
        "Exaone4_5_ForConditionalGeneration": HFClass(
            "exaone4_5_vision",
            _FIXED
            | {"num_hidden_layers": 32, "hidden_size": 3584, "intermediate_size": 3420, "num_attention_heads": 16}
            | {"num_key_value_heads": 8, "patch_size": 14, "window_size": 112, "out_hidden_size": 3584}
            | {"fullatt_block_indexes": [7, 15, 23, 31]},
            {"depth": "num_hidden_layers", "num_heads": "num_attention_heads"},
            wraps="exaone4_5",
        )
    },
    config=(
        *HEADER,
        Constant("vision.image_size", 560),  # limits nothing
        Key("patch_size", "vision.patch_size"),
        *ENCODER,
        *COLOURS,
        SILU,
        *PIXELS,
        Key("num_key_value_heads", "vision.attention.head_count_kv"),
        Constant("vision.attention.layer_norm_epsilon", 1e-6),
        Key("window_size", "vision.window_size"),
        EvenlySpaced("fullatt_block_indexes", "vision.n_wa_pattern"),
    ),
    rules=(
        two_frames(_AT + "patch_embed.proj.weight"),
        norm(_LAYER + "norm1", BLOCK + "ln1", bias=None),
        norm(_LAYER + "norm2", BLOCK + "ln2", bias=None),
        Rule(
            _LAYER + "attn.qkv",
            BLOCK + "attn_qkv",
            (EMBD + 2 * KV_HEADS * (EMBD // HEADS), EMBD),
            bias=ALWAYS,
        ),
        linear(_LAYER + "attn.proj", BLOCK + "attn_out", EMBD, EMBD),
        linear(_LAYER + "mlp.gate_proj", BLOCK + "ffn_gate", FF, EMBD),
        linear(_LAYER + "mlp.up_proj", BLOCK + "ffn_up", FF, EMBD),
        linear(_LAYER + "mlp.down_proj", BLOCK + "ffn_down", EMBD, FF),
        norm(_AT + "merger.ln_q", "v.post_ln", bias=None),
        linear(_AT + "merger.mlp.0", "mm.0", _MERGED, _MERGED),
        linear(_AT + "merger.mlp.2", "mm.2", TEXT_WIDTH, _MERGED),
    ),
    fixed=_FIXED,
    implied={**PIXEL_LIMITS, "out_hidden_size": TEXT_WIDTH},
    needs={"rope_parameters": AXIAL},
    roots={"visual.": _AT},
    owns=("*visual.*",),
)
