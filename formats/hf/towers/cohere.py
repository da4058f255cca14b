"""Command A Vision's encoder: SigLIP, whose patches are merged, and a gated projector.

Sources: Cohere2VisionConfig and Cohere2VisionMultiModalProjector of transformers 5.23; tools/mtmd/clip.cpp of
llama.cpp, whose converter knows no such class.
"""

from __future__ import annotations

from ..tables.dimensions import EMBD, Dim
from ..tables.extras import LeftOut
from ..tables.rows import Key
from ..tables.rules import HFClass
from ..tables.tower import OUTER, PROCESSOR, Tower
from .shared import EPS_KEY, GELU, TEXT_WIDTH, VISION_KEYS, linear, siglip

_AT, _PROJECTOR = "vision_tower.", "multi_modal_projector."
_DOWN, _WIDE = Dim(f"{OUTER}.downsample_factor"), Dim(f"{OUTER}.alignment_intermediate_size")
_FIXED = {"hidden_act": "gelu_pytorch_tanh", "num_channels": 3}

COHERE2_VISION = Tower(
    name="cohere2v",
    classes={
        "Cohere2VisionForConditionalGeneration": HFClass(
            "siglip_vision_model",
            _FIXED
            | {"hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 27, "num_attention_heads": 12}
            | {"image_size": 512, "patch_size": 16, "layer_norm_eps": 1e-6}
            | {f"{OUTER}.downsample_factor": 2, f"{OUTER}.alignment_intermediate_size": 36864}
            | {f"{PROCESSOR}.max_patches": 12},
            wraps="cohere2_vision",
        )
    },
    config=(
        *VISION_KEYS,
        EPS_KEY,
        GELU,
        Key(f"{OUTER}.downsample_factor", "vision.projector.scale_factor"),
        Key(f"{PROCESSOR}.max_patches", "vision.preproc_max_tiles"),
    ),
    rules=(
        linear(_PROJECTOR + "linear_1", "mm.1", _WIDE, EMBD * _DOWN * _DOWN),
        linear(_PROJECTOR + "linear_2", "mm.2", TEXT_WIDTH, _WIDE // 2),
        *siglip(_AT),
    ),
    fixed=_FIXED,
    roots={
        "model.vision_tower.vision_model.": _AT,
        "vision_tower.vision_model.": _AT,
        "model.vision_tower.": _AT,
        "model.multi_modal_projector.": _PROJECTOR,
    },
    owns=("*vision_tower.*", "*multi_modal_projector.*"),
    extras=(LeftOut(_AT + "head.*", "pooling head of the encoder"),),
)
