"""Unpack codes of a few bits that are stored as one contiguous little-endian stream per row, as in most layouts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...ir import Bytes


def unpack_bits(raw: Bytes, bits: int, count: int) -> NDArray[np.uint8]:
    """Unpack the first ``count`` codes of each row.

    Args:
        raw: uint8 [rows, n]; n * 8 >= count * bits.
        bits: 1 to 8.
        count: codes to unpack from each row.

    Returns:
        uint8 [rows, count].
    """
    rows, n = raw.shape
    assert n * 8 >= count * bits, (raw.shape, bits, count)
    if bits == 8:
        return np.ascontiguousarray(raw[:, :count])
    runs = -(-count // 8)  # eight codes fill `bits` bytes, whatever `bits` is
    if n < runs * bits:
        raw = np.pad(raw, ((0, 0), (0, runs * bits - n)))
    stream = raw[:, : runs * bits].reshape(rows, runs, bits)
    codes = np.empty((rows, runs, 8), np.uint8)
    mask = np.uint8((1 << bits) - 1)
    for i in range(8):
        byte, shift = divmod(i * bits, 8)
        code = stream[:, :, byte] >> np.uint8(shift)
        if shift + bits > 8:
            code |= stream[:, :, byte + 1] << np.uint8(8 - shift)
        np.bitwise_and(code, mask, out=codes[:, :, i])
    return codes.reshape(rows, runs * 8)[:, :count]
