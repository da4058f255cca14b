"""InternVL's encoder, InternViT.

Sources: InternVLVisionConfig of transformers 5.23; conversion/internvl.py of llama.cpp. llama.cpp appends the class
token behind the patches, but its converter leaves its position before theirs: every patch then gets its neighbour's.
Here the positions are moved as the tokens are.
"""

from __future__ import annotations

from ..tables.dimensions import ALWAYS, EMBD, FF, Dim
from ..tables.ops import Reshape
from ..tables.rows import Constant, Key
from ..tables.rules import HFClass, Rule
from ..tables.tower import OUTER, Tower
from ..tables.tower_ops import Roll
from ..tables.tower_rows import Inverted, OneOver, Side, Square
from .shared import BLOCK, COLOURS, ENCODER, EPS_KEY, GELU, HEADER, TEXT_WIDTH, linear, norm

_AT, _PROJECTOR = "vision_tower.", "multi_modal_projector."
_LAYER = _AT + "encoder.layer.{layer}."
_SCALE = Dim("scale")
_MERGED = EMBD * _SCALE * _SCALE
_SIDE, _PATCH = Dim("image_side"), Dim("patch_side")
_POSITIONS = (_SIDE // _PATCH) * (_SIDE // _PATCH) + 1


def _attention(hf: str, gguf: str, bias: str | None = "attention_bias") -> Rule:
    return Rule(_LAYER + "attention." + hf, BLOCK + gguf, (EMBD, EMBD), bias=bias or ALWAYS)


INTERNVL = Tower(
    name="internvl",
    classes={
        "InternVLForConditionalGeneration": HFClass(
            "internvl_vision",
            {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
            | {"image_size": [448, 448], "patch_size": [14, 14], "num_channels": 3, "hidden_act": "gelu"}
            | {"layer_norm_eps": 1e-6, "attention_bias": False, "use_qk_norm": False, "norm_type": "layer_norm"}
            | {"use_absolute_position_embeddings": True, "use_mask_token": False, f"{OUTER}.downsample_ratio": 0.5}
            | {f"{OUTER}.vision_feature_layer": -1, f"{OUTER}.vision_feature_select_strategy": "default"}
            | {f"{OUTER}.projector_hidden_act": "gelu"},
            wraps="internvl",
        )
    },
    config=(
        *HEADER,
        Square("image_size", "vision.image_size"),
        Square("patch_size", "vision.patch_size"),
        *ENCODER,
        *COLOURS,
        EPS_KEY,
        Constant(GELU.gguf, True),
        Inverted(f"{OUTER}.downsample_ratio", "vision.projector.scale_factor"),
        Key(f"{OUTER}.min_dynamic_patch", "vision.preproc_min_tiles", optional=True),
        Key(f"{OUTER}.max_dynamic_patch", "vision.preproc_max_tiles", optional=True),
    ),
    rules=(
        norm(_PROJECTOR + "layer_norm", "mm.model.mlp.0", _MERGED),
        linear(_PROJECTOR + "linear_1", "mm.model.mlp.1", TEXT_WIDTH, _MERGED),
        linear(_PROJECTOR + "linear_2", "mm.model.mlp.3", TEXT_WIDTH, TEXT_WIDTH),
        Rule(_AT + "embeddings.cls_token", "v.class_embd", (Dim(1), Dim(1), EMBD), tensor=True, part=""),
        Rule(
            _AT + "embeddings.patch_embeddings.projection", "v.patch_embd", (EMBD, Dim(3), _PATCH, _PATCH), bias=ALWAYS
        ),
        Rule(
            _AT + "embeddings.position_embeddings",
            "v.position_embd",
            (Dim(1), _POSITIONS, EMBD),
            (Reshape((Dim(1), _POSITIONS, EMBD), (_POSITIONS, EMBD)), Roll(1)),
            tensor=True,
        ),
        _attention("k_proj", "attn_k"),
        _attention("projection_layer", "attn_out", None),
        _attention("q_proj", "attn_q"),
        _attention("v_proj", "attn_v"),
        Rule(_LAYER + "lambda_1", BLOCK + "ls1", (EMBD,), tensor=True),
        Rule(_LAYER + "lambda_2", BLOCK + "ls2", (EMBD,), tensor=True),
        norm(_LAYER + "layernorm_after", BLOCK + "ln2"),
        norm(_LAYER + "layernorm_before", BLOCK + "ln1"),
        linear(_LAYER + "mlp.fc1", BLOCK + "ffn_up", FF, EMBD),
        linear(_LAYER + "mlp.fc2", BLOCK + "ffn_down", EMBD, FF),
    ),
    fixed={
        "num_channels": 3, "hidden_act": "gelu", "use_qk_norm": False, "norm_type": "layer_norm",
        "use_absolute_position_embeddings": True, "use_mask_token": False,
        f"{OUTER}.vision_feature_layer": -1, f"{OUTER}.vision_feature_select_strategy": "default",
        f"{OUTER}.projector_hidden_act": "gelu",
    },
    implied={
        "image_side": Side("image_size"),
        "patch_side": Side("patch_size"),
        "scale": OneOver(f"{OUTER}.downsample_ratio"),
    },
    roots={"model.vision_tower.": _AT, "model.multi_modal_projector.": _PROJECTOR},
    text={"model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
    owns=("*vision_tower.*", "*multi_modal_projector.*"),
)  # fmt: skip
