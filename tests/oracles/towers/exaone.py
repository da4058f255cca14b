"""EXAONE 4.5."""

from __future__ import annotations

from typing import Any

from oracles.tower_proofs import COLOURS, TEXT, TowerProof, patches

_VISION = {
    "depth": 4, "num_heads": 4, "num_key_value_heads": 2, "hidden_size": 64, "intermediate_size": 128,
    "out_hidden_size": 64, "fullatt_block_indexes": [1, 3],
}  # fmt: skip


def _features(model: Any, pixels: Any) -> Any:
    return model.model.get_image_features(*patches(pixels, model.config.vision_config)).pooler_output[0]


_TEXT = {key: value for key, value in TEXT.items() if key != "head_dim"} | {
    "model_type": "exaone4", "sliding_window": None, "sliding_window_pattern": None,
    "layer_types": ["full_attention"] * 2,
}  # fmt: skip

PROOFS = (
    TowerProof(
        "exaone4_5",
        "Exaone4_5_ForConditionalGeneration",
        {"text_config": _TEXT, "vision_config": _VISION},
        processor=COLOURS | {"min_pixels": 3136, "max_pixels": 200704},
        size=(168, 224),
        min_tokens=4,
        features=_features,
    ),
)
