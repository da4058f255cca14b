"""Second moments in importance matrix files: by hand, there and back, beside what llama.cpp reads, and damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantmill.formats.errors import FormatError, PlanError
from quantmill.formats.gguf.writer import TensorInfo, ggml_shape, layout
from quantmill.formats.imatrix_file import Entry, Imatrix, gguf_form, read_imatrix, write_imatrix
from quantmill.formats.ir import Metadata, Value, ValueType
from quantmill.formats.moments_file import Moments, block_bounds, pack, packed_size, unpack
from quantmill.formats.qtypes import BY_NAME, F32

Q, K, EXPERTS = "blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.ffn_up_exps.weight"
# q and k saw (1, 2, 3) and (0, 1, -1); S = [[1,2,3],[2,5,5],[3,5,10]], of which blocks of 2 keep 1,2,5 and 10.
# Of two experts the first saw (2, 0, 1) alone, the second nothing.
SUMS = {Q: [1, 5, 10], K: [1, 5, 10], EXPERTS: [4, 0, 1, 0, 0, 0]}
COUNTS = {Q: [2], K: [2], EXPERTS: [1, 0]}
PACKED = {Q: [[1, 2, 5, 10]], EXPERTS: [[4, 0, 0, 1], [0, 0, 0, 0]]}


def by_hand() -> Imatrix:
    counts = {name: np.array(n, np.int64) for name, n in COUNTS.items()}
    entries = {name: Entry(np.array(sums, np.float32), counts[name]) for name, sums in SUMS.items()}
    inputs = {Q: Q, K: Q, EXPERTS: EXPERTS}
    load = lambda holder, matrix: np.array(PACKED[holder][matrix], np.float32)  # noqa: E731
    moments = Moments(2, inputs, {Q: 3, EXPERTS: 3}, counts, load)
    return Imatrix(entries, ("t.txt",), 1, 2, moments=moments)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_imatrix(tmp_path / "x.gguf", by_hand())
    return tmp_path / "x.gguf"


def moments_of(path: Path) -> Moments:
    moments = read_imatrix(path).moments
    assert moments is not None
    return moments


def test_by_hand(path: Path) -> None:
    moments = moments_of(path)
    assert moments.block_width == 2
    assert [moments.holder(name) for name in (Q, K, EXPERTS, "output.weight")] == [Q, Q, EXPERTS, None]
    for name in (Q, K):
        assert [block.tolist() for block in moments.blocks(name)] == [[[0.5, 1], [1, 2.5]], [[5]]]
        assert (moments.count(name), moments.width(name), moments.n_matrices(name)) == (2, 3, 1)
    assert [block.tolist() for block in moments.blocks(EXPERTS, 0)] == [[[4, 0], [0, 0]], [[1]]]
    assert [block.tolist() for block in moments.blocks(EXPERTS, 1)] == [[[0, 0], [0, 0]], [[0]]]
    assert [moments.count(EXPERTS, matrix) for matrix in (0, 1)] == [1, 0]
    assert moments.blocks(Q)[0].dtype == np.float64
    assert moments.nbytes == 4 * (4 + 8)


def test_the_bytes(path: Path) -> None:
    """What the file says, as the official reader has it: one tensor an input, and who shares it."""
    reader = gguf.GGUFReader(path)
    assert reader.fields["quantmill.moments.block_width"].contents() == 2
    assert reader.fields["quantmill.moments.tensors"].contents() == [K, Q, EXPERTS]
    assert reader.fields["quantmill.moments.inputs"].contents() == [Q, Q, EXPERTS]
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(found) == 2 * 3 + 2
    assert found[Q + ".moments"].tolist() == [1, 2, 5, 10]
    assert found[EXPERTS + ".moments"].tolist() == PACKED[EXPERTS]
    assert found[EXPERTS + ".moments"].dtype == np.float32


def test_a_plain_file_has_none_and_keeps_its_bytes(path: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.gguf"
    write_imatrix(plain, replace(by_hand(), moments=None))
    assert read_imatrix(plain).moments is None
    metadata, tensors = gguf_form(by_hand())
    assert plain.read_bytes().startswith(layout(metadata, [info for info, _ in tensors], version=3).header)
    ours, theirs = read_imatrix(path), read_imatrix(plain)
    assert {name: vector.tolist() for name, vector in ours.vectors().items()} == {
        name: vector.tolist() for name, vector in theirs.vectors().items()
    }


def test_there_and_back(path: Path, tmp_path: Path) -> None:
    write_imatrix(tmp_path / "again.gguf", read_imatrix(path))
    assert (tmp_path / "again.gguf").read_bytes() == path.read_bytes()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 48))
def test_blocks_cover_the_diagonal(width: int, block_width: int) -> None:
    x = np.random.default_rng(width).integers(-9, 9, (7, width)).astype(np.float32)
    whole = x.T @ x
    bounds = block_bounds(width, block_width)
    assert [column for start, end in bounds for column in range(start, end)] == list(range(width))
    packed = np.full(packed_size(width, block_width), np.nan, np.float32)
    at = 0
    for start, end in bounds:
        size = packed_size(end - start, end - start)
        pack(whole[start:end, start:end], packed[at : at + size])
        assert np.array_equal(unpack(packed[at : at + size], end - start), whole[start:end, start:end])
        at += size
    assert at == packed.size
    assert not np.isnan(packed).any()


def test_read_by_many_threads(path: Path) -> None:
    moments = moments_of(path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: moments.blocks((Q, EXPERTS)[i % 2])[0].tolist(), range(200)))
    assert found == [[[0.5, 1], [1, 2.5]], [[4, 0], [0, 0]]] * 100


def test_what_is_absent_is_named(path: Path) -> None:
    moments = moments_of(path)
    with pytest.raises(PlanError, match=r"x\.gguf: output\.weight: has no second moments \(make .*--second-moments"):
        moments.blocks("output.weight")
    with pytest.raises(PlanError, match=r"attn_k.*has 1 matrices, but no matrix 1"):
        moments.count(K, 1)


# The loader of common/imatrix-loader.cpp in terms of ggml's C functions: each tensor by its name.
LOADER = """
import ctypes, json, sys
from importlib.util import find_spec
from pathlib import Path
lib = ctypes.CDLL(str(next(Path(find_spec("xllamacpp").origin).parent.glob("xllamacpp*.so"))))
class Params(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(ctypes.c_void_p))]
for name in ("gguf_init_from_file", "ggml_get_first_tensor", "ggml_get_next_tensor", "ggml_get_data_f32"):
    getattr(lib, name).restype = ctypes.c_void_p
lib.gguf_init_from_file.argtypes = [ctypes.c_char_p, Params]
lib.ggml_get_name.restype, lib.ggml_nelements.restype = ctypes.c_char_p, ctypes.c_int64
context = ctypes.c_void_p()
assert lib.gguf_init_from_file(sys.argv[1].encode(), Params(False, ctypes.pointer(context))), "refused"
tensor, found = lib.ggml_get_first_tensor(context), {}
while tensor:
    at = ctypes.c_void_p(tensor)
    n = lib.ggml_nelements(at)
    values = ctypes.cast(lib.ggml_get_data_f32(at), ctypes.POINTER(ctypes.c_float))
    found[lib.ggml_get_name(at).decode()] = values[:n]
    tensor = lib.ggml_get_next_tensor(context, at)
print(json.dumps(found))
"""


def test_llama_cpp_reads_it(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOADER, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, sums in SUMS.items():
        assert found.pop(name + ".in_sum2") == sums
        assert found.pop(name + ".counts") == COUNTS[name]
    # The loader passes over suffixes that it does not know; ggml itself adds a tensor for the file's data.
    assert set(found) - {"GGUF tensor data binary blob"} == {Q + ".moments", EXPERTS + ".moments"}


def write_raw(path: Path, metadata: Metadata, tensors: list[tuple[TensorInfo, NDArray[np.float32]]]) -> None:
    place = layout(metadata, [info for info, _ in tensors], version=3)
    data = bytearray(place.size)
    data[: len(place.header)] = place.header
    for offset, (_, values) in zip(place.offsets, tensors, strict=True):
        data[offset : offset + values.nbytes] = values.tobytes()
    path.write_bytes(data)


def raw_parts() -> tuple[dict[str, Value], list[tuple[TensorInfo, NDArray[np.float32]]]]:
    imatrix = by_hand()
    assert imatrix.moments is not None
    metadata, tensors = gguf_form(imatrix)
    for holder, packed in PACKED.items():
        values = np.array(packed, np.float32)
        tensors.append((TensorInfo(holder + ".moments", ggml_shape(values.shape), F32), values))
    return {**metadata, **imatrix.moments.metadata()}, tensors


def strings(*values: str) -> Value:
    return Value(ValueType.ARRAY, values, ValueType.STRING)


KEY = "quantmill.moments."


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"block_width": Value(ValueType.UINT32, 0)}, r"block_width: must be a uint32 above 0, is 0"),
        ({"block_width": Value(ValueType.STRING, "2")}, "block_width: must be a uint32"),
        ({"block_width": Value(ValueType.INT32, -2)}, "block_width: must be a uint32"),
        ({"block_width": Value(ValueType.UINT32, 3)}, r"attn_q.weight.moments: has shape \[4\], must have \[6\]"),
        ({"block_width": Value(ValueType.UINT32, 2**32 - 1)}, r"has shape \[4\], must have \[6\]"),
        ({"block_width": None}, "block_width: missing"),
        ({"inputs": None}, "inputs: missing"),
        ({"tensors": Value(ValueType.STRING, Q)}, "tensors: is not an array of strings"),
        ({"inputs": strings(Q)}, "1 holders for 3 tensors"),
        ({"tensors": strings(Q, Q, EXPERTS)}, "named twice"),
        ({"inputs": strings(Q, Q, "blk.9.x")}, "but no sums for 'blk.9.x'"),
        ({"tensors": strings(K, Q, "blk.9.x")}, "but no sums for 'blk.9.x'"),
        ({"inputs": strings(K, K, EXPERTS)}, f"moments of '{K}', which has none"),
        ({"inputs": strings(EXPERTS, Q, EXPERTS)}, "has other columns"),
        ({"inputs": strings(Q, K, EXPERTS)}, "which has none"),
    ],
)
def test_hostile_keys(keys: dict[str, Value | None], problem: str, tmp_path: Path) -> None:
    metadata, tensors = raw_parts()
    changed = {**metadata, **{KEY + key: value for key, value in keys.items()}}
    write_raw(tmp_path / "x.gguf", {key: value for key, value in changed.items() if value is not None}, tensors)
    with pytest.raises(FormatError, match=problem) as caught:
        read_imatrix(tmp_path / "x.gguf")
    assert str(tmp_path / "x.gguf") in str(caught.value)
    assert "--second-moments" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hostile_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    metadata, tensors = raw_parts()
    for changed, problem in (
        (tensors[:-2], "which has none"),
        (
            [*tensors[:-1], (TensorInfo(EXPERTS + ".moments", (8,), F32), tensors[-1][1])],
            r"shape \[8\], must have \[2, 4\]",
        ),
        ([*tensors[:-2], (TensorInfo(Q + ".moments", (8,), BY_NAME["F16"]), tensors[-2][1]), tensors[-1]], "is F16"),
    ):
        write_raw(path, metadata, changed)
        with pytest.raises(FormatError, match=problem):
            read_imatrix(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sum_that_is_not_finite(bad: float, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    metadata, tensors = raw_parts()
    tensors[-1][1][0, 1] = bad
    write_raw(path, metadata, tensors)
    moments = moments_of(path)
    assert len(moments.blocks(EXPERTS, 1)) == 2
    with pytest.raises(FormatError, match=r"x\.gguf: blk\.0\.ffn_up_exps\.weight\.moments: .*matrix 0 is not finite"):
        moments.blocks(EXPERTS, 0)


def test_truncated_anywhere(path: Path) -> None:
    data = path.read_bytes()
    for n in range(0, len(data) - 31, 7):
        path.write_bytes(data[:n])
        with pytest.raises(FormatError):
            read_imatrix(path)


def test_random_damage_is_an_error_or_a_file(path: Path) -> None:
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(5)
    read = 0
    for _ in range(400):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 2):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            moments = read_imatrix(path).moments
            for name in moments.inputs if moments else ():
                assert all(np.isfinite(block).all() for block in moments.blocks(name))
            read += 1
        except (FormatError, PlanError):
            continue
    assert 0 < read < 400
