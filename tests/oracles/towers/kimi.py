"""Kimi K2.5."""

from __future__ import annotations

from typing import Any

from oracles.tower_proofs import TEXT, TowerProof, rows_of_patches

_VISION = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 8,
    "pos_emb_height": 8, "pos_emb_width": 8,
}  # fmt: skip
_TEXT = {key: value for key, value in TEXT.items() if key != "head_dim"} | {
    "model_type": "deepseek_v3", "q_lora_rank": 32, "kv_lora_rank": 64, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16,
    "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "moe_intermediate_size": 64, "first_k_dense_replace": 2, "num_key_value_heads": 2,
}  # fmt: skip


def _features(model: Any, pixels: Any) -> Any:
    return model.model.get_image_features(*rows_of_patches(pixels, model.config.vision_config)).pooler_output[0]


PROOFS = (
    TowerProof(
        "kimik25",
        "Kimi_K25ForConditionalGeneration",
        {"text_config": _TEXT, "vision_config": _VISION, "projection_hidden_size": 64, "tie_word_embeddings": False},
        published={"architectures": ["KimiK25ForConditionalGeneration"], "init_pos_emb_height": 8,
                   "init_pos_emb_width": 8},
        renamed={
            "vision_tower.encoder.patch_embed.proj.": "vision_tower.patch_embed.proj.",
            "model.mm_projector.pre_norm.": "mm_projector.pre_norm.",
            "language_model.model.blocks.": "language_model.model.layers.",
        },
        features=_features,
        min_tokens=4,
    ),
)  # fmt: skip
