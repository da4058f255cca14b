"""InternVL."""

from oracles.tower_proofs import TEXT, TowerProof

PROOFS = (
    TowerProof(
        "internvl",
        "InternVLForConditionalGeneration",
        {
            "text_config": TEXT | {"model_type": "qwen3"},
            "vision_config": {
                "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2,
                "image_size": [64, 64], "patch_size": [8, 8], "attention_bias": True,
            },
        },
        old_names={
            "vision_tower.": "model.vision_tower.",
            "multi_modal_projector.": "model.multi_modal_projector.",
        },
        published={"architectures": ["InternVisionModel"]},
        features=lambda model, pixels: model.model.get_image_features(pixels).pooler_output[0],
    ),
)  # fmt: skip
