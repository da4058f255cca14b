"""Kimi K2.5's encoder, MoonViT.

Sources: Kimi_K25VisionConfig of transformers 5.23; conversion/kimivl.py of llama.cpp. Checkpoints, those that
transformers saves included, have the published names, rope turning neighbours: rows, columns, rows... llama.cpp turns
all pairs of columns before those of rows. Its converter also writes three keys about positions, without the prefix that
it reads keys by.
"""

from __future__ import annotations

from ..tables.dimensions import ALWAYS, EMBD, FF, HEADS, Dim, Equal, Is
from ..tables.extras import LeftOut
from ..tables.ops import Concat, On, Regroup, Split
from ..tables.rows import Computed, Constant, Key
from ..tables.rules import HFClass, Rule
from ..tables.tower import OUTER, PROCESSOR, Tower
from ..tables.tower_rows import Side, Square
from .shared import AXIAL, BLOCK, COLOURS, ENCODER, GELU, HEADER, PATCH, TEXT_WIDTH, linear, norm

_AT, _PROJECTOR = "vision_tower.", "mm_projector."
_LAYER = _AT + "encoder.blocks.{layer}."
_MERGE, _HEIGHT, _WIDTH = Dim("merge_side"), Dim("pos_emb_height"), Dim("pos_emb_width")
_MERGED = EMBD * _MERGE * _MERGE
_QKV = (EMBD, EMBD, EMBD)
_COMMON = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "patch_size": 14, "pos_emb_height": 64, "pos_emb_width": 64, "merge_kernel_size": [2, 2],
    f"{PROCESSOR}.in_patch_limit": 16384,
}  # fmt: skip
# What llama.cpp computes, whatever a config says in either layout.
_GRANTED = {
    "hidden_act": "gelu_pytorch_tanh", "projector_hidden_act": "gelu", "projector_ln_eps": 1e-5,
    f"{OUTER}.projection_layer_norm_eps": 1e-5, "pos_emb_type": "divided_fixed", "merge_type": "sd2_tpool",
    "mm_projector_type": "patchmerger",
}  # fmt: skip
_OF_PROJECTOR = f"{OUTER}.projection_hidden_size"

KIMI_K25 = Tower(
    name="kimik25",
    classes={
        "Kimi_K25ForConditionalGeneration": HFClass(
            "kimi_k25_vision",
            _COMMON
            | {"hidden_act": "gelu_pytorch_tanh", _OF_PROJECTOR: 1152, f"{OUTER}.projection_layer_norm_eps": 1e-5},
            wraps="kimi_k25",
        ),
        # as it was published
        "KimiK25ForConditionalGeneration": HFClass(
            "",
            _COMMON
            | {key: value for key, value in _GRANTED.items() if not key.startswith(OUTER) and key != "hidden_act"}
            | {"mm_hidden_size": 1152},
            {f"init_pos_emb_{side}": f"pos_emb_{side}" for side in ("height", "width")}
            | {f"vt_{key}": key for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
            | {"vt_num_attention_heads": "num_attention_heads"},
            wraps="kimi_k25",
        ),
    },
    config=(
        *HEADER,
        Computed("vision.image_size", _HEIGHT * PATCH),
        Key("patch_size", "vision.patch_size"),
        *ENCODER,
        *COLOURS,
        GELU,
        Constant("vision.attention.layer_norm_epsilon", 1e-5),
        Square("merge_kernel_size", "vision.projector.scale_factor", listed=True),
        Computed("vision.image_min_pixels", Dim(8) * PATCH * PATCH),
        Computed("vision.image_max_pixels", Dim(f"{PROCESSOR}.in_patch_limit") * PATCH * PATCH),
    ),
    rules=(
        norm(_PROJECTOR + "pre_norm", "mm.input_norm"),
        linear(_PROJECTOR + "proj.0", "mm.1", _MERGED, _MERGED),
        linear(_PROJECTOR + "proj.2", "mm.2", TEXT_WIDTH, _MERGED),
        norm(_AT + "encoder.final_layernorm", "v.post_ln"),
        Rule(_AT + "patch_embed.pos_emb", "v.position_embd", (_HEIGHT, _WIDTH, EMBD)),
        Rule(_AT + "patch_embed.proj", "v.patch_embd", (EMBD, Dim(3), PATCH, PATCH), bias=ALWAYS),
        norm(_LAYER + "norm0", BLOCK + "ln1"),
        norm(_LAYER + "norm1", BLOCK + "ln2"),
        Rule(
            _LAYER + "wqkv",
            BLOCK + "attn_qkv",
            (3 * EMBD, EMBD),
            (Split(_QKV), On((0, 1), Regroup((HEADS, -1, 2, 2), (0, 2, 1, 3))), Concat(_QKV)),
            bias=ALWAYS,
        ),
        linear(_LAYER + "wo", BLOCK + "attn_out", EMBD, EMBD),
        linear(_LAYER + "mlp.fc0", BLOCK + "ffn_up", FF, EMBD),
        linear(_LAYER + "mlp.fc1", BLOCK + "ffn_down", EMBD, FF),
    ),
    needs={key: ~Is(key) | Is(key, value) for key, value in _GRANTED.items()}
    | {
        "rope_parameters": AXIAL,
        "mm_hidden_size": ~Is("mm_hidden_size") | Equal(Dim("mm_hidden_size"), EMBD),
        _OF_PROJECTOR: ~Is(_OF_PROJECTOR) | Equal(Dim(_OF_PROJECTOR), EMBD),
    },
    implied={"merge_side": Side("merge_kernel_size"), _OF_PROJECTOR: EMBD},
    # two names that transformers saves otherwise than they were published
    roots={
        "vision_tower.encoder.patch_embed.proj.": _AT + "patch_embed.proj.",
        "model.mm_projector.pre_norm.": _PROJECTOR + "pre_norm.",
    },
    text={"model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
    owns=("*vision_tower.*", "*mm_projector.*"),
    extras=(LeftOut(_AT + "patch_embed.pos_emb.time_weight", "positions of frames"),),
)  # fmt: skip
