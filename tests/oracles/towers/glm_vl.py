"""GLM's vision towers."""

from __future__ import annotations

from functools import partial
from typing import Any

from oracles.tower_proofs import TEXT, TowerProof, patches

_VISION = {
    "depth": 4, "num_heads": 2, "hidden_size": 64, "intermediate_size": 96, "out_hidden_size": 64, "image_size": 64,
    "patch_size": 8,
}  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [2, 3, 3]}
_TEXT = TEXT | {"rope_parameters": _ROPE}
_PLAIN = {key: value for key, value in _TEXT.items() if key != "head_dim"}


def _features(model: Any, pixels: Any) -> Any:
    return model.model.get_image_features(*patches(pixels, model.config.vision_config)).pooler_output[0]


_proof = partial(TowerProof, "glm4v", features=_features, min_tokens=4)

PROOFS = (
    _proof("Glm4vForConditionalGeneration", {"text_config": _PLAIN, "vision_config": _VISION}),
    _proof(
        "Glm4vForConditionalGeneration",
        {"text_config": _PLAIN, "vision_config": _VISION | {"attention_bias": True}},
        case="another size",
        size=(96, 128),
    ),
    _proof(
        "GlmOcrForConditionalGeneration",
        {"text_config": _TEXT | {"head_dim": 64, "rope_parameters": _ROPE | {"mrope_section": [4, 6, 6]}},
         "vision_config": _VISION},
        case="ocr",
    ),
)  # fmt: skip
