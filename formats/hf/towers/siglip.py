"""Towers around SigLIP: Gemma 3, SmolVLM and Idefics 3, LFM2-VL, Janus Pro.

Sources: their configs and projectors in transformers 5.23; conversion/gemma.py, smolvlm.py, lfm2.py and januspro.py of
llama.cpp.
"""

from __future__ import annotations

from ..tables.dimensions import ALWAYS, EMBD, FF, Dim, Equal, Is, Share
from ..tables.extras import LeftOut
from ..tables.ops import RegroupColumns, Reshape
from ..tables.rows import Constant, Key
from ..tables.rules import HFClass, Rule
from ..tables.tower import OUTER, PROCESSOR, Tower
from ..tables.tower_rows import TokensPerImage
from ..tables.values import Add
from .shared import (
    COLOURS,
    ENCODER,
    EPS_KEY,
    GELU,
    HEADER,
    PATCH,
    SIDE,
    TEXT_WIDTH,
    VISION_KEYS,
    linear,
    norm,
    siglip,
)  # fmt: skip

_AT = "vision_tower."
_SIGLIP = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}  # fmt: skip
_FIXED = {"hidden_act": "gelu_pytorch_tanh", "num_channels": 3}
_PROJECTOR = "multi_modal_projector."


def _head(at: str) -> LeftOut:
    return LeftOut(at + "head.*", "pooling head of the encoder")


GEMMA3 = Tower(
    name="gemma3",
    classes={
        "Gemma3ForConditionalGeneration": HFClass(
            "siglip_vision_model", _SIGLIP | {f"{OUTER}.mm_tokens_per_image": 256}, wraps="gemma3"
        )
    },
    config=(
        *VISION_KEYS,
        EPS_KEY,
        GELU,
        TokensPerImage(f"{OUTER}.mm_tokens_per_image", "vision.projector.scale_factor", SIDE, 4),
    ),
    rules=(
        # [vision, text] in both: llama.cpp's graph turns it
        Rule(
            _PROJECTOR + "mm_input_projection_weight",
            "mm.input_projection.weight",
            (EMBD, TEXT_WIDTH),
            tensor=True,
            part="",
        ),
        norm(_PROJECTOR + "mm_soft_emb_norm", "mm.soft_emb_norm", EMBD, Add(1.0), bias=None),
        *siglip(_AT),
    ),
    fixed=_FIXED,
    roots={
        "model.vision_tower.vision_model.": _AT,
        "vision_tower.vision_model.": _AT,
        "model.vision_tower.": _AT,
        "model.multi_modal_projector.": _PROJECTOR,
    },
    text={"model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
    owns=("*vision_tower.*", "*multi_modal_projector.*"),
    extras=(_head(_AT),),
)

_IDEFICS3 = _SIGLIP | {"hidden_size": 1152, "num_attention_heads": 16, "patch_size": 32, f"{OUTER}.scale_factor": 2}
_FACTOR = Dim(f"{OUTER}.scale_factor")

IDEFICS3 = Tower(
    name="idefics3",
    classes={
        "SmolVLMForConditionalGeneration": HFClass("smolvlm_vision", _IDEFICS3, wraps="smolvlm"),
        "Idefics3ForConditionalGeneration": HFClass("idefics3_vision", _IDEFICS3, wraps="idefics3"),
    },
    config=(
        *VISION_KEYS,
        EPS_KEY,
        Key(f"{OUTER}.scale_factor", "vision.projector.scale_factor"),
        GELU,
        Key(f"{PROCESSOR}.size.longest_edge", "vision.preproc_image_size"),
    ),
    rules=(
        Rule(
            "model.connector.modality_projection.proj",
            "mm.model.fc",
            (TEXT_WIDTH, EMBD * _FACTOR * _FACTOR),
        ),
        *siglip("model.vision_model."),
    ),
    fixed=_FIXED,
    implied={f"{PROCESSOR}.size.longest_edge": Dim("image_size")},
    text={"model.": "model.text_model."},
    owns=("*vision_model.*", "*connector.*"),
)

_LFM2 = "model." + _AT
_LFM2_MM = "model." + _PROJECTOR
_DOWN = Dim(f"{OUTER}.downsample_factor")
_WIDE = Dim(f"{OUTER}.projector_hidden_size")

LFM2_VL = Tower(
    name="lfm2",
    classes={
        "Lfm2VlForConditionalGeneration": HFClass(
            "siglip2_vision_model",
            {key: value for key, value in _SIGLIP.items() if key != "image_size"}
            | {"num_patches": 256, f"{OUTER}.downsample_factor": 2, f"{OUTER}.projector_hidden_size": 2560}
            | {f"{OUTER}.projector_bias": True, f"{OUTER}.projector_use_layernorm": True}
            | {f"{OUTER}.projector_hidden_act": "gelu"},
            wraps="lfm2_vl",
        )
    },
    config=(
        *HEADER,
        Constant("vision.image_size", 256),  # llama.cpp scales an image by its number of tokens
        Key("patch_size", "vision.patch_size"),
        *ENCODER,
        *COLOURS,
        EPS_KEY,
        Key(f"{OUTER}.downsample_factor", "vision.projector.scale_factor"),
        GELU,
    ),
    rules=(
        Rule(_LFM2_MM + "layer_norm", "mm.input_norm", (EMBD * _DOWN * _DOWN,), bias=ALWAYS,
             when=Is(f"{OUTER}.projector_use_layernorm")),
        Rule(_LFM2_MM + "linear_1", "mm.1", (_WIDE, EMBD * _DOWN * _DOWN), bias=f"{OUTER}.projector_bias"),
        Rule(_LFM2_MM + "linear_2", "mm.2", (TEXT_WIDTH, _WIDE), bias=f"{OUTER}.projector_bias"),
        Rule(_LFM2 + "embeddings.patch_embedding.bias", "v.patch_embd.bias", (EMBD,), tensor=True, part=""),
        *siglip(
            _LFM2,
            # a patch's pixels, each with its colours, become colours, each with its pixels
            patches=Rule(
                _LFM2 + "embeddings.patch_embedding.weight",
                "v.patch_embd.weight",
                (EMBD, 3 * PATCH * PATCH),
                (
                    RegroupColumns((PATCH * PATCH, 3), (1, 0)),
                    Reshape((EMBD, 3 * PATCH * PATCH), (EMBD, Dim(3), PATCH, PATCH)),
                ),
                tensor=True,
                part="",
            ),
            positions=Dim("num_patches"),
        ),
    ),
    fixed=_FIXED | {"patch_size": 16, f"{OUTER}.projector_hidden_act": "gelu"},
    roots={
        "vision_tower.vision_model.": _LFM2,
        "model.vision_tower.vision_model.": _LFM2,
        _AT: _LFM2,
        _PROJECTOR: _LFM2_MM,
    },
    owns=("*vision_tower.*", "*multi_modal_projector.*"),
    extras=(_head(_LFM2),),
)  # fmt: skip

_ALIGNER = "model.aligner."
_RATIO = {key: value for key, value in _SIGLIP.items() if key not in ("vision_use_head", "intermediate_size")}

JANUS = Tower(
    name="janus_pro",
    classes={
        "JanusForConditionalGeneration": HFClass(
            "janus_vision_model",
            _RATIO
            | {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 384}
            | {"hidden_act": "gelu", "mlp_ratio": 4.0, "attention_bias": True, "projection_dim": 2048, "depth": 2}
            | {"use_qk_norm": False},
            wraps="janus",
        )
    },
    config=(*VISION_KEYS, EPS_KEY, GELU),
    rules=(
        linear(_ALIGNER + "fc1", "mm.0", TEXT_WIDTH, EMBD),
        linear(_ALIGNER + "hidden_layers.0", "mm.1", TEXT_WIDTH, TEXT_WIDTH),
        *siglip("model.vision_model.", out="projection_layer", width=FF),
    ),
    fixed={"hidden_act": "gelu", "num_channels": 3, "attention_bias": True, "use_qk_norm": False, "depth": 2},
    needs={"projection_dim": Equal(Dim("projection_dim"), TEXT_WIDTH)},
    implied={"projection_dim": TEXT_WIDTH, "mlp_ratio": Share("intermediate_size", EMBD)},
    roots={"aligner.": _ALIGNER, "vision_model.": "model.vision_model."},
    owns=("*vision_model.*", "model.aligner.*", "aligner.*"),
)
