"""Codes of a few bits that are stored as one contiguous little-endian stream per row, as in most layouts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import QuantmillError
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


def pack_bits(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Undo ``unpack_bits``: pack the codes of each row into words, the last of which is filled up with zeros.

    Args:
        codes: uint8 [rows, n], each below 2**bits.
        bits: 1 to 8.

    Returns:
        int32 [rows, ceil(n * bits / 32)].

    Raises:
        QuantmillError: a code is too large.
    """
    rows, count = codes.shape
    assert 1 <= bits <= 8, bits
    if codes.size and int(codes.max()) >> bits:
        raise QuantmillError(f"a code of {int(codes.max())} does not fit {bits} bits")
    n_words = -(-count * bits // 32)
    runs = -(-count // 32)  # 32 codes fill `bits` words, whatever `bits` is
    if count < runs * 32:
        codes = np.pad(codes, ((0, 0), (0, runs * 32 - count)))
    units = codes.reshape(rows, runs, 4, 8)
    stream = np.zeros((rows, runs, 4, bits), np.uint8)
    for i in range(8):
        byte, shift = divmod(i * bits, 8)
        stream[..., byte] |= units[..., i] << np.uint8(shift)
        if shift + bits > 8:
            stream[..., byte + 1] |= units[..., i] >> np.uint8(8 - shift)
    words = np.ascontiguousarray(stream.reshape(rows, -1)[:, : n_words * 4])
    return words.view("<i4").astype(np.int32, copy=False)
