"""The scalar types: in each sub-block a weight is ``scale * level + offset``, or ``scale * table[level]``.

Blocks are uint8 [rows, bytes of a block]. Layouts are those of ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...formats.ir import Bytes
from ...formats.qtypes import BY_NAME, QType
from ..kernels.contract import F32_ARRAY
from ..kernels.fp4_scales import E8M0_HALVES, UE4M3_HALVES
from .scales import Bytewise, Halves, Integers, Ints, Scales, half

FP4_VALUES = (-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12)  # twice the E2M1 values
_FP4_CODES = np.array([15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7], np.uint8)
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class ScalarType:
    """How a scalar type divides its blocks, and how codes are written into them.

    Args:
        type: the type.
        size: weights in a sub-block.
        low, high: the least and the largest level; code 0 is ``low``.
        write: codes uint8 [rows, columns] into blocks.
        scales: where the sub-blocks' scales are.
        offsets: where their offsets are, if there are any.
        table: what the levels stand for; empty where they stand for themselves.
    """

    type: QType
    size: int
    low: int
    high: int
    write: Callable[[NDArray[np.uint8], Bytes], None]
    scales: Scales
    offsets: Scales | None = None
    table: tuple[int, ...] = ()


def _parts(codes: NDArray[np.uint8], *shape: int) -> NDArray[np.uint8]:
    return codes.reshape(len(codes), *shape)


def _crumbs(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack the low two bits of 256 codes as Q2_K and Q3_K do: uint8 [rows, 64]."""
    c = _parts(codes, 2, 4, 32) & 3
    crumbs = c[:, :, 0] | c[:, :, 1] << 2 | c[:, :, 2] << 4 | c[:, :, 3] << 6
    return crumbs.reshape(-1, 64).astype(np.uint8, copy=False)


def _bits(codes: NDArray[np.uint8], bit: int) -> NDArray[np.uint8]:
    """Pack bit ``bit`` of 256 codes as the masks of Q3_K and Q5_K do, columns i, i + 32, ... in byte i: [rows, 32]."""
    c = _parts(codes, 8, 32)
    masks: NDArray[np.uint8] = (c[:, 0] >> bit & 1).astype(np.uint8)
    for i in range(1, 8):
        masks |= (c[:, i] >> bit & 1) << i
    return masks


def _nibbles(codes: NDArray[np.uint8], group: int) -> NDArray[np.uint8]:
    """Pack the low four bits, those of a ``group``'s second half high in the bytes: uint8 [rows, columns / 2]."""
    columns = codes.shape[1]
    c = _parts(codes, columns // group, 2, group // 2)
    packed = c[:, :, 0] & np.uint8(15) | c[:, :, 1] << np.uint8(4)  # what is shifted out is gone
    return packed.reshape(-1, columns // 2)


def _unit(at: int, sign: int = 1) -> Callable[[Bytes], F32_ARRAY]:
    return lambda blocks: half(blocks, at) * np.float32(sign)


def _put_q2_k_scales(n: Ints, blocks: Bytes) -> None:
    blocks[:, :16] = blocks[:, :16] & 0xF0 | n.astype(np.uint8)


def _put_q2_k_mins(n: Ints, blocks: Bytes) -> None:
    blocks[:, :16] = blocks[:, :16] & 15 | n.astype(np.uint8) << 4


def _write_q2_k(codes: NDArray[np.uint8], blocks: Bytes) -> None:
    blocks[:, 16:80] = _crumbs(codes)


def _get_q3_k(blocks: Bytes) -> Ints:
    packed, j = blocks[:, 96:108].astype(np.int32), np.arange(16)
    low, high = packed[:, j % 8] >> 4 * (j // 8) & 15, packed[:, 8 + j % 4] >> 2 * (j // 4) & 3
    return (low | high << 4) - 32


def _put_q3_k(n: Ints, blocks: Bytes) -> None:
    n = n + 32
    low, high = n & 15, (n >> 4).reshape(-1, 4, 4)
    blocks[:, 96:104] = low[:, :8] | low[:, 8:] << 4
    blocks[:, 104:108] = (high << 2 * np.arange(4)[:, None]).sum(axis=1)


def _write_q3_k(codes: NDArray[np.uint8], blocks: Bytes) -> None:
    blocks[:, :32] = _bits(codes, 2)
    blocks[:, 32:96] = _crumbs(codes)


def _get_k4_scales(blocks: Bytes) -> Ints:
    p = blocks[:, 4:16].astype(np.int32)
    return np.concatenate([p[:, :4] & 63, p[:, 8:] & 15 | p[:, :4] >> 6 << 4], axis=1)


def _get_k4_mins(blocks: Bytes) -> Ints:
    p = blocks[:, 4:16].astype(np.int32)
    return np.concatenate([p[:, 4:8] & 63, p[:, 8:] >> 4 | p[:, 4:8] >> 6 << 4], axis=1)


def _put_k4(scales: Ints, mins: Ints, blocks: Bytes) -> None:
    """Pack two times eight integers of six bits as Q4_K and Q5_K do."""
    blocks[:, 4:8] = scales[:, :4] | scales[:, 4:] >> 4 << 6
    blocks[:, 8:12] = mins[:, :4] | mins[:, 4:] >> 4 << 6
    blocks[:, 12:16] = scales[:, 4:] & 15 | (mins[:, 4:] & 15) << 4


def _put_k4_scales(n: Ints, blocks: Bytes) -> None:
    _put_k4(n, _get_k4_mins(blocks), blocks)


def _put_k4_mins(n: Ints, blocks: Bytes) -> None:
    _put_k4(_get_k4_scales(blocks), n, blocks)


def _write_q4_k(codes: NDArray[np.uint8], blocks: Bytes) -> None:
    blocks[:, 16:] = _nibbles(codes, 64)


def _write_q5_k(codes: NDArray[np.uint8], blocks: Bytes) -> None:
    blocks[:, 16:48] = _bits(codes, 4)
    blocks[:, 48:] = _nibbles(codes, 64)


def _get_q6_k(blocks: Bytes) -> Ints:
    return np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.int32)


def _put_q6_k(n: Ints, blocks: Bytes) -> None:
    blocks[:, 192:208] = n.astype(np.int8).view(np.uint8)


def _write_q6_k(codes: NDArray[np.uint8], blocks: Bytes) -> None:
    blocks[:, :128] = _nibbles(codes, 128)
    high = _parts(codes, 2, 4, 32) >> 4
    blocks[:, 128:192] = (high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6).reshape(-1, 64)


def _writer_32(head: int, five: bool) -> Callable[[NDArray[np.uint8], Bytes], None]:
    """Return the writer of a type of 32 weights whose first ``head`` bytes are scale and min."""

    def write(codes: NDArray[np.uint8], blocks: Bytes) -> None:
        if five:
            blocks[:, head : head + 4] = np.packbits(codes & 16, axis=1, bitorder="little")
        blocks[:, head + 4 * five :] = _nibbles(codes, 32)

    return write


def _get_iq4_xs(blocks: Bytes) -> Ints:
    j = np.arange(8)
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2").astype(np.int32) >> 2 * j & 3
    low = blocks[:, 4:8].astype(np.int32)[:, j // 2] >> 4 * (j % 2) & 15
    return (low | high << 4) - 32


def _put_iq4_xs(n: Ints, blocks: Bytes) -> None:
    n = n + 32
    high = (n >> 4 << 2 * np.arange(8)).sum(axis=1, keepdims=True).astype("<u2")
    blocks[:, 2:4] = high.view(np.uint8)
    blocks[:, 4:8] = n[:, ::2] & 15 | (n[:, 1::2] & 15) << 4


def _write_iq4_xs(codes: NDArray[np.uint8], blocks: Bytes) -> None:
    blocks[:, 8:] = _nibbles(codes, 32)


def _writer_fp4(head: int, group: int) -> Callable[[NDArray[np.uint8], Bytes], None]:
    """Return the writer of a type of 4-bit floats whose first ``head`` bytes are scales."""

    def write(codes: NDArray[np.uint8], blocks: Bytes) -> None:
        blocks[:, head:] = _nibbles(_FP4_CODES[codes], group)

    return write


# In units of half a scale, as FP4_VALUES are twice the values. The two subnormal E8M0 scales count as zero.
_E8M0 = Bytewise(np.where(np.arange(255) < 2, np.float32(0), E8M0_HALVES), 1, 0, 2.0**126, 0)
_UE4M3 = Bytewise(UE4M3_HALVES[:0x7F], 4, 3, 224, 2.0**-10)
_K4_SCALES = Integers(0, 63, _unit(0), _get_k4_scales, _put_k4_scales)
_K4_MINS = Integers(0, 63, _unit(2, -1), _get_k4_mins, _put_k4_mins)
_ROWS = (
    ("Q2_K", 16, 0, 3, _write_q2_k,
     Integers(0, 15, _unit(80), lambda blocks: blocks[:, :16] & 15, _put_q2_k_scales),
     Integers(0, 15, _unit(82, -1), lambda blocks: blocks[:, :16] >> 4, _put_q2_k_mins)),
    ("Q3_K", 16, -4, 3, _write_q3_k, Integers(-32, 31, _unit(108), _get_q3_k, _put_q3_k)),
    ("Q4_K", 32, 0, 15, _write_q4_k, _K4_SCALES, _K4_MINS),
    ("Q5_K", 32, 0, 31, _write_q5_k, _K4_SCALES, _K4_MINS),
    ("Q6_K", 16, -32, 31, _write_q6_k, Integers(-128, 127, _unit(208), _get_q6_k, _put_q6_k)),
    ("Q4_0", 32, -8, 7, _writer_32(2, False), Halves(0)),
    ("Q4_1", 32, 0, 15, _writer_32(4, False), Halves(0), Halves(2)),
    ("Q5_0", 32, -16, 15, _writer_32(2, True), Halves(0)),
    ("Q5_1", 32, 0, 31, _writer_32(4, True), Halves(0), Halves(2)),
    ("IQ4_NL", 32, 0, 15, _writer_32(2, False), Halves(0), None, IQ4_VALUES),
    ("IQ4_XS", 32, 0, 15, _write_iq4_xs, Integers(-32, 31, _unit(0), _get_iq4_xs, _put_iq4_xs), None, IQ4_VALUES),
    ("MXFP4", 32, 0, 14, _writer_fp4(1, 32), _E8M0, None, FP4_VALUES),
    ("NVFP4", 16, 0, 14, _writer_fp4(4, 16), _UE4M3, None, FP4_VALUES),
)  # fmt: skip
SCALAR_TYPES = {str(row[0]): ScalarType(BY_NAME[str(row[0])], *row[1:]) for row in _ROWS}
