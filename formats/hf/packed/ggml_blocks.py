"""Encode integer grids as GGML blocks, and reorder the nibbles of MXFP4 and NVFP4 to GGML's order.

A block of Q4_0, Q5_0 or Q8_0 is (code - 8, 16 or 0) * d, one of Q4_1 is code * d + m. If a group's scale is a half and
its codes and zero are in range, the block holds the same weights, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...ir import Bytes
from ...qtypes import QType
from ..tables.packed_tensors import BLOCK, MXFP4, NVFP4, OFFSET, Q4_1, Q8_0


def encode_steps(type: QType, steps: NDArray[np.int16], scales: NDArray[np.float32]) -> Bytes:
    """Encode blocks of Q4_0, Q5_0 or Q8_0.

    Args:
        steps: int16 [rows, K], code minus zero, in the type's range.
        scales: float32 [rows, K / 32], each a half.

    Returns:
        uint8 [rows, row bytes].
    """
    blocks = np.empty((len(steps), steps.shape[1] // BLOCK), type.block)
    blocks["d"] = scales
    codes = (steps + np.int16(OFFSET[type])).reshape(*blocks.shape, BLOCK)
    if type is Q8_0:
        blocks["qs"] = codes
    else:
        _put_codes(blocks, codes.astype(np.uint8))
    return blocks.view(np.uint8).reshape(len(steps), blocks.shape[1] * blocks.itemsize)


def encode_q4_1(codes: NDArray[np.uint8], scales: NDArray[np.float32], mins: NDArray[np.float32]) -> Bytes:
    """Encode blocks of Q4_1, from codes [rows, K] below 16 and scales and mins float32 [rows, K / 32], each a half."""
    blocks = np.empty((len(codes), codes.shape[1] // BLOCK), Q4_1.block)
    blocks["d"], blocks["m"] = scales, mins
    _put_codes(blocks, codes.reshape(*blocks.shape, BLOCK))
    return blocks.view(np.uint8).reshape(len(codes), blocks.shape[1] * blocks.itemsize)


def _put_codes(blocks: NDArray[Any], codes: NDArray[np.uint8]) -> None:
    """Low nibbles hold codes 0..15, high ones 16..31; a fifth bit goes to ``qh``, in the order of the codes."""
    low = codes & np.uint8(15)
    blocks["qs"] = low[..., :16] | low[..., 16:] << np.uint8(4)
    if "qh" in (blocks.dtype.names or ()):
        blocks["qh"] = np.packbits(codes >> np.uint8(4), axis=-1, bitorder="little")


def mxfp4_to_ggml(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> Bytes:
    """Convert gpt-oss' MXFP4 to GGML's blocks: the same exponents and codes, with the nibbles in another order.

    Args:
        blocks: uint8 [..., G, 16]; byte i holds value 2i in its low nibble and 2i + 1 in its high one.
        scales: uint8 [..., G], exponents with bias 127.

    Returns:
        uint8 [..., G * 17]: rows of GGML's MXFP4, whose byte i holds value i low and value i + 16 high.
    """
    codes = np.stack([blocks & np.uint8(15), blocks >> np.uint8(4)], axis=-1).reshape(*blocks.shape[:-1], BLOCK)
    out = np.empty(blocks.shape[:-1], MXFP4.block)
    out["e"] = scales
    _put_codes(out, codes)
    return out.view(np.uint8).reshape(*blocks.shape[:-2], blocks.shape[-2] * out.itemsize)


def nvfp4_to_ggml(codes: NDArray[np.uint8], scales: NDArray[np.uint8]) -> Bytes:
    """Convert NVFP4 to GGML's blocks: the same codes and scales in another order.

    GGML's scales have no sign; the sign of a negative one moves to its group's codes.

    Args:
        codes: uint8 [rows, G, 8]; byte i of a group holds value 2i in its low nibble and 2i + 1 in its high one.
        scales: uint8 [rows, G], codes of E4M3; G a multiple of 4.

    Returns:
        uint8 [rows, G / 4 * 36]: rows of GGML's NVFP4; byte i of a group holds value i low and value i + 8 high.
    """
    rows, groups, _ = codes.shape
    values = np.stack([codes & np.uint8(15), codes >> np.uint8(4)], axis=-1).reshape(rows, groups, 16)
    values ^= (scales >> np.uint8(7) << np.uint8(3))[..., None]
    out = np.empty((rows, groups // 4), NVFP4.block)
    out["d"] = (scales & np.uint8(127)).reshape(rows, -1, 4)
    out["qs"] = (values[..., :8] | values[..., 8:] << np.uint8(4)).reshape(rows, -1, 32)
    return out.view(np.uint8).reshape(rows, out.shape[1] * out.itemsize)
