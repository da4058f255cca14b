"""Gemma 4's towers, and those of Gemma 4 Unified."""

from __future__ import annotations

from typing import Any

from transformers import Gemma4AudioFeatureExtractor

from oracles.tower_proofs import TEXT, TowerProof

_TEXT = TEXT | {"num_hidden_layers": 6, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 320}
_PLAIN = {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0], "do_normalize": False}
_VISION = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "head_dim": 32,
    "num_key_value_heads": 2, "patch_size": 8, "position_embedding_size": 32, "use_clipped_linears": True,
    "standardize": True,
}  # fmt: skip
_AUDIO = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "output_proj_dims": 96}
_UNIFIED = {
    "text_config": {key: value for key, value in _TEXT.items() if "per_layer" not in key},
    "vision_config": {"mm_embed_dim": 64, "output_proj_dims": 64, "mm_posemb_size": 32, "patch_size": 8},
    "audio_config": {"audio_embed_dim": 640},
}


def _positions(rows: int, columns: int) -> Any:
    """Column and row of each patch, row by row: [1, patches, 2]."""
    import torch

    grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([grid[1], grid[0]], dim=-1).reshape(1, rows * columns, 2)


def _patches(pixels: Any, p: int) -> Any:
    """Each patch's pixels with their colours: [1, patches, p * p * 3]."""
    rows, columns = pixels.shape[2] // p, pixels.shape[3] // p
    parts = pixels.reshape(1, 3, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1)
    return parts.reshape(1, rows * columns, -1), _positions(rows, columns)


def _image(model: Any, pixels: Any) -> Any:
    found = model.model.get_image_features(*_patches(pixels, model.config.vision_config.patch_size))
    return found.pooler_output[0]


def _sound(model: Any, given: Any) -> Any:
    """Of samples, or of llama.cpp's mel spectrogram [frames, bins]."""
    import torch

    if given.ndim == 1:
        found = Gemma4AudioFeatureExtractor()([given.numpy()], sampling_rate=16000, return_tensors="pt")
        given, mask = found["input_features"], found["input_features_mask"].bool()
    else:
        given, mask = given[None], torch.ones(1, len(given), dtype=torch.bool)
    found = model.model.get_audio_features(given, mask)
    return found.pooler_output[found.attention_mask]


PROOFS = (
    TowerProof(
        "gemma4v",
        "Gemma4ForConditionalGeneration",
        {"text_config": _TEXT, "vision_config": _VISION},
        processor=_PLAIN,
        size=(72, 96),
        min_tokens=4,
        features=_image,
    ),
    TowerProof(
        "gemma4a",
        "Gemma4ForConditionalGeneration",
        {"text_config": _TEXT, "vision_config": _VISION, "audio_config": _AUDIO},
        processor=_PLAIN,
        sound=16000,
        own_mel=True,
        features=_sound,
    ),
    TowerProof(
        "gemma4uv",
        "Gemma4UnifiedForConditionalGeneration",
        _UNIFIED,
        processor=_PLAIN,
        size=(72, 96),
        min_tokens=4,
        features=lambda model, pixels: model.model.get_image_features(*_patches(pixels, 24)).pooler_output[0],
    ),
    TowerProof(
        "gemma4ua",
        "Gemma4UnifiedForConditionalGeneration",
        _UNIFIED,
        processor=_PLAIN,
        sound=6400,
        features=lambda model, sound: model.model.get_audio_features(sound.reshape(1, -1, 640)).pooler_output[0],
    ),
)  # fmt: skip
