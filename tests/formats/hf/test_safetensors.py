"""The reader against the safetensors library, and against files that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from quantmill.formats.errors import FormatError
from quantmill.formats.hf.files.safetensors import DTYPE_BITS, read_safetensors, write_safetensors


def raw_file(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(shape: list[Any], start: Any, end: Any, dtype: Any = "F16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "b.matrix": rng.normal(size=(5, 7)).astype(np.float32),
        "a.cube": rng.normal(size=(2, 3, 4)).astype(np.float16),
        "c.scalar": np.array(3.5, np.float32),
        "d.empty": np.zeros((0, 4), np.float32),
        "e.ids": np.arange(6, dtype=np.int64),
    }
    save_file(arrays, tmp_path / "m.safetensors")
    found = read_safetensors(tmp_path / "m.safetensors")
    assert list(found) == sorted(arrays)
    for name, array in arrays.items():
        stored = found[name]
        assert stored.shape == array.shape
        n = int(np.prod(array.shape[:-1]))
        assert stored.rows(0, n).tobytes() == array.tobytes()
    assert found["b.matrix"].rows(2, 4).tobytes() == arrays["b.matrix"][2:4].tobytes()
    assert found["c.scalar"].tensor().n_rows == 1
    with pytest.raises(FormatError, match=r"e\.ids: dtype I64 cannot be converted"):
        found["e.ids"].tensor()


def test_what_it_writes_the_library_reads(tmp_path: Path) -> None:
    arrays = {f"t{i}": np.full((3, 5), i, dtype) for i, dtype in enumerate((np.float16, np.float32) * 3)}
    save_file(arrays, tmp_path / "in.safetensors")
    tensors = [stored.tensor() for stored in read_safetensors(tmp_path / "in.safetensors").values()]
    (path,) = write_safetensors(tmp_path, tensors)
    assert {k: v.tolist() for k, v in load_file(path).items()} == {k: v.tolist() for k, v in arrays.items()}
    with safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_hold_what_fits_and_the_index_finds_it(tmp_path: Path) -> None:
    save_file({f"t{i}": np.full((4, 4), i, np.float32) for i in range(5)}, tmp_path / "in.safetensors")
    tensors = [stored.tensor() for stored in read_safetensors(tmp_path / "in.safetensors").values()]
    *shards, index = write_safetensors(tmp_path, tensors, max_shard_bytes=130)  # two of 64 bytes fit
    assert [path.name for path in shards] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    content = json.loads(index.read_text())
    assert content["metadata"] == {"total_parameters": 80, "total_size": 320}
    for name, shard in content["weight_map"].items():
        assert name in load_file(tmp_path / shard)


GOOD = {"a": entry([2, 2], 0, 8), "b": entry([4], 8, 16)}
BAD: dict[str, tuple[Any, int, str]] = {
    "not json": (
        b"{nope",
        0,
        "byte 8: not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1) "
        "(download it again)",
    ),
    "not utf-8": (b"\xff\xfe{}", 0, "byte 8: not UTF-8 at byte 0 (download it again)"),
    "a list": ([], 0, "byte 8: the header is not a JSON object"),
    "deep": (b"[" * 100_000, 0, "byte 8: not JSON that can be read: nested too deep (download it again)"),
    "long number": (
        b'{"a": ' + b"9" * 6000 + b"}",
        0,
        "byte 8: not JSON: a number of thousands of digits (download it again)",
    ),
    "twice": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        1,
        "'a' appears twice in the header (the file is damaged)",
    ),
    "dtype": ({"a": entry([2], 0, 4, "F12")}, 4, "a: unknown dtype 'F12'"),
    "dtype list": ({"a": entry([2], 0, 4, ["F16"])}, 4, "a: unknown dtype ['F16']"),
    "no object": ({"a": 3}, 4, "a: unknown dtype None"),
    "negative size": ({"a": entry([-2], 0, 4)}, 4, "a: [-2] is not a valid shape"),
    "boolean size": ({"a": entry([True], 0, 2)}, 2, "a: [True] is not a valid shape"),
    "many axes": ({"a": entry([1] * 9, 0, 2)}, 2, "a: [1, 1, 1, 1, 1, 1, 1, 1, 1] is not a valid shape"),
    "backwards": ({"a": entry([2], 4, 0)}, 4, "a: [4, 0] are not valid data offsets"),
    "float offsets": ({"a": entry([2], 0.0, 4.0)}, 4, "a: [0.0, 4.0] are not valid data offsets"),
    "too small": ({"a": entry([3], 0, 4)}, 4, "a: F16 [3] takes 6 bytes, its data has 4"),
    "half bytes": ({"a": entry([3], 0, 1, "F4")}, 1, "a: F4 [3] takes 1.5 bytes, its data has 1"),
    "overlap": (
        {"a": entry([2, 2], 0, 8), "b": entry([4], 4, 12)},
        12,
        "b: its data overlaps that of a (the file is damaged)",
    ),
    "hole": ({"a": entry([2], 0, 4), "b": entry([2], 8, 12)}, 12, "b: a hole of 4 bytes (the file is damaged)"),
    "rest": (GOOD, 20, "4 bytes after the last tensor (the file is damaged)"),
}

STRICTER = {"twice", "many axes"}  # than the library, which refuses all the others


@pytest.mark.parametrize("name", BAD)
def test_lies_are_told_in_one_line(name: str, tmp_path: Path) -> None:
    header, size, message = BAD[name]
    path = raw_file(tmp_path / "x.safetensors", header, bytes(size))
    with pytest.raises(FormatError) as error:
        read_safetensors(path)
    assert str(error.value) == f"{path}: {message}"
    if name not in STRICTER:
        with pytest.raises(SafetensorError), safe_open(path, "np"):
            pass


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    whole = raw_file(tmp_path / "x.safetensors", GOOD, bytes(16)).read_bytes()
    path = tmp_path / "cut.safetensors"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError) as error:
            read_safetensors(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "truncated" in str(error.value)
    path.write_bytes(whole)
    assert list(read_safetensors(path)) == ["a", "b"]


def test_truncated_data_names_the_tensor(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "x.safetensors", GOOD, bytes(15))
    start = path.stat().st_size - 15
    with pytest.raises(FormatError) as error:
        read_safetensors(path)
    ends = f"its data ends at byte {start + 16}, the file has {start + 15}"
    assert str(error.value) == f"{path}: b: truncated: {ends} (download it again)"


def test_a_giant_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "x.safetensors", b"{}", length=1 << 62)
    with pytest.raises(FormatError) as error:
        read_safetensors(path)
    assert str(error.value) == f"{path}: byte 0: not a safetensors file: a header of {1 << 62} bytes"


def test_a_file_that_shrinks_while_read(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "x.safetensors", GOOD, bytes(16))
    stored = read_safetensors(path)["b"]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FormatError) as error:
        stored.rows(0, 1)
    again = "bring the file back as it was and run the same command again"
    assert str(error.value) == f"{path}: b: the file became shorter while it was read ({again})"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_headers_never_do_worse_than_a_format_error(data: st.DataObject, tmp_path: Path) -> None:
    whole = bytearray(raw_file(tmp_path / "good", GOOD, bytes(16)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.safetensors"
    path.write_bytes(whole)
    try:
        found = read_safetensors(path)
    except FormatError:
        return
    for stored in found.values():
        n = int(np.prod(stored.shape[:-1], dtype=np.int64))
        assert stored.rows(0, n).nbytes == stored.nbytes


def test_every_dtype_of_the_library_has_its_size() -> None:
    assert set(DTYPE_BITS) >= {
        "BOOL",
        "U8",
        "I8",
        "F8_E4M3",
        "F8_E5M2",
        "I16",
        "F16",
        "BF16",
        "I32",
        "F32",
        "I64",
        "F64",
    }


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_whole_numbers_are_read_as_i32(dtype: Any, tmp_path: Path) -> None:
    numbers = np.array([[0, -7], [2**31 - 1, -(2**31)]], dtype)
    save_file({"table": numbers, "long": np.array([[2**31]], np.int64), "x": np.ones(2, np.float32)}, tmp_path / "m")
    found = read_safetensors(tmp_path / "m")
    table = found["table"].whole_numbers()
    assert (table.qtype.name, table.shape) == ("I32", (2, 2))
    assert np.array_equal(np.ascontiguousarray(table.rows(0, 2)).view("<i4"), numbers)
    with pytest.raises(FormatError, match="long: a number does not fit in 32 bits"):
        found["long"].whole_numbers().rows(0, 1)
    with pytest.raises(FormatError, match="dtype F32 is not I32 or I64"):
        found["x"].whole_numbers()
