"""One block of each type worked out by hand: weights on the type's own grid, so that the search must find it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from oracles.kernel_checks import decode, encode

I16, I32, I256 = np.arange(16), np.arange(32), np.arange(256)
ONE, THREE, MINUS_ONE = b"\x00\x3c", b"\x00\x42", b"\x00\xbc"  # as IEEE halves


def pack(*parts: bytes | NDArray[np.int64]) -> bytes:
    return b"".join(p if isinstance(p, bytes) else p.astype(np.uint8).tobytes() for p in parts)


NIBBLES = 0x11 * I16  # low and high nibble alike: level i and level i + 16 (modulo 16)
BLOCKS = {
    "F32": (np.array([1.0]), b"\x00\x00\x80\x3f"),
    "F16": (np.array([1.0]), ONE),
    "BF16": (np.array([1.0]), b"\x80\x3f"),
    # scale = 127/127, levels are the weights
    "Q8_0": (np.concatenate([[-127], I32[1:]]), pack(ONE, b"\x81", I32[1:])),
    # scale = -8/-8, level = weight + 8
    "Q4_0": (np.tile(I16 - 8, 2), pack(ONE, NIBBLES)),
    # scale = 15/15, min 3, level = weight - 3
    "Q4_1": (np.tile(I16 + 3, 2), pack(ONE, THREE, NIBBLES)),
    # level = weight + 16; the fifth bit is set in the upper sixteen
    "Q5_0": (I32 - 16, pack(ONE, b"\x00\x00\xff\xff", NIBBLES)),
    "Q5_1": (I32 + 3, pack(ONE, THREE, b"\x00\x00\xff\xff", NIBBLES)),
    # each sub-block has scale 15 (as 15 * 1) and min 0; four levels of two bits a byte
    "Q2_K": (15 * (I256 % 4), pack(b"\x0f" * 16, np.tile(0x55 * (I16 % 4), 4), ONE, b"\x00\x00")),
    # each sub-block has scale 32 = -1 * (0 - 32); level = weight/32 + 4, its third bit in hmask
    "Q3_K": (
        32 * (I256 % 8 - 4),
        pack(np.tile([0, 0, 0, 0, 255, 255, 255, 255], 4), np.tile(0x55 * (I16 % 4), 4), b"\x00" * 12, MINUS_ONE),
    ),
    # each sub-block has scale 63 (six bits, the last four sub-blocks' high two in the first four bytes) and min 0
    "Q4_K": (
        63 * (I256 % 16),
        pack(ONE, b"\x00\x00", b"\xff" * 4 + b"\x00" * 4 + b"\x0f" * 4, np.tile(NIBBLES, 8)),
    ),
    "Q5_K": (
        63 * (I256 % 32),
        pack(
            *(ONE, b"\x00\x00", b"\xff" * 4 + b"\x00" * 4 + b"\x0f" * 4),
            *(b"\x00" * 16 + b"\xff" * 16, np.tile(NIBBLES, 8)),
        ),
    ),
    # each sub-block has scale 128 = -1 * -128; levels 0, 4, ... 60: low four bits, then the high two
    "Q6_K": (
        128 * (4 * (I256 % 16) - 32),
        pack(np.tile(0x11 * (4 * I16 & 15), 8), np.tile(0x55 * (I16 >> 2), 4), b"\x80" * 16, MINUS_ONE),
    ),
}


@pytest.mark.parametrize("type_name", BLOCKS)
def test_block(type_name: str) -> None:
    weights, expected = BLOCKS[type_name]
    rows = np.ascontiguousarray(weights, np.float32)[None, :]
    blocks = encode(type_name, rows)
    assert blocks.tobytes() == expected
    np.testing.assert_array_equal(decode(type_name, blocks, rows.shape[1]), rows)
