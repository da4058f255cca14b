"""Encoders of sound in the way of Whisper's."""

from __future__ import annotations

from typing import Any

from transformers import WhisperFeatureExtractor

from oracles.tower_proofs import TEXT, TowerProof

_QWEN2 = {key: value for key, value in TEXT.items() if key != "head_dim"} | {"model_type": "qwen2"}
_WHISPER = {
    "d_model": 64, "encoder_layers": 4, "encoder_attention_heads": 2, "encoder_ffn_dim": 128, "num_mel_bins": 128,
}  # fmt: skip
_RENAMED = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 128}


def _mel(given: Any) -> Any:
    """Whisper's log mel spectrogram of 30 seconds, [1, bins, frames]: of samples, or llama.cpp's [frames, bins]."""
    if given.ndim == 2:
        return given.T[None]
    extract = WhisperFeatureExtractor(feature_size=128)
    return extract(given.numpy(), sampling_rate=16000, return_tensors="pt")["input_features"]


def _features(model: Any, given: Any) -> Any:
    """Of all 30 seconds, as llama.cpp's."""
    import torch

    mel = _mel(given)
    inner = model.model
    mask = torch.ones(1, mel.shape[-1], dtype=torch.long)
    found = inner.audio_tower(mel, **({"input_features_mask": mask} if hasattr(model.config, "projector_bias") else {}))
    return inner.multi_modal_projector(found.last_hidden_state)[0]


def _windows(model: Any, given: Any) -> Any:
    """Qwen 3's, whose convolutions see windows of 100 frames."""
    import torch

    mel = _mel(given)[..., :500]
    return model.model.get_audio_features(mel, torch.ones(1, mel.shape[-1], dtype=torch.long)).pooler_output


PROOFS = (
    TowerProof(
        "qwen2a",
        "Qwen2AudioForConditionalGeneration",
        {"text_config": _QWEN2, "audio_config": _WHISPER},
        sound=470000,
        own_mel=True,
        features=_features,
    ),
    TowerProof(
        "musicflamingo",
        "AudioFlamingo3ForConditionalGeneration",
        {"text_config": _QWEN2, "audio_config": _RENAMED},
        sound=470000,
        own_mel=True,
        features=_features,
    ),
    TowerProof(
        "qwen3a",
        "Qwen3ASRForConditionalGeneration",
        {"text_config": TEXT, "audio_config": _WHISPER | {"output_dim": 64, "downsample_hidden_size": 16}},
        sound=79999,
        old_names={
            "model.audio_tower.": "thinker.audio_tower.",
            "model.multi_modal_projector.linear_1.": "thinker.audio_tower.proj1.",
            "model.multi_modal_projector.linear_2.": "thinker.audio_tower.proj2.",
            "model.language_model.": "thinker.model.",
        },
        around="thinker_config",
        features=_windows,
    ),
)
