"""The scalar types as grids: in each sub-block a weight is ``scale * level + offset`` (or ``scale * table[level]``).

``read`` takes scales and offsets out of encoded blocks, ``write`` puts new codes beside them. Blocks are uint8 [rows,
bytes of a block]. Layouts are those of ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...formats.ir import Bytes
from ...formats.qtypes import BY_NAME, QType
from ..kernels.contract import F32_ARRAY

Ints = NDArray[np.int32]
IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_EVEN = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Grid:
    """A scalar type.

    Args:
        type: the type.
        size: weights in a sub-block.
        low, high: the least and the largest level; code 0 is ``low``.
        table: float32 [16], what the levels stand for, or empty where they stand for themselves.
        read: blocks -> (scales, offsets) float32 [rows, sub-blocks].
        write: codes uint8 [rows, columns] into blocks.
    """

    type: QType
    size: int
    low: int
    high: int
    read: Callable[[Bytes], tuple[F32_ARRAY, F32_ARRAY]]
    write: Callable[[NDArray[np.uint8], Bytes], None]
    table: F32_ARRAY


def _half(blocks: Bytes, at: int) -> F32_ARRAY:
    """float32 [rows] of the IEEE half at a byte."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2")[:, 0].astype(np.float32)


def _scaled(d: F32_ARRAY, integers: NDArray[np.generic]) -> F32_ARRAY:
    return d[:, None] * integers.astype(np.float32)


def _none(scales: F32_ARRAY) -> F32_ARRAY:
    return np.zeros_like(scales)


def _parts(codes: NDArray[np.uint8], *shape: int) -> NDArray[np.uint8]:
    return codes.reshape(len(codes), *shape)


def _crumbs(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The low two bits of 256 codes as Q2_K and Q3_K pack them: [rows, 64]."""
    c = _parts(codes, 2, 4, 32) & 3
    crumbs = c[:, :, 0] | c[:, :, 1] << 2 | c[:, :, 2] << 4 | c[:, :, 3] << 6
    return crumbs.reshape(-1, 64).astype(np.uint8, copy=False)


def _bits(codes: NDArray[np.uint8], bit: int) -> NDArray[np.uint8]:
    """Bit ``bit`` of 256 codes as Q3_K's and Q5_K's masks have it, byte i with columns i, i + 32 ...: [rows, 32]."""
    c = _parts(codes, 8, 32) >> bit & 1
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    masks: NDArray[np.uint8] = np.bitwise_or.reduce(c << shifts, axis=1)
    return masks


def _nibbles(codes: NDArray[np.uint8], group: int) -> NDArray[np.uint8]:
    """Low four bits, the first half of each ``group`` low in the bytes, the second high: [rows, columns / 2]."""
    columns = codes.shape[1]
    c = _parts(codes, columns // group, 2, group // 2) & 15
    return (c[:, :, 0] | c[:, :, 1] << 4).reshape(-1, columns // 2).astype(np.uint8, copy=False)


def _read_q2_k(blocks: Bytes) -> tuple[F32_ARRAY, F32_ARRAY]:
    both = blocks[:, :16]
    return _scaled(_half(blocks, 80), both & 15), -_scaled(_half(blocks, 82), both >> 4)


def _write_q2_k(codes: NDArray[np.uint8], blocks: Bytes) -> None:
    blocks[:, 16:80] = _crumbs(codes)


def _read_q3_k(blocks: Bytes) -> tuple[F32_ARRAY, F32_ARRAY]:
    packed = blocks[:, 96:108].astype(np.int32)
    j = np.arange(16)
    low, high = packed[:, j % 8] >> 4 * (j // 8) & 15, packed[:, 8 + j % 4] >> 2 * (j // 4) & 3
    scales = _scaled(_half(blocks, 108), (low | high << 4) - 32)
    return scales, _none(scales)


def _write_q3_k(codes: NDArray[np.uint8], blocks: Bytes) -> None:
    blocks[:, :32] = _bits(codes, 2)
    blocks[:, 32:96] = _crumbs(codes)


def _read_k4(blocks: Bytes) -> tuple[F32_ARRAY, F32_ARRAY]:
    p = blocks[:, 4:16].astype(np.int32)
    low, middle, high = p[:, :4], p[:, 4:8], p[:, 8:]
    scales = np.concatenate([low & 63, high & 15 | low >> 6 << 4], axis=1)
    mins = np.concatenate([middle & 63, high >> 4 | middle >> 6 << 4], axis=1)
    return _scaled(_half(blocks, 0), scales), -_scaled(_half(blocks, 2), mins)


def _write_q4_k(codes: NDArray[np.uint8], blocks: Bytes) -> None:
    blocks[:, 16:] = _nibbles(codes, 64)


def _write_q5_k(codes: NDArray[np.uint8], blocks: Bytes) -> None:
    blocks[:, 16:48] = _bits(codes, 4)
    blocks[:, 48:] = _nibbles(codes, 64)


def _read_q6_k(blocks: Bytes) -> tuple[F32_ARRAY, F32_ARRAY]:
    scales = _scaled(_half(blocks, 208), blocks[:, 192:208].view(np.int8))
    return scales, _none(scales)


def _write_q6_k(codes: NDArray[np.uint8], blocks: Bytes) -> None:
    blocks[:, :128] = _nibbles(codes, 128)
    high = _parts(codes, 2, 4, 32) >> 4
    blocks[:, 128:192] = (high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6).reshape(-1, 64)


def _read_scale(blocks: Bytes) -> tuple[F32_ARRAY, F32_ARRAY]:
    scales = _half(blocks, 0)[:, None]
    return scales, _none(scales)


def _read_scale_min(blocks: Bytes) -> tuple[F32_ARRAY, F32_ARRAY]:
    return _half(blocks, 0)[:, None], _half(blocks, 2)[:, None]


def _writer_32(head: int, five: bool) -> Callable[[NDArray[np.uint8], Bytes], None]:
    """Of the types of 32 weights whose ``head`` bytes are scale and min."""

    def write(codes: NDArray[np.uint8], blocks: Bytes) -> None:
        if five:
            blocks[:, head : head + 4] = np.packbits(_parts(codes, 32) >> 4 & 1, axis=1, bitorder="little")
        blocks[:, head + 4 * five :] = _nibbles(codes, 32)

    return write


def _read_iq4_xs(blocks: Bytes) -> tuple[F32_ARRAY, F32_ARRAY]:
    j = np.arange(8)
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2").astype(np.int32) >> 2 * j & 3
    low = blocks[:, 4:8].astype(np.int32)[:, j // 2] >> 4 * (j % 2) & 15
    scales = _scaled(_half(blocks, 0), (low | high << 4) - 32)
    return scales, _none(scales)


def _write_iq4_xs(codes: NDArray[np.uint8], blocks: Bytes) -> None:
    blocks[:, 8:] = _nibbles(codes, 32)


_ROWS = (
    ("Q2_K", 16, 0, 3, _read_q2_k, _write_q2_k, _EVEN),
    ("Q3_K", 16, -4, 3, _read_q3_k, _write_q3_k, _EVEN),
    ("Q4_K", 32, 0, 15, _read_k4, _write_q4_k, _EVEN),
    ("Q5_K", 32, 0, 31, _read_k4, _write_q5_k, _EVEN),
    ("Q6_K", 16, -32, 31, _read_q6_k, _write_q6_k, _EVEN),
    ("Q4_0", 32, -8, 7, _read_scale, _writer_32(2, False), _EVEN),
    ("Q4_1", 32, 0, 15, _read_scale_min, _writer_32(4, False), _EVEN),
    ("Q5_0", 32, -16, 15, _read_scale, _writer_32(2, True), _EVEN),
    ("Q5_1", 32, 0, 31, _read_scale_min, _writer_32(4, True), _EVEN),
    ("IQ4_NL", 32, 0, 15, _read_scale, _writer_32(2, False), IQ4_VALUES),
    ("IQ4_XS", 32, 0, 15, _read_iq4_xs, _write_iq4_xs, IQ4_VALUES),
)
GRIDS = {
    name: Grid(BY_NAME[name], size, low, high, read, write, table)
    for name, size, low, high, read, write, table in _ROWS
}
