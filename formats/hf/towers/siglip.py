"""Towers around SigLIP: Gemma 3.

Sources: SiglipVisionConfig and Gemma3MultiModalProjector of transformers 5.23; conversion/gemma.py of llama.cpp.
"""

from __future__ import annotations

from ..dimensions import ALWAYS, EMBD, Dim, Equal
from ..extras import LeftOut
from ..rows import Computed
from ..rules import HFClass, Rule
from ..tower import OUTER, Tower
from ..values import Add
from .shared import EPS_KEY, GELU, PATCH, TEXT_WIDTH, VISION_KEYS, norm, siglip_layer

_SIDE = Dim("image_size") // PATCH
SIGLIP = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}  # fmt: skip
_AT = "vision_tower."
_SCALE = _SIDE // Dim(f"{OUTER}.mm_tokens_per_image").root

GEMMA3 = Tower(
    name="gemma3",
    classes={
        "Gemma3ForConditionalGeneration": HFClass(
            "siglip_vision_model", SIGLIP | {f"{OUTER}.mm_tokens_per_image": 256}, wraps="gemma3"
        )
    },
    config=(
        *VISION_KEYS,
        EPS_KEY,
        GELU,
        # llama.cpp takes 4 for granted.
        Computed("vision.projector.scale_factor", _SCALE, when=~Equal(_SCALE, Dim(4))),
    ),
    rules=(
        # [vision, text] in both: llama.cpp's graph turns it
        Rule(
            "multi_modal_projector.mm_input_projection_weight",
            "mm.input_projection.weight",
            (EMBD, TEXT_WIDTH),
            tensor=True,
            part="",
        ),
        norm("multi_modal_projector.mm_soft_emb_norm", "mm.soft_emb_norm", EMBD, Add(1.0), bias=None),
        Rule(_AT + "embeddings.patch_embedding", "v.patch_embd", (EMBD, Dim(3), PATCH, PATCH), bias=ALWAYS),
        Rule(_AT + "embeddings.position_embedding", "v.position_embd", (_SIDE * _SIDE, EMBD)),
        *siglip_layer(_AT + "encoder.layers.{layer}."),
        norm(_AT + "post_layernorm", "v.post_ln"),
    ),
    fixed={"hidden_act": "gelu_pytorch_tanh", "num_channels": 3},
    roots={
        "model.vision_tower.vision_model.": _AT,
        "vision_tower.vision_model.": _AT,
        "model.vision_tower.": _AT,
        "model.multi_modal_projector.": "multi_modal_projector.",
    },
    text={"model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
    owns=("*vision_tower.*", "*multi_modal_projector.*"),
    extras=(LeftOut(_AT + "head.*", "pooling head of the encoder"),),
)
