"""Sums to files and back: llama.cpp's own bytes, merging, what belongs to which model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from oracles.tiny import save_tiny_llama
from quantmill.formats.errors import FormatError, QuantmillError
from quantmill.formats.hf.load import read_hf
from quantmill.formats.imatrix_file import read_imatrix, write_imatrix
from quantmill.imatrix.matrix import check_belongs, from_imatrix, read_parts, to_imatrix
from quantmill.imatrix.stats import by_layer, statistics
from quantmill.imatrix.sums import Sums

DAT = Path(__file__).parent / "goldens" / "smollm2-1layer-3x128.dat"
GGUF = DAT.with_suffix(".gguf")


def test_both_kinds_are_llama_cpps_bytes(tmp_path: Path) -> None:
    """One run's sums, written by llama-imatrix as both kinds; we make both from the sums it wrote as GGUF."""
    golden = read_imatrix(GGUF)
    sums = from_imatrix(golden, 128)
    assert sums["blk.0.ffn_down.weight"].counts.tolist() == [3 * 128]
    for golden_file in (DAT, GGUF):
        path = tmp_path / golden_file.name
        write_imatrix(path, to_imatrix(sums, golden.datasets, 128, legacy=golden_file is DAT))
        assert path.read_bytes() == golden_file.read_bytes()


def test_official_reader_agrees(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sums = {"blk.0.ffn_down_exps.weight": Sums(rng.random((4, 32)), np.array([5, 0, 700, 1])),
            "blk.0.attn_q.weight": Sums(rng.random((1, 64)), np.array([1024]))}  # fmt: skip
    write_imatrix(tmp_path / "x.gguf", to_imatrix(sums, ["a.txt", "b.txt"], 512))
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert reader.get_field("general.type").contents() == "imatrix"
    assert reader.get_field("imatrix.datasets").contents() == ["a.txt", "b.txt"]
    assert reader.get_field("imatrix.chunk_count").contents() == 2
    assert reader.get_field("imatrix.chunk_size").contents() == 512
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(found) == 4
    for name, entry in sums.items():
        assert np.array_equal(found[name + ".in_sum2"].reshape(-1), entry.values.astype(np.float32).reshape(-1))
        assert np.array_equal(found[name + ".counts"].reshape(-1), entry.counts.astype(np.float32))


def test_legacy_by_hand() -> None:
    """10 inputs in chunks of 4 are 3 calls: sums 20, 40 become means 2, 4 times 3; an unseen expert weighs 1."""
    sums = {"w": Sums(np.array([[20.0, 40.0], [0.0, 0.0]]), np.array([10, 0])), "none": Sums.zeros(2, 2)}
    imatrix = to_imatrix(sums, ["t"], 4, legacy=True)
    assert list(imatrix.entries) == ["w"]
    assert imatrix.entries["w"].sums.tolist() == [6, 12, 3, 3]
    assert imatrix.entries["w"].counts.tolist() == [3]
    assert imatrix.chunk_count == 2
    back = from_imatrix(imatrix, 4)["w"]
    assert back.values.tolist() == [[24, 48, 12, 12]]
    assert back.counts.tolist() == [12]
    assert np.array_equal(imatrix.vectors()["w"], np.array([2, 4, 1, 1], np.float32))


def test_merging_files(tmp_path: Path) -> None:
    one, n, size = read_parts([GGUF], None)
    twice, datasets, _ = read_parts([GGUF, GGUF], None)
    assert (n, size) == (["topics.txt"], 128)
    assert datasets == ["topics.txt", "topics.txt"]
    for name, entry in one.items():
        assert np.array_equal(twice[name].values, 2 * entry.values)
        assert twice[name].counts == 2 * entry.counts
    mixed, _, _ = read_parts([GGUF, DAT], None)
    for name, entry in one.items():
        np.testing.assert_allclose(mixed[name].values, 2 * entry.values, rtol=1e-6)
        assert mixed[name].counts == 2 * entry.counts


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    model = read_hf(save_tiny_llama(tmp_path / "tiny"))
    golden = read_imatrix(GGUF)
    entry = golden.entries["blk.0.attn_q.weight"]
    with pytest.raises(QuantmillError, match=r"smollm2.*blk\.0\..* has 576 columns, the model's tensor 64"):
        check_belongs(replace(golden, entries={"blk.0.attn_q.weight": entry}), model)
    with pytest.raises(QuantmillError, match=r"smollm2.* holds no tensor of this model"):
        check_belongs(replace(golden, entries={"blk.9.attn_q.weight": entry}), model)
    other = tmp_path / "other.gguf"
    write_imatrix(other, to_imatrix({"blk.0.attn_q.weight": Sums(np.ones((1, 64)), np.array([9]))}, [], 128))
    with pytest.raises(QuantmillError, match="has 64 columns here, 576 in the files before"):
        read_parts([GGUF, other], None)
    nan = tmp_path / "nan.gguf"
    write_imatrix(nan, to_imatrix({"w": Sums(np.full((1, 4), np.nan), np.array([9]))}, [], 128))
    with pytest.raises(FormatError, match="w: a sum is not finite"):
        read_parts([nan], None)


@pytest.mark.parametrize("golden", [DAT, GGUF], ids=["dat", "gguf"])
def test_truncated_files(golden: Path, tmp_path: Path) -> None:
    data = golden.read_bytes()
    path = tmp_path / golden.name
    for size in (3, 40, len(data) // 2, len(data) - 33):  # a GGUF ends in padding
        path.write_bytes(data[:size])
        with pytest.raises(FormatError) as caught:
            read_parts([path], None)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_statistics_by_hand() -> None:
    """Columns of mean square 1, 1, 2, 4: half of the sum lies in one column; 1/8, 1/8, 1/4, 1/2 have 1.75 bits."""
    entry = Sums(np.array([[2.0, 2.0, 4.0, 8.0]]), np.array([2]))
    sums = {"blk.1.attn_q.weight": entry, "blk.0.attn_q.weight": Sums(entry.values * 3, entry.counts),
            "output.weight": entry, "blk.0.ffn_up_exps.weight": Sums.zeros(2, 2)}  # fmt: skip
    rows = statistics(sums)
    assert [(row.tensor, row.layer) for row in rows] == [("attn_q", 0), ("attn_q", 1), ("output", None)]
    row = rows[1]
    assert (row.total, row.smallest, row.largest, row.mean, row.n) == (8, 1, 4, 2, 4)
    assert row.deviation == pytest.approx(np.sqrt(1.5))
    assert row.entropy == pytest.approx(1.75)
    assert (row.active, row.high) == (1, 0.25)
    assert row.similarity == pytest.approx(1)
    assert rows[0].similarity == 0
    assert by_layer(rows) == {0: (24, 0.25, 0), 1: (8, 0.25, pytest.approx(1))}
    idle = replace_values(entry, [0.0, 0.0, 2.0, 2.0])
    assert statistics({"w": idle})[0].active == 0.5


def replace_values(entry: Sums, values: list[float]) -> Sums:
    return replace(entry, values=np.array([values]))
