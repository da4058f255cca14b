"""Quanto's layers: what they become, the file that names them, and what cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from oracles.packed import golden_layer
from quantmill.formats.errors import FormatError
from quantmill.formats.hf.files.weights import read_weights
from quantmill.formats.hf.packed import decode_packed

HALF, FLOAT, FP8 = "qint8-torch.float16", "qint8-torch.float32", "qfloat8_e4m3fn-torch.bfloat16"
Parts = dict[str, torch.Tensor]


@pytest.mark.parametrize(
    ("case", "type", "said"),
    [
        (HALF, "Q8_0", "exactly as Q8_0"),
        (FLOAT, "F32", "decoded (scales that are not halves)"),
        (FP8, "F32", "decoded"),
    ],
)
def test_what_it_becomes(case: str, type: str, said: str, decode: Callable[..., Any]) -> None:
    parts, config, _ = golden_layer("quanto", case)
    lines: list[str] = []
    found = decode({**parts, "n.weight": torch.ones(4, 8)}, config, lines)
    assert list(found) == ["m.weight", "n.weight"], "scales of activations are left out"
    assert found["m.weight"].qtype.name == type
    assert lines[-1].endswith(f": quanto: 1 weights read {said}")


def folder(place: Path, parts: Parts, modules: Any) -> Path:
    save_file(parts, place / "model.safetensors")
    (place / "quanto_qmap.json").write_text(json.dumps(modules))
    return place


def test_the_file_beside_the_weights(tmp_path: Path, floats: Any) -> None:
    """Its config.json says nothing."""
    parts, config, wanted = golden_layer("quanto", HALF)
    place = folder(tmp_path, parts, config["modules"])
    lines: list[str] = []
    found = decode_packed(read_weights(place), {}, place, say=lines.append)
    assert torch.equal(floats(found["m.weight"]).half(), wanted)
    assert "only quanto_qmap.json says that the weights are packed" in lines[0]


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (
            {"m": {"weights": "qint4"}},
            "quanto_qmap.json: m.weights: 'qint4' is not read (qint8, qfloat8, ",
        ),
        ({"m": {"weights": 8}}, "quanto_qmap.json: m.weights: 8 is not a text"),
        ({"m": [8]}, "quanto_qmap.json: m: [8] is not an object"),
    ],
)
def test_bad_files(modules: Any, expected: str, tmp_path: Path) -> None:
    place = folder(tmp_path, golden_layer("quanto", HALF)[0], modules)
    with pytest.raises(FormatError) as error:
        decode_packed(read_weights(place), {}, place)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


BAD: list[tuple[str, Parts, list[str], str]] = [
    (HALF, {}, ["m.weight._scale"], "m.weight._scale: missing, though the layer is packed"),
    (HALF, {}, ["m.weight._data"], "m.weight._data: missing, though the layer is packed"),
    (
        HALF,
        {"m.weight._scale": torch.ones(31, 1)},
        [],
        "m.weight._scale: its shape is [31, 1], weight._data makes it ",
    ),
    (HALF, {"m.weight._data": torch.ones(4, 4, 4).char()}, [], "m.weight._data: its shape is [4, 4, 4]: stacks of exp"),
    (HALF, {"m.weight._data._data": torch.ones(4, 4).byte()}, [], "weights of 2 and 4 bits are not read: no row's"),
    (FP8, {"m.weight._scale": torch.full((32, 1), torch.inf)}, [], "m.weight_scale: a scale is inf"),
]


@pytest.mark.parametrize(("case", "changes", "left_out", "expected"), BAD, ids=[bad[3][:40] for bad in BAD])
def test_bad_parts(case: str, changes: Parts, left_out: list[str], expected: str, decode: Callable[..., Any]) -> None:
    parts, config, _ = golden_layer("quanto", case)
    parts = {name: part for name, part in {**parts, **changes}.items() if name not in left_out}
    with pytest.raises(FormatError) as error:
        decode(parts, config)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
