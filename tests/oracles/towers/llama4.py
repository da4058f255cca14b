"""Llama 4."""

from __future__ import annotations

from typing import Any

from oracles.tower_proofs import TEXT, TowerProof


def _by_column(model: Any, pixels: Any) -> Any:
    """The features as llama.cpp has them: column by column."""
    found = model.get_image_features(pixels).last_hidden_state
    rows = model.multi_modal_projector(found.reshape(-1, found.shape[-1]))
    side = int(len(rows) ** 0.5)
    return rows.reshape(side, side, -1).transpose(0, 1).reshape(len(rows), -1)


PROOFS = (
    TowerProof(
        "llama4",
        "Llama4ForConditionalGeneration",
        {
            "text_config": TEXT | {"num_local_experts": 2, "intermediate_size_mlp": 128},
            "vision_config": {
                "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 2,
                "image_size": 64, "patch_size": 8, "vision_output_dim": 96, "projector_input_dim": 96,
                "projector_output_dim": 96,
            },
        },
        features=_by_column,
    ),
)  # fmt: skip
