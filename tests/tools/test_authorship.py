"""Facts that a user gives with --metadata and --model-name, and names of files with {ftype}."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oracles.converter import GOLDENS, summary
from oracles.converter_differences import MORE, OTHER
from oracles.make_authorship_golden import FACTS, RUNS, folder_of_facts
from oracles.quantize_samples import llama
from quantmill import PlanError, ReadOptions, convert, read_gguf, read_model, write_gguf

Cli = Callable[..., Any]
Refused = Callable[..., str]
GOLDEN = json.loads(GOLDENS.with_name("authorship.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_as_the_converter(cli: Cli, tmp_path: Path, name: str) -> None:
    model = folder_of_facts(tmp_path)
    words = ("--outtype", "f16", "--metadata", tmp_path / "facts.json", "--pre", "llama-bpe", *RUNS[name])
    done = cli("convert", model, tmp_path / "out-{ftype}.gguf", *words)
    assert done.code == 0, done.err
    keys = summary(tmp_path / "out-f16.gguf", tmp_path / "out-f16.gguf")["metadata"]
    ours = [(key, value) for key, value in keys.items() if key.startswith("general.")]
    theirs = [(key, value) for key, value in GOLDEN[name].items()]
    last = ("general.file_type", "general.quantization_version")  # the converter writes these at other places
    assert [one for one in ours if one[0] not in last] == [one for one in theirs if one[0] not in last]


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"general.autor": "a"}, "general.autor: is no key of authorship (did you mean general.author?)"),
        ({"general.architecture": "qwen2"}, "general.architecture: is no key of authorship"),
        ({"general.author": 1}, "general.author: is not a text"),
        ({"general.tags": "a"}, "general.tags: is not a list of texts"),
        ({"general.sampling.temp": "hot"}, "general.sampling.temp"),
        ({"general.base_models": ["a"]}, "general.base_models: is not a list of objects"),
        ({"general.base_models": [{"nam": "a"}]}, "general.base_models[0].nam: is none of its fields"),
        ([], "facts.json"),
    ],
)
def test_bad_facts(refused: Refused, tmp_path: Path, facts: object, line: str) -> None:
    model = folder_of_facts(tmp_path)
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    assert line in refused("convert", model, tmp_path / "o.gguf", "--metadata", tmp_path / "facts.json")


def test_facts_are_for_files_that_hold_them(refused: Refused, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", llama(1))
    line = refused("convert", tmp_path / "m.gguf", tmp_path / "hf", "--model-name", "a")
    assert "--model-name: has no effect: it is for GGUF files" in line
    with pytest.raises(PlanError, match="the model was read before"):
        convert(read_model(tmp_path / "m.gguf"), tmp_path / "o.gguf", read=ReadOptions(model_name="a"))


def test_a_gguf_file_gets_another_name(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", llama(1))
    convert(tmp_path / "m.gguf", tmp_path / "o.gguf", "Q8_0", read=ReadOptions(model_name="other"))
    before, after = read_gguf(tmp_path / "m.gguf").metadata, read_gguf(tmp_path / "o.gguf").metadata
    assert after["general.name"].data == "other"
    assert list(before)[:3] == list(after)[:3] == ["general.architecture", "general.name", "llama.context_length"]
    assert len(FACTS) == 12


@pytest.mark.parametrize(
    ("name", "level", "made"),
    [
        ("m-{ftype}.gguf", "Q4_K_M", "m-q4_k_m.gguf"),
        ("m.{FTYPE}.gguf", "q8_0", "m.Q8_0.gguf"),
        ("{outtype}-{OUTTYPE}-{}.gguf", "F32", "f32-F32-f32.gguf"),
        ("m-{ftype}.gguf", "auto", "m-f16.gguf"),  # a copy, named by what its source says
        ("a{b.gguf", "Q8_0", "a{b.gguf"),
    ],
)
def test_names_of_files(tmp_path: Path, name: str, level: str, made: str) -> None:
    write_gguf(tmp_path / "m.gguf", llama(1))
    assert convert(tmp_path / "m.gguf", tmp_path / name, level).paths == (tmp_path / made,)
    assert (tmp_path / made).is_file()


def test_an_unknown_field(refused: Refused, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", llama(1))
    for command, words in (("quantize", ("Q8_0",)), ("convert", ("--outtype", "Q8_0")), ("convert", ())):
        line = refused(command, tmp_path / "m.gguf", tmp_path / "m-{level}.gguf", *words)
        assert "its name has the field {level}, which nothing fills" in line


def test_the_vocabulary_alone(cli: Cli, tmp_path: Path) -> None:
    model = folder_of_facts(tmp_path)
    words = ("--vocab-only", "--outtype", "f16", "--pre", "llama-bpe")
    assert cli("convert", model, tmp_path / "v.gguf", *words).code == 0
    (model / "model.safetensors").unlink()  # nor does it need weights
    assert cli("convert", model, tmp_path / "w.gguf", *words).code == 0
    for path in (tmp_path / "v.gguf", tmp_path / "w.gguf"):
        assert read_gguf(path).tensors == ()
        ours = summary(path, path)["metadata"]
        theirs = GOLDEN["vocabulary"]
        differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
        listed = {key for key in differing if any(row.covers("llama", key) for row in (*MORE, *OTHER))}
        assert differing - listed <= {"general.size_label"}  # of weights that are not there, the converter counts none
