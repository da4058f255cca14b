"""Names that a checkpoint's tensors may have: what transformers knows is read alike, what it would fill with random
numbers is read and said where it can mean one model only, and two models in one file are an error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from oracles.tiny import save_tiny_llama
from quantmill.formats.errors import FormatError, UnmatchedTensor
from quantmill.formats.hf.load import read_hf
from quantmill.formats.ir import Model
from quantmill.tools.api.convert import convert

State = dict[str, torch.Tensor]


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a checkpoint, to rename its tensors."""
    return shutil.copytree(checkpoint("gqa"), tmp_path / "hf")


def rename(folder: Path, change: Callable[[str], str], **more: torch.Tensor) -> None:
    state = {change(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file({**state, **more}, folder / "model.safetensors", metadata={"format": "pt"})


def read(folder: Path) -> tuple[Model, list[str]]:
    said: list[str] = []
    model = read_hf(folder, say=said.append)
    return model, [line.removeprefix(f"{folder}: ") for line in said]


def same(a: Model, b: Model) -> bool:
    theirs = {t.name: t for t in b}
    return {t.name for t in a} == set(theirs) and all(
        (t.rows(0, t.n_rows) == theirs[t.name].rows(0, t.n_rows)).all() for t in a
    )


def unknown_to_transformers(folder: Path) -> set[str]:
    """The weights that transformers fills with random numbers."""
    _, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    return set(report["missing_keys"])


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.removeprefix("model."),
        lambda name: f"model.{name}",  # a model inside a class of one's own; transformers takes one model. off
        lambda name: name.removeprefix("model.") if ".0." in name else name,
    ],
    ids=["bare", "twice", "mixed"],
)
def test_what_transformers_reads_is_read_and_nothing_said(change: Callable[[str], str], folder: Path) -> None:
    plain = read_hf(folder)
    rename(folder, change)
    assert unknown_to_transformers(folder) == set()
    model, said = read(folder)
    assert same(model, plain)
    assert said == []


def part(name: str, mark: str) -> str:
    return name.replace("layers.1.", f"layers.1.{mark}").replace("mlp.", f"mlp.{mark}")


@pytest.mark.parametrize(
    ("gone", "change"),
    [
        ("module.", lambda name: f"module.{name}"),  # DistributedDataParallel
        ("_orig_mod.", lambda name: f"_orig_mod.{name}"),  # torch.compile
        ("_orig_mod.", lambda name: part(name, "_orig_mod.")),  # of blocks
        ("_orig_mod., module.", lambda name: f"module._orig_mod.{name}"),
        ("_fsdp_wrapped_module.", lambda name: f"_fsdp_wrapped_module.{part(name, '_fsdp_wrapped_module.')}"),
        ("_checkpoint_wrapped_module.", lambda name: part(name, "_checkpoint_wrapped_module.")),
        ("base_model.", lambda name: f"base_model.model.{name}"),  # merged, and saved as PEFT's own model
        ("student.", lambda name: f"student.{name.removeprefix('model.')}"),
        ("model.llm.", lambda name: f"model.llm.{name}"),
    ],
)
def test_names_of_wrappers_come_off_and_this_is_said(gone: str, change: Callable[[str], str], folder: Path) -> None:
    plain = read_hf(folder)
    rename(folder, change)
    assert len(unknown_to_transformers(folder)) > 5
    model, said = read(folder)
    assert same(model, plain)
    assert said == [f"taken off the tensors' names, as names of wrappers: {gone}"]


def test_buffers_inside_wrappers_are_no_weights(folder: Path) -> None:
    plain = read_hf(folder)
    rename(folder, lambda name: f"module.{name}", **{"module.model.rotary_emb.inv_freq": torch.ones(8)})
    assert same(read(folder)[0], plain)


def test_a_text_model_of_another_s_inside(folder: Path) -> None:
    """The class is Llama's; the names are those of Llava's text model."""
    plain = read_hf(folder)
    rename(folder, lambda name: f"language_model.{name}")
    assert unknown_to_transformers(folder)
    model, said = read(folder)
    assert same(model, plain)
    assert said == ["names that begin with language_model.model. are taken for those of model."]


TWICE = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    "other", ["layers.0.mlp.up_proj.weight", "model.model.layers.0.mlp.up_proj.weight"], ids=["bare", "twice"]
)
def test_two_names_for_one_tensor(other: str, folder: Path) -> None:
    plain = read_hf(folder)
    weight = load_file(folder / "model.safetensors")[TWICE]
    rename(folder, lambda name: name, **{other: weight.clone()})
    model, said = read(folder)
    assert same(model, plain)
    kept, left = sorted((other, TWICE))
    assert said == [f"left out, being equal to others that mean the same: {left}"]
    rename(folder, lambda name: name, **{other: weight * 1.001})
    with pytest.raises(FormatError) as error:
        read_hf(folder)
    assert str(error.value) == (
        f"{folder}: {left}: differs from {kept}, which means the same tensor: two models in one "
        "(keep the tensors of one of them)"
    )


def test_two_models_in_one_file(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("model."): tensor + 1 for name, tensor in state.items() if name.startswith("model.")}
    rename(folder, lambda name: name, **bare)
    with pytest.raises(FormatError, match="which means the same tensor: two models in one"):
        read_hf(folder)
    both = {f"{who}.{name}": tensor + i for i, who in enumerate(("teacher", "ema")) for name, tensor in state.items()}
    save_file(both, folder / "model.safetensors")
    with pytest.raises(UnmatchedTensor) as error:
        read_hf(folder)
    assert str(error.value) == (
        f"{folder}: tensors of several models: their names begin with ema., teacher. (keep those of one model)"
    )


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"module.model.norm.weight": 64}, "no rule of llama matches module.model.norm.weight"),
        ({"model._orig_mod.norm.weight": 64}, "model._orig_mod.norm.weight and model.norm.weight are the same tensor"),
        ({"draft.layers.0.input_layernorm.weight": 64}, "no rule of llama matches draft.layers.0.input_layernorm"),
    ],
    ids=["module", "compiled", "draft"],
)
def test_a_second_model_beside_the_first(more: dict[str, int], problem: str, folder: Path) -> None:
    rename(folder, lambda name: name, **{name: torch.ones(size) for name, size in more.items()})
    with pytest.raises(UnmatchedTensor) as error:
        read_hf(folder)
    assert problem in str(error.value)


def test_an_adapter_that_is_not_merged_names_the_remedy(folder: Path) -> None:
    """What torch saves of PEFT's model: its base's weights under base_layer, and the pairs."""
    q = "self_attn.q_proj."
    pairs = {f"base_model.model.model.layers.0.{q}lora_{half}.default.weight": torch.ones(4, 64) for half in "AB"}
    rename(folder, lambda name: "base_model.model." + name.replace(q, f"{q}base_layer."), **pairs)
    with pytest.raises(UnmatchedTensor) as error:
        read_hf(folder)
    assert str(error.value).endswith("(an adapter is in it: merge it, with merge_and_unload(), and save again)")
    assert "base_model" not in str(error.value)


def test_convert_shows_what_was_said(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "hf")
    rename(folder, lambda name: f"module.{name}")
    seen: list[Any] = []
    convert(folder, tmp_path / "m.gguf", "F16", progress=seen.append)
    assert any("names of wrappers: module." in getattr(event, "text", "") for event in seen)
