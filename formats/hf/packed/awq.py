"""The AWQ layout (gemm): eight 4-bit codes of neighbouring columns in an int32, their order shuffled.

Source: ``pack`` of AutoAWQ's ``WQLinear_GEMM``: nibble i of word w holds column 8w + [0, 2, 4, 6, 1, 3, 5, 7][i].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import QuantmillError

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column, of eight, that nibble i holds


def pack(codes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """uint8 [rows, N] -> int32 [rows, N / 8], for ``qweight`` (rows K) and ``qzeros`` (rows K / group) alike.

    Raises:
        QuantmillError: N is no multiple of 8, a code is above 15.
    """
    rows, width = codes.shape
    if width % 8:
        raise QuantmillError(f"{width} columns do not fill words of eight codes")
    if codes.size and int(codes.max()) > 15:
        raise QuantmillError(f"a code of {int(codes.max())} does not fit 4 bits")
    shuffled = codes.reshape(rows, width // 8, 8)[:, :, ORDER].astype(np.uint32)
    words = np.zeros((rows, width // 8), np.uint32)
    for i in range(8):
        words |= shuffled[:, :, i] << np.uint32(4 * i)
    return words.view(np.int32)


def unpack(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The inverse of ``pack``: int32 [rows, N / 8] -> uint8 [rows, N]."""
    rows, width = words.shape
    unsigned = np.ascontiguousarray(words).view(np.uint32)
    codes = np.empty((rows, width, 8), np.uint8)
    for i, column in enumerate(ORDER):
        codes[:, :, column] = (unsigned >> np.uint32(4 * i)) & np.uint32(15)
    return codes.reshape(rows, width * 8)
