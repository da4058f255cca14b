"""Towers around SigLIP."""

from oracles.tower_proofs import TEXT, TowerProof

_VISION = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64,
    "patch_size": 8, "vision_use_head": False,
}  # fmt: skip

PROOFS = (
    TowerProof(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        {"text_config": TEXT | {"query_pre_attn_scalar": 32}, "vision_config": _VISION, "mm_tokens_per_image": 16},
        old_names={"vision_tower.": "vision_tower.vision_model."},
        features=lambda model, pixels: model.model.get_image_features(pixels).pooler_output[0],
    ),
)
