"""Towers around SigLIP."""

from __future__ import annotations

from typing import Any

from oracles.tower_proofs import COLOURS, TEXT, TowerProof

_VISION = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64,
    "patch_size": 8,
}  # fmt: skip
_BARE = _VISION | {"vision_use_head": False}
_LLAMA = TEXT | {"model_type": "llama"}
_OLD = {"vision_tower.": "vision_tower.vision_model.", "model.vision_tower.": "model.vision_tower.vision_model."}
_NAFLEX = {key: value for key, value in _BARE.items() if key != "image_size"} | {"num_patches": 16, "patch_size": 16}


def _tile_and_overview(model: Any, pixels: Any) -> Any:
    """Two images, which are the same where one tile has the whole image's size."""
    found = model.model.get_image_features(pixels[:, None]).pooler_output[0]
    return found.repeat(2, 1)


def _pixels_by_patch(model: Any, pixels: Any) -> Any:
    """LFM2's: each patch's pixels with their colours, and how many rows and columns."""
    import torch

    p = 16
    rows, columns = pixels.shape[2] // p, pixels.shape[3] // p
    parts = pixels.reshape(1, 3, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1).reshape(1, rows * columns, -1)
    shape, mask = torch.tensor([[rows, columns]]), torch.ones(1, rows * columns, dtype=torch.long)
    return model.model.get_image_features(parts, shape, mask).pooler_output[0]


PROOFS = (
    TowerProof(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        {
            "text_config": TEXT | {"query_pre_attn_scalar": 32},
            "vision_config": _BARE,
            "mm_tokens_per_image": 16,
        },
        old_names=_OLD,
        features=lambda model, pixels: model.model.get_image_features(pixels).pooler_output[0],
    ),
    TowerProof(
        "idefics3",
        "SmolVLMForConditionalGeneration",
        {"text_config": _LLAMA, "vision_config": _VISION, "scale_factor": 2},
        processor=COLOURS | {"size": {"longest_edge": 64}},
        features=_tile_and_overview,
    ),
    TowerProof(
        "idefics3",
        "Idefics3ForConditionalGeneration",
        {"text_config": _LLAMA, "vision_config": _VISION, "scale_factor": 4},
        case="idefics3",
        processor=COLOURS | {"size": {"longest_edge": 64}},
        features=_tile_and_overview,
    ),
    TowerProof(
        "lfm2",
        "Lfm2VlForConditionalGeneration",
        {
            "text_config": {key: value for key, value in TEXT.items() if key != "head_dim"} | {"model_type": "lfm2"},
            "vision_config": _NAFLEX,
            "projector_hidden_size": 96,
        },
        old_names=_OLD,
        min_tokens=4,
        size=(96, 128),
        features=_pixels_by_patch,
    ),
    TowerProof(
        "janus_pro",
        "JanusForConditionalGeneration",
        {
            "text_config": _LLAMA,
            "vision_config": _VISION | {"projection_dim": 64, "mlp_ratio": 2.0},
            "vq_config": {"base_channels": 32, "channel_multiplier": [1, 1], "latent_channels": 32, "num_res_blocks": 1,
                          "num_embeddings": 16, "projection_dim": 64, "image_token_embed_dim": 64, "embed_dim": 8},
        },
        lost=("model.vqmodel.*", "model.generation_*"),
        features=lambda model, pixels: model.model.get_image_features(pixels).pooler_output[0],
    ),
)  # fmt: skip
