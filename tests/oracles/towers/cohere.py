"""Command A Vision."""

from __future__ import annotations

from typing import Any

from oracles.tower_proofs import COLOURS, TEXT, TowerProof

_VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
    "num_attention_heads": 2, "image_size": 64, "patch_size": 8, "vision_use_head": False,
}  # fmt: skip


def _overview(model: Any, pixels: Any) -> Any:
    return model.model.get_image_features(pixels).pooler_output[0]


PROOFS = (
    TowerProof(
        "cohere2v",
        "Cohere2VisionForConditionalGeneration",
        {"text_config": TEXT | {"model_type": "cohere2"}, "vision_config": _VISION, "alignment_intermediate_size": 192},
        processor=COLOURS | {"max_patches": 4},
        features=_overview,
    ),
)
