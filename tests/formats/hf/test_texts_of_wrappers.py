"""Classes around a text model that has a class of its own: all of the tables, as transformers saves and ties them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from quantmill.formats.errors import FormatError
from quantmill.formats.hf.archs import ARCHS
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import write_hf

_TEXT = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 16, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
_VISION = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
_SEES = {"vision_config": _VISION}
_CLIP = {"vision_config": _VISION | {"model_type": "clip_vision_model"}}
_PIXTRAL = {"vision_config": _VISION | {"model_type": "pixtral", "head_dim": 16}}
_INTERN = {"vision_config": _VISION | {"image_size": [28, 28], "patch_size": [14, 14]}}
_HEARS = {
    "audio_config": {
        "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "num_mel_bins": 16,
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128,
    }
}  # fmt: skip
_JANUS = _SEES | {
    "vq_config": {
        "embed_dim": 8, "num_embeddings": 8, "base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1,
        "latent_channels": 8, "num_patches": 4, "hidden_size": 32, "projection_dim": 32,
    }
}  # fmt: skip
_SPEECH = {
    "encoder_config": {
        "num_layers": 1, "hidden_dim": 32, "num_heads": 2, "dim_head": 16, "input_dim": 16, "output_dim": 8,
        "feedforward_mult": 1,
    },
    "projector_config": {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        "encoder_hidden_size": 32,
    },
}  # fmt: skip
_FULL = {"layer_types": ["full_attention"] * 2, "sliding_window": None, "sliding_window_pattern": None}
_DELTA = {
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
# What each class has beside the text model, by the words of the line that says so; its towers, and the text's own.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Exaone4_5_ForConditionalGeneration/exaone4": (
        "vision tower", {"vision_config": _VISION | {"depth": 1, "num_heads": 2, "out_hidden_size": 64}}, _FULL,
    ),
    "MiniCPMV4_6ForConditionalGeneration/qwen3_5_text": ("projector, vision tower", _SEES, _DELTA),
    "Qwen2AudioForConditionalGeneration/qwen2": ("audio tower, projector", _HEARS, {}),
    "AudioFlamingo3ForConditionalGeneration/qwen2": ("audio tower, projector", _HEARS, {}),
    "VoxtralForConditionalGeneration/llama": ("audio tower, projector", _HEARS, {}),
    "InternVLForConditionalGeneration/qwen2": ("projector, vision tower", _INTERN, {}),
    "InternVLForConditionalGeneration/qwen3": ("projector, vision tower", _INTERN, {}),
    "InternVLForConditionalGeneration/llama": ("projector, vision tower", _INTERN, {}),
    "LlavaForConditionalGeneration/llama": ("projector, vision tower", _CLIP, {}),
    "LlavaForConditionalGeneration/mistral": ("projector, vision tower", _PIXTRAL, {}),
    "LlavaForConditionalGeneration/qwen2": ("projector, vision tower", _CLIP, {}),
    "LlavaNextForConditionalGeneration/granite": ("projector, vision tower", _CLIP, {}),
    "JanusForConditionalGeneration/llama": ("projector, vision tower, what draws images", _JANUS, {}),
    "Idefics3ForConditionalGeneration/llama": ("projector, vision tower", _SEES, {}),
    "SmolVLMForConditionalGeneration/llama": ("projector, vision tower", _SEES, {}),
    "LightOnOcrForConditionalGeneration/qwen3": ("vision tower", _PIXTRAL, {}),
    "Lfm2VlForConditionalGeneration/lfm2": (
        "projector, vision tower",
        {"vision_config": _VISION | {"model_type": "siglip2_vision_model", "num_patches": 4}},
        {"layer_types": ["conv", "full_attention"]},
    ),
    "GraniteSpeechForConditionalGeneration/granite": ("audio tower, projector", _SPEECH, {}),
    "Mistral3ForConditionalGeneration/mistral": ("projector, vision tower", _PIXTRAL, {}),
}  # fmt: skip


def save(case: str, folder: Path, **around: Any) -> torch.nn.Module:
    name, _, kind = case.partition("/")
    _, towers, own = CASES[case]
    cls = getattr(transformers, name)
    torch.manual_seed(3)
    text = _TEXT | {"model_type": kind, "tie_word_embeddings": False} | own
    model: torch.nn.Module = cls(cls.config_class(text_config=text, **towers, **around)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(folder)
    return model


def logits(model: torch.nn.Module) -> np.ndarray:
    tokens = torch.tensor([[int(token) for token in np.random.default_rng(1).integers(3, 320, 24)]])
    with torch.no_grad():
        found: np.ndarray = model(input_ids=tokens).logits[0].float().numpy()
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_text_model_alone(case: str, tmp_path: Path) -> None:
    expected, said = logits(save(case, tmp_path / "hf")), []
    model = read_hf(tmp_path / "hf", say=said.append)
    (line,) = said
    counted = line.partition("without it: ")[2].partition(";")[0]
    parts = ", ".join(sorted(part.partition(" (")[0].removesuffix(")") for part in counted.split("), ")))
    assert parts == CASES[case][0]
    text_of = next(cls.text_of for arch in ARCHS for name, cls in arch.classes.items() if _same(name, case))
    assert text_of is not None
    write_hf(model, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["architectures"] == [text_of]
    back, report = getattr(transformers, text_of).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    np.testing.assert_allclose(logits(back.eval()), expected, rtol=0, atol=1e-5 * float(np.ptp(expected)))


def _same(name: str, case: str) -> bool:
    return name in (case, case.partition("/")[0])


TYING = [case for case in CASES if getattr(transformers, case.partition("/")[0])._tied_weights_keys]


@pytest.mark.parametrize("case", TYING)
def test_what_the_wrapper_leaves_out_ties_by_its_class(case: str, tmp_path: Path) -> None:
    """The outer flag, and where there is none the class's, whatever the text model's own says."""
    name = case.partition("/")[0]
    ties = bool(getattr(transformers, name).config_class.tie_word_embeddings)
    save(case, tmp_path, tie_word_embeddings=True)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "model.safetensors")
    assert not any("lm_head" in key for key in weights)
    _, report = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert bool(report["missing_keys"]) != ties
    if ties:
        assert "output.weight" not in {tensor.name for tensor in read_hf(tmp_path)}
    else:
        with pytest.raises(FormatError, match=r"missing lm_head\.weight"):
            read_hf(tmp_path)
    # A head of its own stays one.
    weights["lm_head.weight"] = torch.ones(320, 64)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "output.weight" in {tensor.name for tensor in read_hf(tmp_path)}


@pytest.mark.parametrize("kind", ["opt", "gemma", None])
def test_a_text_model_that_is_not_known(kind: str | None, tmp_path: Path) -> None:
    save("LlavaForConditionalGeneration/llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["model_type"] = kind
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError) as error:
        read_hf(tmp_path)
    assert "unknown model class 'LlavaForConditionalGeneration'" in str(error.value)
    assert "\n" not in str(error.value)
