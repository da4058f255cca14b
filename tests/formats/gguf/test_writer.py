from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles.gguf_samples import array_tensor, without_official_gaps
from quantmill.formats.errors import PlanError
from quantmill.formats.gguf.keys import typed
from quantmill.formats.gguf.reader import read_gguf, read_header
from quantmill.formats.gguf.wire import ByteOrder
from quantmill.formats.gguf.writer import TensorInfo, ggml_shape, layout, write_gguf
from quantmill.formats.ir import Model, Value, ValueType
from quantmill.formats.qtypes import BY_NAME, F16, F32

V = ValueType


def test_a_minimal_header_by_hand() -> None:
    plan = layout({"k": Value(V.UINT8, 7)}, [TensorInfo("t", (2, 3), F16)])
    by_hand = (
        b"GGUF"
        + struct.pack("<IQQ", 2, 1, 1)  # version, tensors, keys
        + struct.pack("<Q", 1) + b"k" + struct.pack("<IB", 0, 7)
        + struct.pack("<Q", 1) + b"t" + struct.pack("<IQQIQ", 2, 3, 2, 1, 0)  # axes innermost first, type, offset
    )  # fmt: skip
    assert len(by_hand) == 24 + 14 + 41
    assert plan.header == by_hand + bytes(96 - 79)
    assert plan.offsets == (96,)
    assert plan.size == 128  # 12 bytes of weights, padded


def test_big_endian_by_hand() -> None:
    plan = layout({"k": Value(V.UINT16, 1)}, [], version=3, byteorder="big")
    by_hand = b"GGUF" + struct.pack(">IQQQ", 3, 0, 1, 1) + b"k" + struct.pack(">IH", 2, 1)
    assert plan.header == by_hand + bytes(64 - len(by_hand))


def official(path: Path, model: Model, big: bool) -> None:
    """The same file by the official writer, version 3."""
    endian = gguf.GGUFEndian.BIG if big else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(path, "llama", endianess=endian)
    for key, value in list(model.metadata.items()):
        sub = None if value.item is None else gguf.GGUFValueType(value.item.value)
        data = value.data.tolist() if isinstance(value.data, np.ndarray) else value.data
        data = list(data) if isinstance(data, tuple) else data
        writer.add_key_value(key, data, gguf.GGUFValueType(value.type.value), sub_type=sub)
    for tensor in model.tensors:
        raw = np.array(tensor.rows(0, tensor.n_rows)).reshape(*tensor.shape[:-1], -1)
        kind = gguf.GGMLQuantizationType(tensor.qtype.id)
        # Bytes have no order: what the writer swaps is only what we tell it is wider.
        writer.add_tensor(tensor.name, raw, raw_dtype=kind, tensor_endianess=endian)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_bytes_are_those_of_the_official_writer(model: Model, tmp_path: Path) -> None:
    model = replace(model, tensors=without_official_gaps(model.tensors))
    assert len(model.tensors) >= 30
    official(tmp_path / "theirs.gguf", model, big=False)
    write_gguf(tmp_path / "ours.gguf", model, version=3)
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


def test_a_big_endian_header_is_that_of_the_official_writer(model: Model, tmp_path: Path) -> None:
    model = replace(model, tensors=without_official_gaps(model.tensors))
    official(tmp_path / "theirs.gguf", model, big=True)
    plan = write_gguf(tmp_path / "ours.gguf", model, version=3, byteorder="big")
    theirs = (tmp_path / "theirs.gguf").read_bytes()
    assert plan.header == theirs[: len(plan.header)]
    assert plan.size == len(theirs)


def test_version_2_differs_from_3_in_its_number_only(model: Model, tmp_path: Path) -> None:
    two, three = tmp_path / "2.gguf", tmp_path / "3.gguf"
    write_gguf(two, model)
    write_gguf(three, model, version=3)
    a, b = two.read_bytes(), three.read_bytes()
    assert (a[4:8], b[4:8]) == (b"\x02\0\0\0", b"\x03\0\0\0")
    assert a[8:] == b[8:]


@pytest.mark.parametrize(("version", "byteorder"), [(2, "little"), (3, "little"), (3, "big")])
def test_a_model_returns(
    model: Model, tmp_path: Path, version: int, byteorder: ByteOrder, equal: Callable[[Model, Model], None]
) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, model, version=version, byteorder=byteorder)
    equal(read_gguf(path), model)
    assert read_header(path).byteorder == byteorder
    again = tmp_path / "again.gguf"
    write_gguf(again, read_gguf(path), version=version, byteorder=byteorder)
    assert again.read_bytes() == path.read_bytes()


def test_a_big_endian_float_is_big_endian(tmp_path: Path) -> None:
    raw = np.array([1.0, 2.0], "<f4").view(np.uint8)
    model = Model("llama", {}, (array_tensor("t", (2,), F32, raw),), Path("x"))
    plan = write_gguf(tmp_path / "b.gguf", model, version=3, byteorder="big")
    data = (tmp_path / "b.gguf").read_bytes()[plan.offsets[0] :]
    assert data[:8] == struct.pack(">ff", 1.0, 2.0)


@given(
    st.lists(
        st.tuples(st.sampled_from(list(BY_NAME.values())), st.lists(st.integers(0, 3), min_size=1, max_size=4)),
        max_size=6,
    ),
    st.sampled_from([None, 8, 32, 64, 4096]),
)
def test_tensors_are_aligned_in_order_and_apart(drawn: list[tuple[object, list[int]]], alignment: int | None) -> None:
    infos = [
        TensorInfo(f"t{i}", (*dims[:-1], dims[-1] * qtype.block_size), qtype)  # type: ignore[attr-defined, arg-type]
        for i, (qtype, dims) in enumerate(drawn)
    ]
    metadata = {} if alignment is None else {"general.alignment": typed("general.alignment", alignment)}
    plan = layout(metadata, infos)
    step = alignment or 32
    assert plan.alignment == step
    assert len(plan.header) % step == 0
    at = len(plan.header)
    for offset, info in zip(plan.offsets, infos, strict=True):
        assert offset == at
        at += -(-info.nbytes // step) * step
    assert plan.size == at


def test_leading_ones_as_llama_cpp_drops_them() -> None:
    assert [ggml_shape(s) for s in [(1, 1, 5), (1,), (), (2, 1), (1, 2)]] == [(5,), (1,), (), (2, 1), (2,)]


@pytest.mark.parametrize(
    ("infos", "options", "problem"),
    [
        ([TensorInfo("a", (1,), F32)] * 2, {}, "second tensor"),
        ([TensorInfo("a" * 64, (1,), F32)], {}, "63 bytes"),
        ([TensorInfo("a", (1, 1, 1, 1, 1), F32)], {}, "5 axes"),
        ([TensorInfo("a", (100,), BY_NAME["Q4_K"])], {}, "not a multiple of Q4_K's block of 256"),
        ([TensorInfo("a", (), BY_NAME["Q8_0"])], {}, "single number"),
        ([], {"version": 1}, "version 1"),
        ([], {"byteorder": "big"}, "needs GGUF version 3"),
        ([], {"alignment": 48}, "power of two"),
        ([], {"alignment": 64}, "metadata says 32"),
    ],
)
def test_what_no_reader_could_load_is_refused(
    infos: list[TensorInfo], options: dict[str, object], problem: str
) -> None:
    with pytest.raises(PlanError, match=problem):
        layout({}, infos, **options)  # type: ignore[arg-type]
