"""Classes around a text model that transformers has no class of: as they are published, and what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from oracles.proofs import all_proofs, run_proof, same_logits, save_proof, text_weights
from quantmill.formats.errors import FormatError
from quantmill.formats.hf.archs import BY_CLASS
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import arch_of_model, write_hf
from quantmill.formats.hf.shapes import read_shapes
from quantmill.formats.ir import Model
from quantmill.formats.progress import Note

PROOFS = {proof.id: proof for proof in all_proofs() if proof.towers}
Json = dict[str, Any]
Weights = dict[str, torch.Tensor]


def config_of(folder: Path) -> Json:
    found: Json = json.loads((folder / "config.json").read_text())
    return found


def other(folder: Path, out: Path, config: Json, weights: Weights) -> Path:
    out.mkdir()
    (out / "config.json").write_text(json.dumps(config))
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def contents(model: Model) -> dict[str, tuple[Any, ...]]:
    return {
        tensor.name: (tensor.shape, tensor.qtype.name, bytes(np.ascontiguousarray(tensor.rows(0, tensor.n_rows))))
        for tensor in model
    }


def hyperparameters(model: Model) -> Json:
    return {key: str(value) for key, value in model.metadata.items() if key.startswith(model.arch)}


def flat(config: Json, weights: Weights) -> tuple[Json, Weights]:
    """Qwen2-VL's config.json on the hub, and others': all in one, and the rope by its old name."""
    text = dict(config.pop("text_config"))
    rope = text.pop("rope_parameters")
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    if rope["rope_type"] == "dynamic":
        scaling = {"type": "xdrope", "xdrope_section": rope["mrope_section"], "alpha": rope["alpha"], "factor": 1.0}
    return {**text, **config, "rope_theta": rope["rope_theta"], "rope_scaling": scaling}, weights


def speaking(config: Json, weights: Weights) -> tuple[Json, Weights]:
    """Qwen3-Omni's: what thinks is beside what speaks."""
    name = config["architectures"][0].replace("Thinker", "")
    whole = {"architectures": [name], "model_type": "qwen3_omni_moe", "thinker_config": config, "talker_config": {}}
    named = {f"thinker.{name}": weight for name, weight in weights.items()}
    return whole, named | {"talker.x.weight": torch.ones(3), "code2wav.x.weight": torch.ones(3)}


def as_loaded(config: Json, weights: Weights) -> tuple[Json, Weights]:
    """Qwen3-VL's experts as transformers 5 saves them: [E, 2I, H] and [E, H, I]."""
    return config, {name: w.mT.contiguous() if "experts" in name else w for name, w in weights.items()}


def in_older_names(config: Json, weights: Weights) -> tuple[Json, Weights]:
    """Before transformers 5."""
    renamed = {name.replace("model.language_model.", "language_model.model."): w for name, w in weights.items()}
    return config, {name.replace("model.visual.", "visual."): w for name, w in renamed.items()}


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("qwen2vl", flat),
        ("qwen3omnimoe", speaking),
        ("qwen3vlmoe", as_loaded),
        ("qwen3vl", in_older_names),
        ("paddleocr", flat),
        ("hunyuan_vl", flat),
    ],
)
def test_other_layouts_are_the_same_model(case: str, change: Callable[..., Any], tmp_path: Path) -> None:
    proof = PROOFS[case]
    expected = run_proof(proof, save_proof(proof, tmp_path / "hf"))
    first = read_hf(tmp_path / "hf")
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    folder = other(tmp_path / "hf", tmp_path / "other", *change(config_of(tmp_path / "hf"), weights))
    second = read_hf(folder)
    assert contents(first) == contents(second)
    assert hyperparameters(first) == hyperparameters(second)
    notes: list[Any] = []
    write_hf(second, tmp_path / "back", progress=notes.append)
    said = [event.text for event in notes if isinstance(event, Note)]
    assert said == [f"back: written as {proof.model}, without its towers, which transformers fills with random numbers"]
    back = getattr(transformers, proof.model).from_pretrained(tmp_path / "back")
    assert same_logits(proof, back.eval(), expected)
    for part in ("vision_config", "audio_config"):
        assert config_of(tmp_path / "back").get(part) == config_of(tmp_path / "hf").get(part)
    written, wanted = load_file(tmp_path / "back" / "model.safetensors"), text_weights(proof, tmp_path / "hf")
    turned = change is as_loaded
    assert {name: w.shape for name, w in written.items()} == {
        name: w.mT.shape if turned and "experts" in name else w.shape for name, w in wanted.items()
    }


def test_a_file_of_another_converter_comes_back_as_its_class(tmp_path: Path) -> None:
    """The number of deepstack layers is all that it says of the tower."""
    proof = PROOFS["qwen3vl"]
    save_proof(proof, tmp_path / "hf")
    model = read_hf(tmp_path / "hf")
    theirs = {key: value for key, value in model.metadata.items() if not key.startswith("quantmill.")}
    write_hf(replace(model, metadata=theirs), tmp_path / "back")
    config = config_of(tmp_path / "back")
    assert config["architectures"] == ["Qwen3VLForConditionalGeneration"]
    assert config["model_type"] == "qwen3_vl"
    assert config["vision_config"] == {"deepstack_visual_indexes": [0, 1]}
    assert config["text_config"]["rope_scaling"]["mrope_section"] == [12, 10, 10]
    again = read_hf(tmp_path / "back")
    assert contents(again) == contents(model)
    assert hyperparameters(again) == hyperparameters(model)


@pytest.mark.parametrize("case", [case for case in PROOFS if case.startswith("glm")])
def test_classes_that_share_an_architecture_are_told_apart(case: str, tmp_path: Path) -> None:
    """By their biases and by the sections of the rope, for which the rows of q and k move."""
    save_proof(PROOFS[case], tmp_path / "hf")
    model = read_hf(tmp_path / "hf")
    theirs = {key: value for key, value in model.metadata.items() if not key.startswith("quantmill.")}
    assert arch_of_model(replace(model, metadata=theirs)) == (BY_CLASS[PROOFS[case].model], PROOFS[case].model)


def test_shapes_alone(tmp_path: Path) -> None:
    for case in ("qwen3vl", "qwen3vlmoe", "qwen2vl"):
        save_proof(PROOFS[case], tmp_path / case)
        shapes = {tensor.name: tensor.shape for tensor in read_shapes(tmp_path / case / "config.json")}
        assert shapes == {tensor.name: tensor.shape for tensor in read_hf(tmp_path / case)}


@pytest.mark.parametrize(
    ("case", "text", "around", "problem"),
    [
        (
            "hunyuan_vl",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 9.0, "mrope_section": [16, 8, 8]}},
            {},
            "rope_parameters.mrope_section: [16, 8, 8] is not a list of 4 positive sizes",
        ),
        (
            "hunyuan_vl",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 9.0}},
            {},
            "rope_parameters: missing: the sections of a head that turn by image positions",
        ),
        ("glm4v", {"head_dim": 64}, {}, "head_dim: 64 is not what llama.cpp's glm4 takes for granted"),
        ("qwen2vl", {"rms_norm_eps": 1e-5}, {}, "rms_norm_eps: is 1e-05; llama.cpp's qwen2vl computes 1e-06"),
        (
            "qwen3vl",
            {},
            {"vision_config": {"deepstack_visual_indexes": [0, 1, 2, 3]}},
            "vision_config.deepstack_visual_indexes: 4 layers are more than the text model has",
        ),
        (
            "qwen3vl",
            {},
            {"vision_config": {"deepstack_visual_indexes": "8"}},
            "vision_config.deepstack_visual_indexes: '8' is not a list of whole numbers",
        ),
        ("qwen3vl", {}, {"vision_config": [1]}, "vision_config: [1] is not an object"),
        ("qwen3vl", {}, {"text_config": [1]}, "text_config: [1] is not an object"),
        ("qwen3omnimoe", {}, {"thinker_config": 3}, "thinker_config: 3 is not an object"),
        ("qwen3vlmoe", {"moe_intermediate_size": 128}, {}, "moe_intermediate_size: 128 is not what llama.cpp's"),
        (
            "qwen3vl",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [30, 1, 1]}},
            {},
            "rope_parameters.mrope_section: [30, 1, 1] leaves pairs of llama.cpp's rope unturned",
        ),
        (
            "qwen2vl",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 7]}},
            {},
            "rope_parameters.mrope_section: [4, 6, 7] does not sum to the 16 rotated pairs of a head",
        ),
    ],
)
def test_what_cannot_be(case: str, text: Json, around: Json, problem: str, tmp_path: Path) -> None:
    save_proof(PROOFS[case], tmp_path)
    config = config_of(tmp_path)
    config["text_config"] |= text
    (tmp_path / "config.json").write_text(json.dumps(config | around))
    with pytest.raises(FormatError) as error:
        read_hf(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'config.json'}: {problem}")
    assert "\n" not in str(error.value)
