"""Pooling as sentence-transformers' files name it becomes the key that llama.cpp's converter writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oracles.proofs import all_proofs, save_proof
from quantmill.formats.errors import FormatError
from quantmill.formats.hf.archs import ARCHS
from quantmill.formats.hf.files.pooling import pooling_type
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import write_hf

QWEN3, LLAMA = (next(arch for arch in ARCHS if arch.name == name) for name in ("qwen3", "llama"))
PREFIX = "sentence_transformers.models."
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": f"{PREFIX}Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{PREFIX}Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{PREFIX}Normalize"},
]


def save(folder: Path, config: Any, modules: Any = MODULES) -> None:
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling/config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("config", "number"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False, "word_embedding_dimension": 8}, 1),
        ({"pooling_mode_cls_token": True, "include_prompt": True}, 2),
        ({"pooling_mode_lasttoken": True}, 3),
        ({"pooling_mode": "mean"}, 1),  # as sentence-transformers 5 writes it
        ({"pooling_mode": "lasttoken"}, 3),
    ],
)
def test_the_number_is_llama_cpp_s(config: dict[str, Any], number: int, tmp_path: Path) -> None:
    """Keys compared with convert_hf_to_gguf.py of llama.cpp (llama-cpp-python 0.3.36) on tiny models."""
    save(tmp_path, config)
    said: list[str] = []
    assert pooling_type(tmp_path, QWEN3, said.append) == number
    assert said == []


def test_where_the_converter_writes_none_a_line_says_what_to_do(tmp_path: Path) -> None:
    save(tmp_path, {"pooling_mode_lasttoken": True})
    said: list[str] = []
    assert pooling_type(tmp_path, LLAMA, said.append) is None
    line = "modules.json says lasttoken pooling, which files of llama do not: give llama.cpp --pooling last"
    assert said == [f"{tmp_path}: {line}"]


def test_other_modules_are_named(tmp_path: Path) -> None:
    dense = {"idx": 3, "name": "3", "path": "2_Dense", "type": f"{PREFIX}Dense"}
    save(tmp_path, {"pooling_mode": "cls"}, [*MODULES, dense])
    said: list[str] = []
    assert pooling_type(tmp_path, QWEN3, said.append) == 2
    assert said == [f"{tmp_path}: left out, though sentence-transformers applies it to the embeddings: 2_Dense"]


def test_no_files_no_pooling(tmp_path: Path) -> None:
    assert pooling_type(tmp_path, QWEN3, pytest.fail) is None
    save(tmp_path, {}, MODULES[:1])
    assert pooling_type(tmp_path, QWEN3, pytest.fail) is None


@pytest.mark.parametrize(
    ("config", "modules", "message"),
    [
        (
            {"pooling_mode": "max"},
            MODULES,
            "1_Pooling/config.json: pooling_mode: llama.cpp has no pooling like max, only",
        ),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
            MODULES,
            "1_Pooling/config.json: pooling_mode: llama.cpp has no pooling like mean with pooling_mode_max_tokens",
        ),
        ({}, MODULES, "1_Pooling/config.json: pooling_mode: llama.cpp has no pooling like none"),
        ({"pooling_mode_mean_tokens": 1}, MODULES, "1_Pooling/config.json: pooling_mode_mean_tokens: 1 is not true or"),
        ({"pooling_mode": ["mean"]}, MODULES, "1_Pooling/config.json: pooling_mode: ['mean'] is not a text"),
        ([], MODULES, "1_Pooling/config.json: is not a JSON object"),
        ({}, {"a": 1}, "modules.json: modules: {'a': 1} is not a list"),
        ({}, [1], "modules.json: 0: 1 is not an object"),
        ({}, [{"type": 5}], "modules.json: 0.type: 5 is not a text"),
        ({}, [{"type": "Pooling", "path": "../x"}], "modules.json: 0.path: '../x' is no folder beside it"),
        ({}, [{"type": "Pooling", "path": ".."}], "modules.json: 0.path: '..' is no folder beside it"),
        ({}, [{"type": "Pooling", "path": "gone"}], "gone/config.json: no such file"),
        ({}, [{"type": "Pooling", "path": "a\0b"}], "modules.json: 0.path: "),
    ],
)
def test_what_llama_cpp_lacks_and_what_is_damaged(config: Any, modules: Any, message: str, tmp_path: Path) -> None:
    save(tmp_path, config, modules)
    with pytest.raises(FormatError) as error:
        pooling_type(tmp_path, QWEN3, pytest.fail)
    assert str(error.value).startswith(f"{tmp_path}/{message}")


def test_a_checkpoint_with_pooling(tmp_path: Path) -> None:
    proof = next(proof for proof in all_proofs() if proof.arch == "qwen3")
    save_proof(replace(proof, model="Qwen3Model"), tmp_path / "hf")
    save(tmp_path / "hf", {"pooling_mode_lasttoken": True})
    model = read_hf(tmp_path / "hf")
    assert model.hparam("pooling_type") == 3
    write_hf(model, tmp_path / "back")
    assert read_hf(tmp_path / "back").hparam("pooling_type") == 3
