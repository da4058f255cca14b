"""PaddleOCR-VL."""

from __future__ import annotations

from typing import Any

from oracles.tower_proofs import COLOURS, TEXT, TowerProof, rows_of_patches

_VISION = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64,
    "patch_size": 8,
}  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 5e5, "mrope_section": [4, 6, 6]}


def _features(model: Any, pixels: Any) -> Any:
    return model.model.get_image_features(*rows_of_patches(pixels, model.config.vision_config)).pooler_output[0]


PROOFS = (
    TowerProof(
        "paddleocr",
        "PaddleOCRVLForConditionalGeneration",
        {"text_config": TEXT | {"rope_parameters": _ROPE}, "vision_config": _VISION},
        processor=COLOURS | {"min_pixels": 1024, "max_pixels": 65536},
        published={"architectures": ["PaddleOCRVisionModel"]},
        min_tokens=4,
        features=_features,
    ),
)  # fmt: skip
