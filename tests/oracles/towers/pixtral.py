"""Pixtral's encoder."""

from __future__ import annotations

from typing import Any

from oracles.tower_proofs import TEXT, TowerProof

_VISION = {
    "model_type": "pixtral", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
    "num_attention_heads": 2, "head_dim": 32, "image_size": 64, "patch_size": 8,
}  # fmt: skip
_BREAK = 7
_TEXT = TEXT | {"model_type": "mistral", "rms_norm_eps": 1e-5}
_LIGHTON = TEXT | {"model_type": "qwen3", "rms_norm_eps": 1e-6}
_FILES = {"tokenizer_config.json": {"added_tokens_decoder": {str(_BREAK): {"content": "[IMG_BREAK]"}}}}


def _with_breaks(model: Any, pixels: Any) -> Any:
    """The features, and [IMG_BREAK]'s embedding after each row but the last."""
    import torch

    height, width = pixels.shape[2:]
    sizes = {"image_sizes": torch.tensor([[height, width]])}
    found = model.model.get_image_features(pixels, **sizes).pooler_output[0]
    merge = getattr(model.config, "spatial_merge_size", 1)
    rows = found.reshape(height // 8 // merge, width // 8 // merge, -1)
    ends = model.get_input_embeddings().weight[_BREAK].expand(len(rows), 1, -1)
    return torch.cat([rows, ends], dim=1).reshape(-1, rows.shape[-1])[:-1]


PROOFS = (
    TowerProof(
        "pixtral",
        "Mistral3ForConditionalGeneration",
        {"text_config": _TEXT, "vision_config": _VISION | {"hidden_act": "silu"}, "tie_word_embeddings": False},
        files=_FILES,
        min_tokens=4,
        features=_with_breaks,
    ),
    TowerProof(
        "pixtral",
        "LlavaForConditionalGeneration",
        {"text_config": _TEXT, "vision_config": _VISION | {"hidden_act": "gelu"}, "vision_feature_layer": -1,
         "vision_feature_select_strategy": "full"},
        case="llava",
        files=_FILES,
        min_tokens=4,
        size=(48, 64),
        features=_with_breaks,
    ),
    TowerProof(
        "lightonocr",
        "LightOnOcrForConditionalGeneration",
        {"text_config": _LIGHTON, "vision_config": _VISION | {"hidden_act": "silu"}, "tie_word_embeddings": False},
        published={"architectures": ["LightOnOCRForConditionalGeneration"]},
        size=(48, 64),
        features=lambda model, pixels: model.model.get_image_features(pixels, [pixels.shape[2:]]).pooler_output[0],
    ),
)  # fmt: skip
