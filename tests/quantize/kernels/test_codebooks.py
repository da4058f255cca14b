"""The codebooks and what is derived from them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from oracles.make_codebooks import points
from quantmill.formats.errors import QuantmillError
from quantmill.quantize.kernels import codebooks
from quantmill.quantize.kernels.codebooks import CODEBOOKS, codebook_points, load_codebook, neighbours, unpack

SIZES = {"iq1": 2048, "iq2_xxs": 256, "iq2_xs": 512, "iq2_s": 1024, "iq3_xxs": 256, "iq3_s": 512}


def test_codebooks_are_what_llama_cpp_decodes():
    decoded = points()
    assert decoded.keys() == CODEBOOKS.keys()
    for name, values in decoded.items():
        assert len(values) == SIZES[name]
        assert np.array_equal(load_codebook(name).values, values), name


@pytest.mark.parametrize("name", list(CODEBOOKS))
def test_neighbours_are_the_nearest_in_the_cs_order(name: str):
    """For some points off the codebook, against the definition: sort all by distance and index, cut by distance."""
    codebook, packed, searchable = CODEBOOKS[name], codebook_points(name), load_codebook(name)
    coordinates = unpack(packed, codebook)
    off = np.flatnonzero(searchable.slot)
    assert len(off) == len(codebook.levels) ** codebook.dims - len(packed)
    for point in np.random.default_rng(0).choice(off, 100, replace=False):
        distance = ((coordinates - unpack(np.array([point]), codebook)) ** 2).sum(axis=1)
        order = sorted(range(len(packed)), key=lambda k: (distance[k], k))
        limit = sorted(set(distance.tolist()))[codebook.distances - 1]
        expected = [packed[k] for k in order if distance[k] <= limit]
        first, octets = searchable.slot[point] >> 8, searchable.slot[point] & 255
        found = searchable.near[8 * first : 8 * (first + octets)].tolist()
        assert found[: len(expected)] == expected
        assert set(found[len(expected) :]) <= {expected[-1]}
        assert len(found) - len(expected) < 8


def test_points_of_the_codebook_have_no_list():
    for name in CODEBOOKS:
        packed, searchable = codebook_points(name), load_codebook(name)
        assert (searchable.slot[packed] == 0).all()
        assert (searchable.index_of[packed] == np.arange(len(packed))).all()


def test_a_damaged_codebook_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(codebooks, "SHA256", "0" * 64)
    with pytest.raises(QuantmillError, match=r"codebooks\.npz.*damaged"):
        codebook_points("iq1")


def test_lists_are_kept_and_a_damaged_file_is_derived_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(codebooks.numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    codebook, packed = CODEBOOKS["iq3_xxs"], codebook_points("iq3_xxs")
    expected = neighbours(packed, codebook)
    calls = []

    def make() -> object:
        calls.append(1)
        return expected

    for _ in range(2):
        for a, b in zip(codebooks._kept("x", make), expected, strict=True):
            assert np.array_equal(a, b)
    assert len(calls) == 1
    (kept,) = (tmp_path / "cache").iterdir()  # and no half-written file beside it
    kept.write_bytes(kept.read_bytes()[:100])
    assert np.array_equal(codebooks._kept("x", make)[1], expected[1])
    assert len(calls) == 2


def test_an_unwritable_cache_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setattr(codebooks.numba.config, "CACHE_DIR", os.fspath(tmp_path / "file" / "cache"))
    codebook, packed = CODEBOOKS["iq3_xxs"], codebook_points("iq3_xxs")
    slot, near = codebooks._kept("x", lambda: neighbours(packed, codebook))
    assert np.array_equal(slot, load_codebook("iq3_xxs").slot)
    assert np.array_equal(near, load_codebook("iq3_xxs").near)
