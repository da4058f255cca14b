from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oracles.gguf_samples import array_tensor
from oracles.split_samples import split_model
from quantmill.formats.differences import array_difference, key_changes
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.ir import Model, Tensor, Value, ValueType
from quantmill.formats.qtypes import BY_NAME

V = ValueType
F32 = BY_NAME["F32"]


def floats(name: str, values: list[float], shape: tuple[int, ...] | None = None) -> Tensor:
    raw = np.array(values, "<f4")
    return array_tensor(name, shape or (1, len(values)), F32, raw.view(np.uint8))


@pytest.fixture
def a(tmp_path: Path) -> Path:
    tensors = (
        floats("kept", [1, 2, 3]),
        floats("gone", [1]),
        floats("moved", [3, 4]),
        floats("reshaped", [1, 2, 3, 4], (2, 2)),
    )
    model = Model("llama", split_model().metadata, tensors, tmp_path)
    write_gguf(tmp_path / "a.gguf", model)
    return tmp_path / "a.gguf"


@pytest.fixture
def b(tmp_path: Path) -> Path:
    tensors = (
        floats("new", [5]),
        floats("reshaped", [1, 2, 3, 4]),
        floats("moved", [3, 4.5]),
        replace(floats("kept", [1, 2, 3]), shape=(3,)),
    )
    metadata = {**split_model().metadata, "general.name": Value(V.STRING, "b"), "z": Value(V.BOOL, True)}
    del metadata["a.u8"]
    metadata["a.i32"] = Value(V.INT64, -(2**31))
    metadata["a.ints"] = Value(V.ARRAY, np.array([1, -2, 4, 9], np.int32), V.INT32)
    write_gguf(tmp_path / "b.gguf", Model("llama", metadata, tensors, tmp_path), version=3)
    return tmp_path / "b.gguf"


def test_for_people(cli: Callable, a: Path, b: Path) -> None:
    done = cli("diff", a, b, "--values")
    assert done.code == 1
    assert done.out.splitlines() == [
        "metadata",
        "~ general.name  'tiny' -> 'b'",
        "- a.u8          255",
        "~ a.i32         -2147483648 (int32) -> -2147483648 (int64)",
        "~ a.ints        int32[] of 3: [1, -2, 3] -> int32[] of 4: [1, -2, 4, 9]; 2 items differ, the first is [2]",
        "+ z             true",
        "tensors",
        "- gone      F32 1 x 1",
        # error [0, 0.5] of [3, 4], whose norm is 5; the cosine is (9 + 18) / (5 * sqrt(9 + 20.25))
        "~ moved     F32 weights  rel. RMSE 1.000e-01  max error 5.000e-01  cosine 0.9984604",
        "~ reshaped  F32 2 x 2 -> F32 1 x 4",
        "+ new       F32 1 x 1",
        "5 keys and 4 tensors differ",
    ]
    assert f"{27 / (5 * 29.25**0.5):.7f}" == "0.9984604"


def test_as_json(cli: Callable, a: Path, b: Path) -> None:
    done = cli("diff", a, b, "--values", "--json")
    report = json.loads(done.out)
    assert (done.code, report["equal"]) == (1, False)
    keys = {row.pop("key"): row for row in report["metadata"]}
    assert keys["z"] == {"a": None, "b": {"type": "bool", "value": True}}
    assert keys["a.ints"] == {
        "a": {"type": "int32[]", "length": 3},
        "b": {"type": "int32[]", "length": 4},
        "first_difference": 2,
        "items_that_differ": 2,
    }
    tensors = {row["name"]: row for row in report["tensors"]}
    assert {name: row["change"] for name, row in tensors.items()} == {
        "gone": "removed", "moved": "weights", "reshaped": "shape", "new": "added",
    }  # fmt: skip
    assert tensors["moved"]["rmse"] == pytest.approx(0.1)
    assert tensors["moved"]["max_error"] == 0.5
    assert tensors["new"]["a"] is None


def test_what_is_left_out(cli: Callable, a: Path, b: Path) -> None:
    assert cli("diff", a, a).out == "no difference in 20 keys and 4 tensors\n"
    assert cli("diff", a, a).code == 0
    quiet = cli("diff", a, b, "--quiet")
    assert (quiet.code, quiet.out) == (1, "")
    assert "metadata" not in cli("diff", a, b, "--no-metadata").out
    assert "moved" not in cli("diff", a, b, "--no-weights").out
    bare = cli("diff", a, b).out
    assert "moved     F32 weights\n" in bare


def test_quantized_and_shards_and_folders(
    cli: Callable, smollm2_q4_1: Path, smollm2_f16: Path, smollm2_hf: Path, tmp_path: Path
) -> None:
    assert cli("split", smollm2_q4_1, tmp_path / "s", "--max-size", "60M", "--quiet").code == 0
    assert cli("diff", smollm2_q4_1, tmp_path / "s-00002-of-00002.gguf").code == 0
    done = cli("diff", smollm2_f16, smollm2_hf, "--json", "--no-metadata", "--values")
    found = json.loads(done.out)["tensors"]  # the one was converted from the other: only its norms are wider
    assert {(c["change"], c["a"]["type"], c["b"]["type"], c["max_error"]) for c in found} == {("type", "F32", "F16", 0)}
    done = cli("diff", smollm2_q4_1, smollm2_f16, "--no-metadata", "--no-weights", "--json")
    changes = json.loads(done.out)["tensors"]
    assert {(c["change"], c["a"]["type"], c["b"]["type"]) for c in changes} >= {("type", "Q4_1", "F16")}


def test_hash(cli: Callable, a: Path, b: Path, tmp_path: Path) -> None:
    out = cli("hash", a).out.splitlines()
    names = [line.split(maxsplit=1)[1] for line in out]
    assert names == ["F32       kept", "F32       gone", "F32       moved", "F32       reshaped",
                     "all tensors", "metadata", "model"]  # fmt: skip
    report = json.loads(cli("hash", a, "--json", "--threads", 1).out)
    assert [row["sha256"] for row in report["tensors"]] == [line.split()[0] for line in out[:4]]
    assert [report[key] for key in ("tensors_sha256", "metadata_sha256", "model")] == [x.split()[0] for x in out[4:]]
    assert cli("split", a, tmp_path / "s", "--max-tensors", 1, "--quiet").code == 0
    assert cli("hash", tmp_path / "s-00003-of-00004.gguf", "--quiet").out == report["model"] + "\n"
    assert cli("hash", b, "--quiet").out != report["model"] + "\n"


def test_refusals(refused: Callable, a: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert "truncated" in refused("diff", a, tmp_path / "x.gguf")
    assert "no such file" in refused("diff", a, tmp_path / "none.gguf")
    assert "truncated" in refused("hash", tmp_path / "x.gguf")


def test_values_that_differ_in_type_or_bits_only() -> None:
    nan = {"k": Value(V.FLOAT32, float("nan"))}
    assert key_changes(nan, dict(nan)) == []
    assert [c.key for c in key_changes({"k": Value(V.FLOAT32, 0.0)}, {"k": Value(V.FLOAT32, -0.0)})] == ["k"]
    strings = [Value(V.ARRAY, words, V.STRING) for words in (("a", "b", "c"), ("a", "x", "y"))]
    assert array_difference(*strings) == (1, 2)
    assert array_difference(strings[0], Value(V.ARRAY, np.array([1], np.int32), V.INT32)) is None
