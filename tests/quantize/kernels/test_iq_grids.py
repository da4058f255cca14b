"""The codebooks and what is derived from them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from oracles.make_codebooks import points
from quantmill.formats.errors import QuantmillError
from quantmill.quantize.kernels import grids
from quantmill.quantize.kernels.grids import BOOKS, codebook, load_grid, neighbours, unpack

SIZES = {"iq1": 2048, "iq2_xxs": 256, "iq2_xs": 512, "iq2_s": 1024, "iq3_xxs": 256, "iq3_s": 512}


def test_codebooks_are_what_llama_cpp_decodes():
    decoded = points()
    assert decoded.keys() == BOOKS.keys()
    for name, values in decoded.items():
        assert len(values) == SIZES[name]
        assert np.array_equal(load_grid(name).values, values), name


@pytest.mark.parametrize("name", list(BOOKS))
def test_neighbours_are_the_nearest_in_the_cs_order(name: str):
    """For some points off the codebook, against the definition: sort all by distance and index, cut by distance."""
    book, packed, grid = BOOKS[name], codebook(name), load_grid(name)
    coordinates = unpack(packed, book)
    off = np.flatnonzero(grid.slot)
    assert len(off) == len(book.levels) ** book.dims - len(packed)
    for point in np.random.default_rng(0).choice(off, 100, replace=False):
        distance = ((coordinates - unpack(np.array([point]), book)) ** 2).sum(axis=1)
        order = sorted(range(len(packed)), key=lambda k: (distance[k], k))
        limit = sorted(set(distance.tolist()))[book.distances - 1]
        expected = [packed[k] for k in order if distance[k] <= limit]
        first, octets = grid.slot[point] >> 8, grid.slot[point] & 255
        found = grid.near[8 * first : 8 * (first + octets)].tolist()
        assert found[: len(expected)] == expected
        assert set(found[len(expected) :]) <= {expected[-1]}
        assert len(found) - len(expected) < 8


def test_points_of_the_codebook_have_no_list():
    for name in BOOKS:
        packed, grid = codebook(name), load_grid(name)
        assert (grid.slot[packed] == 0).all()
        assert (grid.index_of[packed] == np.arange(len(packed))).all()


def test_a_damaged_codebook_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grids, "SHA256", "0" * 64)
    with pytest.raises(QuantmillError, match=r"codebooks\.npz.*damaged"):
        codebook("iq1")


def test_lists_are_kept_and_a_damaged_file_is_derived_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grids.numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    book, packed = BOOKS["iq3_xxs"], codebook("iq3_xxs")
    expected = neighbours(packed, book)
    calls = []

    def make() -> object:
        calls.append(1)
        return expected

    for _ in range(2):
        for a, b in zip(grids._kept("x", make), expected, strict=True):
            assert np.array_equal(a, b)
    assert len(calls) == 1
    (kept,) = (tmp_path / "cache").iterdir()  # and no half-written file beside it
    kept.write_bytes(kept.read_bytes()[:100])
    assert np.array_equal(grids._kept("x", make)[1], expected[1])
    assert len(calls) == 2


def test_an_unwritable_cache_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setattr(grids.numba.config, "CACHE_DIR", os.fspath(tmp_path / "file" / "cache"))
    book, packed = BOOKS["iq3_xxs"], codebook("iq3_xxs")
    slot, near = grids._kept("x", lambda: neighbours(packed, book))
    assert np.array_equal(slot, load_grid("iq3_xxs").slot)
    assert np.array_equal(near, load_grid("iq3_xxs").near)
