"""The bit layouts of GPTQ and AWQ against hand-made words and a bit stream written the slow way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantmill.formats.errors import QuantmillError
from quantmill.formats.hf.packed import awq, gptq


def test_gptq_by_hand() -> None:
    codes = np.arange(8, dtype=np.uint8).reshape(8, 1)
    assert gptq.pack_rows(codes, 4).view(np.uint32).tolist() == [[0x76543210]]
    assert gptq.pack_rows(codes, 8).view(np.uint32).tolist() == [[0x03020100], [0x07060504]]
    # 3 bits: code 10 is bits 30..32, so its top bit opens the second word.
    three = np.zeros((32, 1), np.uint8)
    three[10] = 7
    assert gptq.pack_rows(three, 3).view(np.uint32).tolist() == [[0xC0000000], [1], [0]]
    assert gptq.pack_columns(codes.T, 4).view(np.uint32).tolist() == [[0x76543210]]


def test_awq_by_hand() -> None:
    words = awq.pack(np.arange(8, dtype=np.uint8).reshape(1, 8))
    assert words.view(np.uint32).tolist() == [[0x75316420]]


@given(st.sampled_from(gptq.BITS), st.integers(1, 3), st.integers(1, 5), st.randoms(use_true_random=False))
def test_gptq_is_one_bit_stream(bits: int, runs: int, width: int, random) -> None:
    n = runs * gptq.per_unit(bits)
    codes = np.array([[random.randrange(1 << bits) for _ in range(width)] for _ in range(n)], np.uint8)
    words = gptq.pack_rows(codes, bits)
    assert (words.dtype, words.shape) == (np.int32, (n * bits // 32, width))
    for column in range(width):
        stream = sum(int(code) << (bits * i) for i, code in enumerate(codes[:, column]))
        assert np.ascontiguousarray(words[:, column]).tobytes() == stream.to_bytes(n * bits // 8, "little")
    assert (gptq.unpack_rows(words, bits) == codes).all()
    columns = gptq.pack_columns(codes.T, bits)
    assert (columns == words.T).all()
    assert (gptq.unpack_columns(columns, bits) == codes.T).all()


@given(st.integers(0, 4), st.integers(1, 5), st.randoms(use_true_random=False))
def test_awq_there_and_back(rows: int, words: int, random) -> None:
    codes = np.array([[random.randrange(16) for _ in range(8 * words)] for _ in range(rows)], np.uint8)
    codes = codes.reshape(rows, 8 * words)
    packed = awq.pack(codes)
    assert (packed.dtype, packed.shape) == (np.int32, (rows, words))
    for row in range(rows):
        for word in range(words):
            bits = int(packed.view(np.uint32)[row, word])
            assert [(bits >> (4 * i)) & 15 for i in range(8)] == [codes[row, 8 * word + c] for c in awq.ORDER]
    assert (awq.unpack(packed) == codes).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: gptq.pack_rows(np.zeros((32, 1), np.uint8), 5), "5 bits are none of 2, 3, 4, 8"),
        (lambda: gptq.pack_rows(np.zeros((30, 1), np.uint8), 4), "30 codes of 4 bits do not fill words"),
        (lambda: gptq.pack_rows(np.full((8, 1), 16, np.uint8), 4), "a code of 16 does not fit 4 bits"),
        (lambda: gptq.unpack_rows(np.zeros((2, 1), np.int32), 3), "do not fill words"),
        (lambda: awq.pack(np.zeros((1, 9), np.uint8)), "9 columns do not fill"),
        (lambda: awq.pack(np.full((1, 8), 16, np.uint8)), "a code of 16 does not fit"),
    ],
)
def test_refused(call, said: str) -> None:
    with pytest.raises(QuantmillError, match=said):
        call()
