from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oracles.gguf_samples import array_tensor, every_type
from oracles.split_samples import split_model
from quantmill.formats.digest import metadata_digest, model_digests
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.split import plan_split, write_split
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.ir import Model, Value, ValueType
from quantmill.formats.qtypes import BY_NAME


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_by_hand() -> None:
    """Every rule of the module's first lines, spelt out."""
    f32 = BY_NAME["F32"]
    raw = np.arange(8, dtype="<f4")
    tensors = (
        array_tensor("b", (1, 2, 2), f32, raw[:4].view(np.uint8)),
        array_tensor("a", (4,), f32, raw[4:].view(np.uint8)),
    )
    metadata = {
        "k": Value(ValueType.UINT8, 7),
        "general.alignment": Value(ValueType.UINT32, 64),
        "a": Value(ValueType.BOOL, True),
        "split.count": Value(ValueType.UINT16, 3),
    }
    digests = model_digests(Model("x", metadata, tensors, Path("x")), threads=2)
    assert digests.of == {"b": sha256(raw[:4].tobytes()), "a": sha256(raw[4:].tobytes())}
    lines = f"a\0F32\x004\0{digests.of['a']}\nb\0F32\x002,2\0{digests.of['b']}\n"
    assert digests.tensors == sha256(lines.encode())
    keys = b"\1" + bytes(7) + b"a" + b"\7\0\0\0" + b"\1" + b"\1" + bytes(7) + b"k" + b"\0\0\0\0" + b"\7"
    assert digests.metadata == sha256(keys)
    assert digests.model == sha256(f"tensors {digests.tensors}\nmetadata {digests.metadata}\n".encode())


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model("llama", split_model().metadata, every_type(), tmp_path)


def test_the_layout_does_not_count(model: Model, tmp_path: Path) -> None:
    wanted = model_digests(model)
    aligned = {**model.metadata, "general.alignment": Value(ValueType.UINT32, 4096)}
    write_gguf(tmp_path / "v2.gguf", model)
    write_gguf(tmp_path / "big.gguf", model, version=3, byteorder="big")
    write_gguf(tmp_path / "wide.gguf", replace(model, metadata=aligned))
    reordered = dict(sorted(model.metadata.items(), reverse=True))
    write_gguf(tmp_path / "other.gguf", replace(model, tensors=model.tensors[::-1], metadata=reordered))
    plan = plan_split(tmp_path / "v2.gguf", tmp_path / "s", max_tensors=5)
    write_split(plan)
    for path in [*tmp_path.glob("*.gguf")]:
        found = model_digests(read_gguf(path), threads=3)
        assert (found.model, dict(found.of)) == (wanted.model, dict(wanted.of)), path
    assert len(plan.shards) > 5


def test_all_else_counts(model: Model) -> None:
    wanted = model_digests(model).model
    first, *rest = model.tensors
    raw = first.rows(0, first.n_rows).copy()
    raw[-1, -1] ^= 1
    others = {
        "a bit": replace(model, tensors=(replace(first, read=lambda a, b: raw[a:b]), *rest)),
        "a name": replace(model, tensors=(replace(first, name="x"), *rest)),
        "a shape": replace(model, tensors=(replace(first, shape=first.shape[::-1]), *rest)),
        "a type": replace(model, tensors=(replace(first, qtype=BY_NAME["I32"]), *rest)),
        "a value": replace(model, metadata={**model.metadata, "general.name": Value(ValueType.STRING, "other")}),
        "a tensor less": replace(model, tensors=tuple(rest)),
    }
    found = {what: model_digests(other).model for what, other in others.items()}
    assert len({wanted, *found.values()}) == 1 + len(others)


def test_a_value_type_counts() -> None:
    kinds = (ValueType.UINT32, ValueType.INT32, ValueType.UINT64)
    assert len({metadata_digest({"k": Value(kind, 1)}) for kind in kinds}) == 3
