"""Importance matrix files of both kinds: by hand, there and back, and damaged in every way."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantmill.formats.errors import FormatError
from quantmill.formats.imatrix_file import Entry, Imatrix, read_imatrix, write_imatrix
from quantmill.formats.ir import Value, ValueType

# One entry "ab" over 3 chunks with values 3, 6; 7 chunks in all, of the text "t.txt".
DAT = (
    struct.pack("<i", 1)
    + struct.pack("<i", 2) + b"ab" + struct.pack("<ii", 3, 2) + struct.pack("<ff", 3.0, 6.0)
    + struct.pack("<ii", 7, 5) + b"t.txt"
)  # fmt: skip


def entry(sums: list[float], counts: list[int]) -> Entry:
    return Entry(np.array(sums, np.float32), np.array(counts, np.int64))


@pytest.fixture
def experts() -> Imatrix:
    """A dense matrix of 3 columns, and two experts of which the second was never asked."""
    return Imatrix(
        {"blk.0.attn_q.weight": entry([2, 4, 8], [2]), "blk.0.ffn_up_exps.weight": entry([5, 10, 0, 0], [5, 0])},
        ("wiki.txt", "code.txt"),
        chunk_count=4,
        chunk_size=512,
    )


def test_dat_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "x.dat"
    path.write_bytes(DAT)
    imatrix = read_imatrix(path)
    assert imatrix.legacy
    assert (imatrix.chunk_count, imatrix.chunk_size, imatrix.datasets) == (7, 0, ("t.txt",))
    assert list(imatrix.vectors()) == ["ab"]
    assert imatrix.vectors()["ab"].tolist() == [1.0, 2.0]


def test_old_dat_without_a_trailer(tmp_path: Path) -> None:
    path = tmp_path / "x.dat"
    path.write_bytes(DAT[:-13])
    assert read_imatrix(path).chunk_count == 0
    path.write_bytes(DAT[:-9])
    assert read_imatrix(path).chunk_count == 7


def test_no_calls_means_no_division(tmp_path: Path) -> None:
    imatrix = Imatrix({"a": entry([3, 6], [0])}, legacy=True)
    assert imatrix.vectors()["a"].tolist() == [3, 6]


def test_gguf_vectors_by_hand(experts: Imatrix) -> None:
    vectors = experts.vectors()
    assert vectors["blk.0.attn_q.weight"].tolist() == [1, 2, 4]
    assert vectors["blk.0.ffn_up_exps.weight"].tolist() == [1, 2, 1, 1]
    assert all(vector.dtype == np.float32 for vector in vectors.values())


@pytest.mark.parametrize("legacy", [True, False])
def test_there_and_back(experts: Imatrix, legacy: bool, tmp_path: Path) -> None:
    entries = {"a": entry([1, 2], [3]), "b": entry([4], [5])} if legacy else experts.entries
    before = Imatrix(entries, ("wiki.txt",), 4, 0 if legacy else 512, legacy)
    write_imatrix(tmp_path / "x", before)
    after = read_imatrix(tmp_path / "x")
    assert (after.datasets, after.chunk_count, after.chunk_size) == (("wiki.txt",), 4, before.chunk_size)
    assert after.legacy is legacy
    assert list(after.entries) == sorted(before.entries)
    for name, old in before.entries.items():
        assert np.array_equal(after.entries[name].sums, old.sums)
        assert np.array_equal(after.entries[name].counts, old.counts)


def test_the_official_reader_reads_ours(experts: Imatrix, tmp_path: Path) -> None:
    import gguf

    write_imatrix(tmp_path / "x.gguf", experts)
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["wiki.txt", "code.txt"]
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert tensors["blk.0.ffn_up_exps.weight.in_sum2"].tolist() == [[5, 10], [0, 0]]
    assert tensors["blk.0.ffn_up_exps.weight.counts"].tolist() == [[5], [0]]


def test_provenance_is_llama_quantizes(experts: Imatrix) -> None:
    keys = experts.provenance("d/x.gguf")
    assert keys == {
        "quantize.imatrix.file": Value(ValueType.STRING, "d/x.gguf"),
        "quantize.imatrix.dataset": Value(ValueType.STRING, "wiki.txt"),
        "quantize.imatrix.entries_count": Value(ValueType.UINT32, 2),
        "quantize.imatrix.chunks_count": Value(ValueType.UINT32, 4),
    }
    assert len(experts.provenance("y" * 300)["quantize.imatrix.file"].data) == 127
    assert list(Imatrix({}).provenance("z")) == ["quantize.imatrix.file", "quantize.imatrix.entries_count"]


@pytest.mark.parametrize("legacy", [True, False])
def test_truncated_anywhere(experts: Imatrix, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "x"
    whole = Imatrix({"a": entry([1, 2], [3])}, ("t.txt",), 4, legacy=True) if legacy else experts
    write_imatrix(path, whole)
    data = path.read_bytes()
    fine = {len(data) - 13, len(data) - 9} if legacy else set(range(len(data) - 31, len(data)))
    for n in set(range(len(data))) - fine:
        path.write_bytes(data[:n])
        with pytest.raises(FormatError):
            read_imatrix(path)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "only 0 remain"),
        (b"this is a text and no importance matrix", "entries in"),
        (struct.pack("<i", 0), "0 entries"),
        (DAT[:4] + struct.pack("<i", -5) + DAT[8:], "a name has -5 bytes"),
        (DAT[:4] + struct.pack("<i", 2**30) + DAT[8:], "a name has 1073741824 bytes"),
        (DAT[:14] + struct.pack("<i", 2**30) + DAT[18:], "values has 4294967296 bytes"),
        (DAT[:14] + struct.pack("<i", 0) + DAT[18:], "ab: 0 values"),
        (struct.pack("<i", 2) + DAT[4:26] * 2, "ab: a second entry"),
        (DAT + b"!", "1 bytes too many"),
    ],
)
def test_damaged_dat(data: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "x.dat"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=problem) as caught:
        read_imatrix(path)
    assert caught.value.path == path


def test_a_model_is_no_imatrix(tmp_path: Path) -> None:
    from quantmill.formats.gguf.writer import layout

    path = tmp_path / "model.gguf"
    path.write_bytes(layout({"general.architecture": Value(ValueType.STRING, "llama")}, []).header)
    with pytest.raises(FormatError, match="is not an importance matrix"):
        read_imatrix(path)
    with pytest.raises(FormatError, match="cannot be read"):
        read_imatrix(tmp_path / "absent")


def test_half_an_entry(experts: Imatrix, tmp_path: Path) -> None:
    from quantmill.formats.gguf.writer import TensorInfo, layout
    from quantmill.formats.imatrix_file import gguf_form

    metadata, tensors = gguf_form(experts)
    place = layout(metadata, [tensors[0][0]])
    path = tmp_path / "x.gguf"
    path.write_bytes(place.header + bytes(place.size - len(place.header)))
    with pytest.raises(FormatError, match=r"blk.0.attn_q.weight: has no .counts"):
        read_imatrix(path)
    infos = [tensors[0][0], TensorInfo("blk.0.attn_q.weight.counts", (2,), tensors[0][0].qtype)]
    place = layout(metadata, infos)
    path.write_bytes(place.header + bytes(place.size - len(place.header)))
    with pytest.raises(FormatError, match="3 sums do not divide by 2 counts"):
        read_imatrix(path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(0, len(DAT)))
def test_noise_is_an_error_or_a_file(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.dat"
    path.write_bytes(DAT[:at] + noise)
    try:
        vectors = read_imatrix(path).vectors()
    except FormatError:
        return
    assert all(vector.size for vector in vectors.values())
