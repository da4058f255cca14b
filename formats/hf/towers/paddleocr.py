"""PaddleOCR-VL's encoder: SigLIP with a rope over rows and columns beside its positions.

Sources: PaddleOCRVisionConfig and PaddleOCRProjector of transformers 5.23; conversion/ernie.py of llama.cpp.
"""

from __future__ import annotations

from ..tables.dimensions import EMBD, Dim
from ..tables.extras import LeftOut
from ..tables.rows import Computed
from ..tables.rules import HFClass
from ..tables.tower import PROCESSOR, Tower
from .shared import (
    AXIAL,
    COLOURS,
    ENCODER,
    EPS_KEY,
    GELU,
    HEADER,
    IMAGE_KEYS,
    PIXEL_LIMITS,
    PIXELS,
    TEXT_WIDTH,
    linear,
    norm,
    siglip,
)

_AT, _PROJECTOR = "visual.vision_model.", "mlp_AR."
_FIXED = {"num_channels": 3, "hidden_act": "gelu_pytorch_tanh", "spatial_merge_size": 2}
_MERGED = EMBD * Dim(4)

PADDLEOCR = Tower(
    name="paddleocr",
    classes={
        "PaddleOCRVLForConditionalGeneration": HFClass(
            "paddleocr_vl_vision",
            _FIXED
            | {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
            | {"image_size": 384, "patch_size": 14, "layer_norm_eps": 1e-6},
            wraps="paddleocr_vl",
        )
    },
    also=("paddleocr_vl",),
    config=(
        *HEADER,
        # the positions' number follows from their tensor
        Computed("vision.image_size", Dim(f"{PROCESSOR}.max_pixels").root),
        IMAGE_KEYS[1],
        *ENCODER,
        *COLOURS,
        *PIXELS,
        GELU,
        EPS_KEY,
    ),
    rules=(
        norm(_PROJECTOR + "pre_norm", "mm.input_norm"),
        linear(_PROJECTOR + "linear_1", "mm.1", _MERGED, _MERGED),
        linear(_PROJECTOR + "linear_2", "mm.2", TEXT_WIDTH, _MERGED),
        *siglip(_AT),
    ),
    fixed=_FIXED,
    implied=PIXEL_LIMITS,
    needs={"rope_parameters": AXIAL},
    roots={"model.visual.vision_model.": _AT, "model.projector.": _PROJECTOR},
    text={},
    owns=("*visual.*", "*mlp_AR.*", "model.projector.*"),
    extras=(
        LeftOut(_AT + "embeddings.packing_position_embedding.*", "positions of packed images"),
        LeftOut(_AT + "head.*", "pooling head of the encoder"),
    ),
)
