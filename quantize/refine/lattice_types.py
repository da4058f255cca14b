"""The lattice types: an octet of weights is a scale times one point of a codebook (two in the IQ3 types) times signs,
or, in the IQ1 types, a scale times a point that is moved up or down by an eighth.

Points are uint16 [rows, 64], an octet's first and second (0 in the types that have one); signs are uint8 [rows, 32], a
bit for each weight, or whether the octet is moved down. Layouts are those of ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...formats.ir import Bytes
from ...formats.qtypes import BY_NAME, QType
from ..kernels.contract import F32_ARRAY
from .scales import Integers, Ints, half

Points = NDArray[np.uint16]
FREE, EVEN, MOVED, MOVED_TOGETHER = range(4)  # eight free signs, an even number of them; shifts of 8 or of 32 weights


@dataclass(frozen=True)
class LatticeType:
    """How a lattice type divides its blocks, and how points and signs are written into them.

    Args:
        type: the type.
        codebook: a key of ``codebooks.CODEBOOKS``.
        size: weights in a sub-block.
        signs: one of ``FREE``, ``EVEN``, ``MOVED``, ``MOVED_TOGETHER``.
        write: points and signs into blocks.
        scales: where the sub-blocks' scales are.
        shifts: reads the signs uint8 [rows, 32] of a type that has shifts from its blocks.
    """

    type: QType
    codebook: str
    size: int
    signs: int
    write: Callable[[Points, Bytes, Bytes], None]
    scales: Integers
    shifts: Callable[[Bytes], Bytes] = lambda blocks: np.zeros((len(blocks), 32), np.uint8)


def _words(blocks: Bytes, start: int, end: int, dtype: str) -> NDArray[np.int64]:
    return np.ascontiguousarray(blocks[:, start:end]).view(dtype).astype(np.int64)


def _put(blocks: Bytes, start: int, words: NDArray[np.int64], dtype: str) -> None:
    raw = np.ascontiguousarray(words.astype(dtype)).view(np.uint8)
    blocks[:, start : start + raw.shape[1]] = raw


def _nibbles(at: int, n: int, unit: Callable[[Bytes], F32_ARRAY]) -> Integers:
    """Return scales that are in ``n`` bytes, the low half of each first."""

    def get(blocks: Bytes) -> Ints:
        raw = blocks[:, at : at + n]
        return np.stack([raw & 15, raw >> 4], axis=2).reshape(len(raw), -1).astype(np.int32)

    def put(ints: Ints, blocks: Bytes) -> None:
        blocks[:, at : at + n] = ints[:, ::2] | ints[:, 1::2] << 4

    return Integers(0, 15, unit, get, put, 0.5)


def _tops(start: int, step: int, end: int, unit: Callable[[Bytes], F32_ARRAY]) -> Integers:
    """Return scales that are at the top of the word that ends each sub-block's ``step`` bytes."""
    each = slice(step // 4 - 1, None, step // 4)

    def get(blocks: Bytes) -> Ints:
        return (_words(blocks, start, end, "<u4")[:, each] >> 28).astype(np.int32)

    def put(ints: Ints, blocks: Bytes) -> None:
        words = _words(blocks, start, end, "<u4")
        words[:, each] = words[:, each] & 0xFFFFFFF | ints.astype(np.int64) << 28
        _put(blocks, start, words, "<u4")

    return Integers(0, 15, unit, get, put, 0.5)


def _unit(factor: float) -> Callable[[Bytes], F32_ARRAY]:
    return lambda blocks: half(blocks, 0) * np.float32(factor)


def _signs_word(signs: Bytes, old: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the words [rows, 8] with four times seven signs, and the scales that they had."""
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


def _write_iq3_s(points: Points, signs: Bytes, blocks: Bytes) -> None:
    blocks[:, 2:66] = points & 255
    blocks[:, 66:74] = np.packbits((points >> 8).astype(np.uint8).reshape(-1, 8, 8), axis=2, bitorder="little")[:, :, 0]
    blocks[:, 74:106] = signs


def _get_iq1_s(blocks: Bytes) -> Ints:
    return (_words(blocks, 34, 50, "<u2") >> 12 & 7).astype(np.int32)


def _put_iq1_s(n: Ints, blocks: Bytes) -> None:
    _put(blocks, 34, _words(blocks, 34, 50, "<u2") & 0x8FFF | n.astype(np.int64) << 12, "<u2")


def _shifts_iq1_s(blocks: Bytes) -> Bytes:
    return np.repeat((_words(blocks, 34, 50, "<u2") >> 15).astype(np.uint8), 4, axis=1)


def _write_iq1_s(points: Points, signs: Bytes, blocks: Bytes) -> None:
    index = points[:, ::2].astype(np.int64)
    blocks[:, 2:34] = index & 255
    high = (index >> 8).reshape(-1, 8, 4) << 3 * np.arange(4)
    _put(blocks, 34, high.sum(axis=2) | _words(blocks, 34, 50, "<u2") & 0xF000, "<u2")


def _unit_iq1_m(blocks: Bytes) -> F32_ARRAY:
    bits = (_words(blocks, 48, 56, "<u2") >> 12 << 4 * np.arange(4)).sum(axis=1, keepdims=True).astype("<u2")
    unit: F32_ARRAY = bits.view("<f2").astype(np.float32) * np.float32(2)
    return unit


def _get_iq1_m(blocks: Bytes) -> Ints:
    n = _words(blocks, 48, 56, "<u2")[:, :, None] >> 3 * np.arange(4) & 7
    return n.reshape(-1, 16).astype(np.int32)


def _put_iq1_m(n: Ints, blocks: Bytes) -> None:
    three = (n.reshape(-1, 4, 4).astype(np.int64) << 3 * np.arange(4)).sum(axis=2)
    _put(blocks, 48, _words(blocks, 48, 56, "<u2") & 0xF000 | three, "<u2")


def _shifts_iq1_m(blocks: Bytes) -> Bytes:
    high = blocks[:, 32:48]
    return np.ascontiguousarray(np.stack([high >> 3 & 1, high >> 7], axis=2).reshape(-1, 32))


def _write_iq1_m(points: Points, signs: Bytes, blocks: Bytes) -> None:
    index = points[:, ::2]
    blocks[:, :32] = index & 255
    high = (index >> 8).astype(np.uint8) | signs << 3
    blocks[:, 32:48] = high[:, ::2] | high[:, 1::2] << 4


_IQ1_S_SCALES = Integers(0, 7, _unit(2), _get_iq1_s, _put_iq1_s, 0.5)
_IQ1_M_SCALES = Integers(0, 7, _unit_iq1_m, _get_iq1_m, _put_iq1_m, 0.5)
_ROWS = (
    ("IQ1_S", "iq1", 32, MOVED_TOGETHER, _write_iq1_s, _IQ1_S_SCALES, _shifts_iq1_s),
    ("IQ1_M", "iq1", 16, MOVED, _write_iq1_m, _IQ1_M_SCALES, _shifts_iq1_m),
    ("IQ2_XXS", "iq2_xxs", 32, EVEN, _write_iq2_xxs, _tops(2, 8, 66, _unit(0.25))),
    ("IQ2_XS", "iq2_xs", 16, EVEN, _write_iq2_xs, _nibbles(66, 8, _unit(0.25))),
    ("IQ2_S", "iq2_s", 16, FREE, _write_iq2_s, _nibbles(74, 8, _unit(0.25))),
    ("IQ3_XXS", "iq3_xxs", 32, EVEN, _write_iq3_xxs, _tops(66, 4, 98, _unit(0.5))),
    ("IQ3_S", "iq3_s", 32, FREE, _write_iq3_s, _nibbles(106, 4, _unit(2))),
)
LATTICE_TYPES = {str(row[0]): LatticeType(BY_NAME[str(row[0])], *row[1:]) for row in _ROWS}
