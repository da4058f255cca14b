"""The lattice types as octets: eight weights are a scale times one point of a codebook (two in the IQ3 types) times
signs, or, in the IQ1 types, times a point moved up or down by an eighth.

``read`` takes what is frozen out of encoded super-blocks, ``write`` puts new points and signs beside it. Points are
uint16 [rows, 64], an octet's first and second (0 in the types that have one); signs uint8 [rows, 32], a bit a weight,
or whether the octet is moved down. Layouts are those of ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...formats.ir import Bytes
from ...formats.qtypes import BY_NAME, QType
from ..kernels.contract import F32_ARRAY

Points = NDArray[np.uint16]
FREE, EVEN, MOVED, MOVED_TOGETHER = range(4)  # the signs: eight free ones, an even number; or shifts, of 8 or 32


@dataclass(frozen=True)
class Octets:
    """A lattice type.

    Args:
        type: the type.
        book: its codebook, a key of ``grids.BOOKS``.
        size: weights in a sub-block.
        signs: one of ``FREE``, ``EVEN``, ``MOVED``, ``MOVED_TOGETHER``.
        read: blocks -> scales float32 [rows, 256 / size], signs uint8 [rows, 32].
        write: points and signs into blocks.
    """

    type: QType
    book: str
    size: int
    signs: int
    read: Callable[[Bytes], tuple[F32_ARRAY, Bytes]]
    write: Callable[[Points, Bytes, Bytes], None]


def _half(blocks: Bytes, at: int) -> F32_ARRAY:
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _words(blocks: Bytes, start: int, end: int, dtype: str) -> NDArray[np.int64]:
    return np.ascontiguousarray(blocks[:, start:end]).view(dtype).astype(np.int64)


def _put(blocks: Bytes, start: int, words: NDArray[np.int64], dtype: str) -> None:
    raw = np.ascontiguousarray(words.astype(dtype)).view(np.uint8)
    blocks[:, start : start + raw.shape[1]] = raw


def _nibbles(raw: Bytes) -> NDArray[np.float32]:
    """[rows, 2n], the low one of each byte first."""
    both = np.stack([raw & 15, raw >> 4], axis=2)
    return both.reshape(len(raw), -1).astype(np.float32)


def _unsigned(blocks: Bytes) -> Bytes:
    return np.zeros((len(blocks), 32), np.uint8)


def _read_iq2(blocks: Bytes, at: int) -> tuple[F32_ARRAY, Bytes]:
    scales = _half(blocks, 0) * (np.float32(0.5) + _nibbles(blocks[:, at : at + 8])) * np.float32(0.25)
    return scales, _unsigned(blocks)


def _read_xxs(blocks: Bytes, start: int, step: int, end: int, unit: float) -> tuple[F32_ARRAY, Bytes]:
    """IQ2_XXS and IQ3_XXS: the scale is in the top of the word that ends each sub-block's ``step`` bytes."""
    words = _words(blocks, start, end, "<u4")[:, (step // 4 - 1) :: step // 4]
    scales = _half(blocks, 0) * (np.float32(0.5) + (words >> 28).astype(np.float32)) * np.float32(unit)
    return scales, _unsigned(blocks)


def _signs_word(signs: Bytes, old: NDArray[np.int64]) -> NDArray[np.int64]:
    """The words [rows, 8] with four times seven signs, and the scale they had."""
    seven = (signs & 127).astype(np.int64).reshape(-1, 8, 4) << 7 * np.arange(4)
    words: NDArray[np.int64] = seven.sum(axis=2) | old >> 28 << 28
    return words


def _write_iq2_xxs(points: Points, signs: Bytes, blocks: Bytes) -> None:
    words = _words(blocks, 2, 66, "<u4")
    words[:, 1::2] = _signs_word(signs, words[:, 1::2])
    words[:, ::2] = (points[:, ::2].astype(np.int64).reshape(-1, 8, 4) << 8 * np.arange(4)).sum(axis=2)
    _put(blocks, 2, words, "<u4")


def _write_iq2_xs(points: Points, signs: Bytes, blocks: Bytes) -> None:
    _put(blocks, 2, points[:, ::2].astype(np.int64) | (signs & 127).astype(np.int64) << 9, "<u2")


def _write_iq2_s(points: Points, signs: Bytes, blocks: Bytes) -> None:
    index = points[:, ::2]
    blocks[:, 2:34] = index & 255
    blocks[:, 34:66] = signs
    blocks[:, 66:74] = ((index >> 8).astype(np.uint8).reshape(-1, 8, 4) << 2 * np.arange(4, dtype=np.uint8)).sum(axis=2)


def _write_iq3_xxs(points: Points, signs: Bytes, blocks: Bytes) -> None:
    blocks[:, 2:66] = points
    _put(blocks, 66, _signs_word(signs, _words(blocks, 66, 98, "<u4")), "<u4")


def _read_iq3_s(blocks: Bytes) -> tuple[F32_ARRAY, Bytes]:
    return _half(blocks, 0) * (1 + 2 * _nibbles(blocks[:, 106:110])), _unsigned(blocks)


def _write_iq3_s(points: Points, signs: Bytes, blocks: Bytes) -> None:
    blocks[:, 2:66] = points & 255
    blocks[:, 66:74] = np.packbits((points >> 8).astype(np.uint8).reshape(-1, 8, 8), axis=2, bitorder="little")[:, :, 0]
    blocks[:, 74:106] = signs


def _read_iq1_s(blocks: Bytes) -> tuple[F32_ARRAY, Bytes]:
    words = _words(blocks, 34, 50, "<u2")
    scales = _half(blocks, 0) * (2 * (words >> 12 & 7) + 1).astype(np.float32)
    return scales, np.repeat((words >> 15).astype(np.uint8), 4, axis=1)


def _write_iq1_s(points: Points, signs: Bytes, blocks: Bytes) -> None:
    index = points[:, ::2].astype(np.int64)
    blocks[:, 2:34] = index & 255
    high = (index >> 8).reshape(-1, 8, 4) << 3 * np.arange(4)
    _put(blocks, 34, high.sum(axis=2) | _words(blocks, 34, 50, "<u2") & 0xF000, "<u2")


def _read_iq1_m(blocks: Bytes) -> tuple[F32_ARRAY, Bytes]:
    words = _words(blocks, 48, 56, "<u2")
    bits = (words >> 12 << 4 * np.arange(4)).sum(axis=1).astype("<u2")
    three = (words[:, :, None] >> 3 * np.arange(4) & 7).reshape(-1, 16)
    scales = bits.view("<f2").astype(np.float32)[:, None] * (2 * three + 1).astype(np.float32)
    high = blocks[:, 32:48]
    shifts = np.stack([high >> 3 & 1, high >> 7], axis=2).reshape(-1, 32)
    return scales, np.ascontiguousarray(shifts)


def _write_iq1_m(points: Points, signs: Bytes, blocks: Bytes) -> None:
    index = points[:, ::2]
    blocks[:, :32] = index & 255
    high = (index >> 8).astype(np.uint8) | signs << 3
    blocks[:, 32:48] = high[:, ::2] | high[:, 1::2] << 4


_ROWS = (
    ("IQ1_S", "iq1", 32, MOVED_TOGETHER, _read_iq1_s, _write_iq1_s),
    ("IQ1_M", "iq1", 16, MOVED, _read_iq1_m, _write_iq1_m),
    ("IQ2_XXS", "iq2_xxs", 32, EVEN, lambda b: _read_xxs(b, 2, 8, 66, 0.25), _write_iq2_xxs),
    ("IQ2_XS", "iq2_xs", 16, EVEN, lambda b: _read_iq2(b, 66), _write_iq2_xs),
    ("IQ2_S", "iq2_s", 16, FREE, lambda b: _read_iq2(b, 74), _write_iq2_s),
    ("IQ3_XXS", "iq3_xxs", 32, EVEN, lambda b: _read_xxs(b, 66, 4, 98, 0.5), _write_iq3_xxs),
    ("IQ3_S", "iq3_s", 32, FREE, _read_iq3_s, _write_iq3_s),
)
OCTETS = {name: Octets(BY_NAME[name], book, size, signs, read, write) for name, book, size, signs, read, write in _ROWS}
