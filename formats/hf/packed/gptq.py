"""The GPTQ layout: codes as one contiguous little-endian bit stream over int32 words, down K or along N.

Source: ``pack`` of AutoGPTQ's and GPTQModel's ``QuantLinear`` (nn_modules/qlinear); 3-bit codes straddle words.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import QuantmillError

BITS = (2, 3, 4, 8)


def per_unit(bits: int) -> int:
    """Codes in the shortest run that fills whole words: 16, 32, 8, 4 for 2, 3, 4, 8 bits."""
    return 32 // gcd(32, bits)


def pack_rows(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Pack down the first axis, as ``qweight`` is.

    Args:
        codes: uint8 [K, N], each below 2**bits; K a multiple of ``per_unit(bits)``.
        bits: 2, 3, 4 or 8.

    Returns:
        int32 [K * bits / 32, N].

    Raises:
        QuantmillError: other bits, a K that does not fill words, a code too large.
    """
    n_codes, width = codes.shape
    unit = _unit(bits, n_codes)
    if codes.size and int(codes.max()) >> bits:
        raise QuantmillError(f"a code of {int(codes.max())} does not fit {bits} bits")
    runs = codes.reshape(-1, unit, width)
    words = np.zeros((len(runs), unit * bits // 32, width), np.uint32)
    for i in range(unit):
        word, shift = divmod(i * bits, 32)
        code = runs[:, i].astype(np.uint32)
        words[:, word] |= code << np.uint32(shift)
        if shift + bits > 32:
            words[:, word + 1] |= code >> np.uint32(32 - shift)
    return words.reshape(-1, width).view(np.int32)


def unpack_rows(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """The inverse of ``pack_rows``: int32 [K * bits / 32, N] -> uint8 [K, N]."""
    n_words, width = words.shape
    unit = _unit(bits, n_words * 32 // bits)
    runs = np.ascontiguousarray(words).view(np.uint32).reshape(-1, unit * bits // 32, width)
    codes = np.empty((len(runs), unit, width), np.uint8)
    mask = np.uint32((1 << bits) - 1)
    for i in range(unit):
        word, shift = divmod(i * bits, 32)
        code = runs[:, word] >> np.uint32(shift)
        if shift + bits > 32:
            code |= runs[:, word + 1] << np.uint32(32 - shift)
        codes[:, i] = code & mask
    return codes.reshape(-1, width)


def pack_columns(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Pack along the last axis, as ``qzeros`` is: uint8 [G, N] -> int32 [G, N * bits / 32]."""
    return np.ascontiguousarray(pack_rows(codes.T, bits).T)


def unpack_columns(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """The inverse of ``pack_columns``: int32 [G, N * bits / 32] -> uint8 [G, N]."""
    return np.ascontiguousarray(unpack_rows(words.T, bits).T)


def _unit(bits: Any, n_codes: int) -> int:
    if bits not in BITS:
        raise QuantmillError(f"{bits} bits are none of {', '.join(map(str, BITS))}")
    unit = per_unit(bits)
    if n_codes % unit:
        raise QuantmillError(f"{n_codes} codes of {bits} bits do not fill words of 32 bits", hint=f"{unit} at a time")
    return unit
