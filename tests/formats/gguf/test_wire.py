from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.keys import NUMPY_TYPES
from quantmill.formats.gguf.wire import ByteOrder, Cursor, encode_value, swap_blocks
from quantmill.formats.ir import Value, ValueType
from quantmill.formats.qtypes import BY_NAME, QType

V = ValueType
ORDERS: tuple[ByteOrder, ...] = ("little", "big")


def decode(raw: bytes, order: ByteOrder) -> Value:
    cursor = Cursor(raw, Path("x"), order)
    value = cursor.value()
    assert cursor.position == len(raw)
    return value


def test_values_by_hand() -> None:
    assert encode_value(Value(V.UINT32, 258)) == b"\x04\0\0\0\x02\x01\0\0"
    assert encode_value(Value(V.UINT32, 258), "big") == b"\0\0\0\x04\0\0\x01\x02"
    assert encode_value(Value(V.STRING, "é")) == b"\x08\0\0\0" + struct.pack("<Q", 2) + b"\xc3\xa9"
    assert encode_value(Value(V.BOOL, True), "big") == b"\0\0\0\x07\x01"
    array = Value(V.ARRAY, np.array([1, -1], np.int16), V.INT16)
    assert encode_value(array) == b"\x09\0\0\0\x03\0\0\0" + struct.pack("<Q", 2) + b"\x01\0\xff\xff"
    assert encode_value(array, "big") == b"\0\0\0\x09\0\0\0\x03" + struct.pack(">Q", 2) + b"\0\x01\xff\xff"


numbers = st.sampled_from([t for t in NUMPY_TYPES if t is not V.BOOL]).flatmap(
    lambda t: st.tuples(
        st.just(t),
        st.lists(
            st.floats(width=32 if t is V.FLOAT32 else 64, allow_nan=False)
            if t in (V.FLOAT32, V.FLOAT64)
            else st.integers(int(np.iinfo(NUMPY_TYPES[t]).min), int(np.iinfo(NUMPY_TYPES[t]).max)),
            min_size=1,
            max_size=5,
        ),
    )
)
# Any bytes at all: tokens of byte-level vocabularies are not UTF-8.
texts = st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))


@given(numbers, st.sampled_from(ORDERS))
def test_numbers_and_their_arrays_return(drawn: tuple[ValueType, list[float]], order: ByteOrder) -> None:
    kind, data = drawn
    assert decode(encode_value(Value(kind, data[0]), order), order) == Value(kind, data[0])
    back = decode(encode_value(Value(V.ARRAY, np.array(data, NUMPY_TYPES[kind]), kind), order), order)
    assert back.item is kind
    assert back.data.dtype == NUMPY_TYPES[kind]
    assert back.data.tolist() == data


@given(st.lists(texts), st.sampled_from(ORDERS))
def test_strings_return(data: list[str], order: ByteOrder) -> None:
    value = Value(V.ARRAY, tuple(data), V.STRING)
    assert decode(encode_value(value, order), order) == value
    nested = Value(V.ARRAY, (value, value), V.ARRAY)
    assert decode(encode_value(nested, order), order) == nested


@given(st.binary(max_size=80), st.sampled_from(ORDERS))
def test_any_bytes_decode_or_raise_format_error(raw: bytes, order: ByteOrder) -> None:
    cursor = Cursor(raw, Path("x"), order)
    with suppress(FormatError):
        cursor.value()
    assert cursor.position <= len(raw)


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("<IQ", 8, 2**63),  # a string longer than any file
        struct.pack("<IIQ", 9, 8, 2**61),  # more strings than bytes
        struct.pack("<IIQ", 9, 10, 2**61 + 1),  # 8 * (2**61 + 1) is 8 in 64 bits
        struct.pack("<IIQ", 9, 13, 1),  # no such type
        struct.pack("<IIQ", 9, 9, 1) * 8,  # nested without end
        struct.pack("<IIQQ", 9, 8, 1, 99) + b"short",
    ],
)
def test_lengths_are_distrusted(raw: bytes) -> None:
    with pytest.raises(FormatError):
        Cursor(raw, Path("x")).value()


def test_bytes_that_are_no_bool_count_as_true() -> None:
    """As in llama.cpp (``gguf_reader::read(bool &)``)."""
    assert decode(b"\x07\0\0\0\x02", "little") == Value(V.BOOL, True)


def test_a_q4_k_block_is_swapped_field_by_field() -> None:
    block = np.arange(144, dtype=np.uint8)[None]
    swapped = swap_blocks(BY_NAME["Q4_K"], block)[0].tolist()
    assert swapped == [1, 0, 3, 2, *range(4, 144)]


@pytest.mark.parametrize("qtype", BY_NAME.values(), ids=str)
def test_swapping_is_its_own_inverse_and_swaps_the_words(qtype: QType) -> None:
    raw = np.random.default_rng(1).integers(0, 256, (3, 2 * qtype.block_bytes), np.uint8)
    swapped = swap_blocks(qtype, raw)
    np.testing.assert_array_equal(swap_blocks(qtype, swapped), raw)
    native = raw.reshape(-1).view(qtype.block)
    big = swapped.reshape(-1).view(np.dtype([(n, np.dtype(t).newbyteorder(">"), (c,)) for n, t, c in qtype.fields]))
    for name, dtype, count in qtype.fields:
        words = np.dtype(dtype).newbyteorder("<").str.replace("f", "u").replace("i", "u")
        ours = np.ascontiguousarray(native[name]).view(words)
        theirs = np.ascontiguousarray(big[name]).view(words.replace("<", ">"))
        if (qtype.name, name) in {("Q5_0", "qh"), ("Q5_1", "qh")}:  # native words under the name of bytes
            theirs = theirs[:, ::-1]
        np.testing.assert_array_equal(ours.reshape(-1, count), theirs.reshape(-1, count))


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "TQ2_0"])
def test_swapping_is_what_the_official_converter_does(name: str) -> None:
    from types import SimpleNamespace

    from gguf.scripts import gguf_convert_endian as official

    function = getattr(official, f"byteswap_{name.lower()}", None)
    qtype = BY_NAME[name]
    if function is None:  # gguf 0.19 has fewer; the field check above covers the type
        assert name == "TQ2_0"
        return
    raw = np.random.default_rng(2).integers(0, 256, (1, qtype.block_bytes), np.uint8)
    tensor = SimpleNamespace(data=raw[0].copy())
    function(tensor, 0)
    np.testing.assert_array_equal(swap_blocks(qtype, raw)[0], tensor.data)
