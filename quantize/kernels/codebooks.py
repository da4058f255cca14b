"""The lattice codebooks, and for each point off a codebook the points the search may move it to.

``codebooks.npz`` holds facts of the format: for each codebook its points in index order, a point's coordinates packed
into an integer, 2 bits each in the 8-dimensional codebooks, 3 bits each in the 4-dimensional ones, the first coordinate
lowest. ``tests/oracles/make_codebooks.py`` reads them out of llama.cpp's own decoder. The neighbour lists are derived
from them (``iq2xs_init_impl`` and ``iq3xs_init_impl`` in ggml-quants.c say which: the points at the nearest one, two or
three distinct distances, ordered by distance and then by index) and kept next to the compiled kernels.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numba
import numpy as np
from numpy.typing import NDArray

from ...formats.errors import QuantmillError
from . import base  # noqa: F401  it tells numba where its cache is
from .contract import constant

SHA256 = "aabc1fd94c3654321931f0773a15d96c0aa2efc10807a48b8d3678e1a2870841"  # of codebooks.npz


@dataclass(frozen=True)
class Codebook:
    """The geometry of a codebook.

    Args:
        dims: coordinates of a point.
        levels: what each coordinate value decodes to.
        distances: how many distinct distances the neighbours of a point span (``nwant`` in ggml-quants.c).
    """

    dims: int
    levels: tuple[int, ...]
    distances: int

    @property
    def bits(self) -> int:
        """Bits of a coordinate in a packed point."""
        return 16 // self.dims if self.dims == 8 else 3


CODEBOOKS = {
    "iq1": Codebook(8, (-1, 0, 1), 3),
    "iq2_xxs": Codebook(8, (8, 25, 43), 2),
    "iq2_xs": Codebook(8, (8, 25, 43), 2),
    "iq2_s": Codebook(8, (8, 25, 43), 1),
    "iq3_xxs": Codebook(4, (4, 12, 20, 28, 36, 44, 52, 62), 2),
    "iq3_s": Codebook(4, (1, 3, 5, 7, 9, 11, 13, 15), 3),
}


class SearchableCodebook(NamedTuple):
    """A codebook ready to search; all arrays are read-only.

    Attributes:
        values: float32 [points, dims], what each point decodes to.
        index_of: uint16 by packed point, the index of a point of the codebook.
        slot: int32 by packed point: 0 on the codebook, else 256 * first octet + octets of its list in ``near``.
        near: uint16 packed points, every list padded to whole octets with its last point.
    """

    values: NDArray[np.float32]
    index_of: NDArray[np.uint16]
    slot: NDArray[np.int32]
    near: NDArray[np.uint16]


@cache
def load_codebook(name: str) -> SearchableCodebook:
    """Load the codebook ``name`` of ``CODEBOOKS`` with its neighbour lists.

    Raises:
        QuantmillError: the file of codebooks is damaged.
    """
    codebook, points = CODEBOOKS[name], codebook_points(name)
    coordinates = unpack(points, codebook)
    index = np.zeros(1 << (codebook.bits * codebook.dims), np.uint16)
    index[points] = np.arange(len(points))
    slot, near = _kept(f"neighbours-{name}", lambda: neighbours(points, codebook))
    values = np.asarray(codebook.levels, np.float32)[coordinates]
    return SearchableCodebook(*(constant(a) for a in (values, index, slot, near)))


def codebook_points(name: str) -> NDArray[np.uint16]:
    """Return the packed points of a codebook, uint16 [points], in index order."""
    path = Path(__file__).with_name("codebooks.npz")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise QuantmillError(f"{path}: damaged (its checksum differs)", hint="reinstall quantmill")
    points: NDArray[np.uint16] = np.load(BytesIO(data))[name]
    return points


def unpack(points: NDArray[Any], codebook: Codebook) -> NDArray[np.int64]:
    """Return the coordinates int64 [n, dims] of packed points [n]."""
    shifts = codebook.bits * np.arange(codebook.dims)
    return (points.astype(np.int64)[:, None] >> shifts) & ((1 << codebook.bits) - 1)


def neighbours(points: NDArray[np.uint16], codebook: Codebook) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
    """Derive ``slot`` and ``near`` of a codebook; see ``SearchableCodebook``."""
    n_levels = len(codebook.levels)
    every = np.stack(np.unravel_index(np.arange(n_levels**codebook.dims), (n_levels,) * codebook.dims), axis=1)
    packed = (every << (codebook.bits * np.arange(codebook.dims))).sum(axis=1)
    off = ~np.isin(packed, points)
    every, packed = every[off].astype(np.float32), packed[off]
    grid = unpack(points, codebook).astype(np.float32)
    squares = (every**2).sum(axis=1)[:, None] + (grid**2).sum(axis=1) - 2 * every @ grid.T
    distance = squares.astype(np.uint8)  # squared, exact: at most 8 * 2**2 or 4 * 7**2
    limit = distance.min(axis=1)
    for _ in range(codebook.distances - 1):  # the next distinct distance, row by row
        farther = np.where(distance > limit[:, None], distance, 255)
        limit = farther.min(axis=1)
    row, point = np.nonzero(distance <= limit[:, None])
    order = np.argsort(row * 256 + distance[row, point], kind="stable")
    row, point = row[order], point[order]

    count = np.bincount(row, minlength=len(every))
    octets = (count + 7) // 8
    first = np.concatenate([[0], np.cumsum(octets)[:-1]])
    last = np.cumsum(count) - 1
    near = np.repeat(points[point[last]], 8 * octets)
    place = 8 * first[row] + np.arange(len(row)) - np.repeat(last + 1 - count, count)
    near[place] = points[point]
    slot = np.zeros(1 << (codebook.bits * codebook.dims), np.int32)
    slot[packed] = 256 * first + octets
    return slot, near


def _kept(name: str, make: Any) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
    """Return what ``make`` returns, from the kernels' cache directory if it is there; put it there otherwise.

    The directory's name carries a digest of our sources, so a file in it is never stale; it is written under a passing
    name and renamed, so no other process sees half of it. Where nothing can be written nothing is kept.
    """
    folder = Path(numba.config.CACHE_DIR)
    path = folder / f"{name}-{SHA256[:16]}.npz"
    try:
        with np.load(path) as kept:
            return kept["slot"], kept["near"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        slot, near = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as part:
            np.savez(part, slot=slot, near=near)
        os.replace(part.name, path)
    except OSError:
        pass
    return slot, near


@cache
def signs_of_seven() -> NDArray[np.int64]:
    """Return the eight signs, lowest bit first, for each seven that are stored: the eighth makes their number even."""
    seven = np.arange(128)
    odd = np.array([bin(s).count("1") % 2 for s in seven])
    signs: NDArray[np.int64] = constant(seven | odd << 7)
    return signs
