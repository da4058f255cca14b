"""adapter_config.json with any value at any key: what PEFT does with the adapter, or a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open

from quantmill.formats.errors import FormatError
from quantmill.formats.hf.adapters.config import read_lora_config

SIZES = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
MISSING = "missing"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    settings = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj"])
    get_peft_model(_base(), settings).save_pretrained(folder)
    return folder


def _base() -> torch.nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))


def _changed(adapter: Path, folder: Path, changes: dict[str, Any]) -> Path:
    shutil.copy(adapter / "adapter_model.safetensors", folder)
    config = json.loads((adapter / "adapter_config.json").read_text()) | changes
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({key: value for key, value in config.items() if value != MISSING}))
    return path


def _modules(folder: Path) -> list[str]:
    """The modules that the file has pairs for."""
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        names = [name.removeprefix("base_model.model.") for name in file.keys()]  # noqa: SIM118
    return sorted({name.partition(".lora_")[0] for name in names})


def of_peft(folder: Path) -> dict[str, float]:
    """The scale of each module that PEFT puts a pair beside."""
    model = PeftModel.from_pretrained(_base(), folder)
    layers = ((name, layer.scaling) for name, layer in model.named_modules() if isinstance(layer, LoraLayer))
    return {name.removeprefix("base_model.model."): scaling["default"] for name, scaling in layers}


SAME: tuple[dict[str, Any], ...] = (
    {},
    {"lora_alpha": MISSING},
    {"lora_alpha": -3},
    {"lora_alpha": 0.5},
    {"lora_alpha": 10**30},
    {"use_rslora": True},
    {"use_rslora": None},
    {"use_dora": None},
    {"target_modules": None},
    {"target_modules": "all-linear"},
    {"target_modules": r".*\.(q|v)_proj"},
    {"target_modules": r"(?i).*_PROJ"},
    {"rank_pattern": {}, "alpha_pattern": {"q_proj": 5, r"layers\.[01]\.self_attn\.v_proj": 7}},
    {"alpha_pattern": {"layers.1.*.q_proj": 0, "proj": 3}},
    {"r": 8, "rank_pattern": {".*_proj": 4}},
    {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
    {"layers_to_transform": []},
    {"exclude_modules": ["o_proj"], "modules_to_save": []},
    {"layer_replication": []},
    {"init_lora_weights": "gaussian"},
    {"init_lora_weights": False},
    {"fan_in_fan_out": True},
    {"bias": "none", "lora_dropout": 1.0},
)


@pytest.mark.parametrize("changes", SAME, ids=str)
def test_scales_are_peft_s(changes: dict[str, Any], adapter: Path, tmp_path: Path) -> None:
    path = _changed(adapter, tmp_path, changes)
    config = read_lora_config(path)
    modules, theirs = _modules(tmp_path), of_peft(tmp_path)
    assert [config.scale(module, 4) for module in modules] == pytest.approx([theirs[module] for module in modules])


# key -> values that PEFT stumbles over, or with which it leaves out pairs of the file.
REFUSED: dict[str, tuple[Any, ...]] = {
    "lora_alpha": (None, "12", [], {}),
    "r": (MISSING, None, 0, -1, 8, "4", [4], 10**30),
    "rank_pattern": ({"(": 4}, {"q_proj": "x"}, {"q_proj": None}, {"q_proj": 0}, {"q_proj": 8}, 5, [1]),
    "alpha_pattern": ({"[": 4}, {"q_proj": "x"}, {"v_proj": [1]}, "x", 3),
    "target_modules": (["q_proj"], "(", ".*q_proj", "", [], [3], 3, True),
    "exclude_modules": (["q_proj"], ".*v_proj", "*", 3),
    "layers_to_transform": ([0], 0, 1, "x", [[]], {}),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in REFUSED for value in REFUSED[key]])
def test_what_peft_does_not_apply_is_refused(key: str, value: Any, adapter: Path, tmp_path: Path) -> None:
    path = _changed(adapter, tmp_path, {key: value})
    assert _applied(tmp_path) != _modules(adapter)
    with pytest.raises(FormatError) as refused:
        _all_scales(path, tmp_path)
    assert str(refused.value).startswith(f"{path}: ")
    assert refused.value.where is not None


def _applied(folder: Path) -> list[str] | str:
    """The modules that PEFT puts a pair beside, or its error."""
    try:
        return sorted(of_peft(folder))
    except Exception as error:  # PEFT has several, none of them ours
        return type(error).__name__


def _all_scales(path: Path, folder: Path) -> None:
    config = read_lora_config(path)
    for module in _modules(folder):
        config.scale(module, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_alpha": 0}, "lora_alpha: 0 makes the adapter do nothing"),
        ({"lora_alpha": 1e-40}, "lora_alpha: 1e-40 makes the adapter do nothing"),
        ({"use_rslora": "false"}, "use_rslora: 'false' is not true or false"),
        ({"use_dora": 1}, "use_dora: 1 is not true or false"),
        ({"modules_to_save": "lm_head"}, "modules_to_save: 'lm_head' is not a list of texts"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "layer_replication: a GGUF adapter cannot repeat layers"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: 'pissa_niter_4' changes the weights of the base"),
        ({"init_lora_weights": "olora"}, "init_lora_weights: 'olora' changes the weights of the base"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path: 5 is not a text"),
        ({"alora_invocation_tokens": ["x"]}, "alora_invocation_tokens: ['x'] is not a list of whole numbers"),
        ({"peft_type": None}, "peft_type: is None; llama.cpp adds LoRA adapters only"),
        ({"layers_to_transform": [1], "layers_pattern": "("}, r"layers_pattern: '.*\\.(\\.(\\d+)\\.' is not a regular"),
    ],
    ids=str,
)
def test_what_a_gguf_adapter_cannot_say_is_refused(
    changes: dict[str, Any], message: str, adapter: Path, tmp_path: Path
) -> None:
    path = _changed(adapter, tmp_path, changes)
    with pytest.raises(FormatError) as refused:
        read_lora_config(path)
    assert str(refused.value).startswith(f"{path}: {message}")
