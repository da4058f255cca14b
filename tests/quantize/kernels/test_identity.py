"""Our bytes are llama.cpp's, for the types of the legacy and k-quant kernels and the float types."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from checks import WIDTH, check_decode, check_encode, check_sources, check_split, encode
from quantmill.formats.qtypes import BF16, F16, F32, qtype
from quantmill.quantize.kernels import kernel_for
from rowsets import importances, row_sets

SEARCHED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
TYPES = ["F32", "F16", "BF16", "Q8_0", *SEARCHED]


@pytest.mark.parametrize("type_name", TYPES)
def test_bytes_without_importance(type_name: str) -> None:
    check_encode(type_name, None)


@pytest.mark.parametrize("type_name", SEARCHED)
@pytest.mark.parametrize("importance", ["uniform", "spiky", "sparse", "zero"])
def test_bytes_with_importance(type_name: str, importance: str) -> None:
    check_encode(type_name, importance)


@pytest.mark.parametrize("type_name", TYPES)
def test_sources(type_name: str) -> None:
    check_sources(type_name, None)


@pytest.mark.parametrize("type_name", SEARCHED)
def test_sources_with_importance(type_name: str) -> None:
    check_sources(type_name, importances(WIDTH)["uniform"])


@pytest.mark.parametrize("type_name", TYPES)
def test_floats(type_name: str) -> None:
    check_decode(type_name, None)


@pytest.mark.parametrize("type_name", SEARCHED)
def test_rows_are_independent(type_name: str) -> None:
    check_split(type_name, None)
    check_split(type_name, importances(WIDTH)["spiky"])


@pytest.mark.parametrize("type_name", ["Q8_0", "F16"])
def test_importance_changes_nothing_where_it_is_unused(type_name: str) -> None:
    rows = row_sets(WIDTH)["normal"]
    np.testing.assert_array_equal(
        encode(type_name, rows, importance=importances(WIDTH)["spiky"]), encode(type_name, rows)
    )


@pytest.mark.parametrize("type_name", ["Q4_0", "Q5_1"])
@pytest.mark.parametrize("width", [32, 96, 576])
def test_narrow_rows(type_name: str, width: int) -> None:
    check_encode(type_name, None, width)
    check_encode(type_name, "uniform", width)


def test_threads_share_nothing() -> None:
    rows = row_sets(WIDTH, n=64)["heavy"]
    importance = importances(WIDTH)["uniform"]
    expected = encode("Q4_K", rows, importance=importance)
    results = [np.zeros_like(expected) for _ in range(4)]

    def work(k: int) -> None:
        for _ in range(5):
            results[k][:] = encode("Q4_K", rows, importance=importance)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_read_only_and_unaligned_sources_compile_nothing_new() -> None:
    rows = row_sets(WIDTH)["normal"]
    expected = encode("Q6_K", rows)
    raw = bytearray(b"x") + rows.tobytes()  # one byte off any alignment
    unaligned = np.frombuffer(bytes(raw), np.uint8, offset=1).reshape(len(rows), -1)
    out = np.empty_like(expected)
    kernel = kernel_for(qtype("Q6_K"))
    kernel.encode(unaligned, F32, None, out)
    np.testing.assert_array_equal(out, expected)
    assert len(kernel.encode_rows.signatures) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("source", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_nonfinite(source: object, bad: float) -> None:
    from quantmill.quantize.kernels.contract import SOURCE_CODE
    from quantmill.quantize.kernels.floats import first_nonfinite

    rows = row_sets(WIDTH, n=60)["normal"]
    code = SOURCE_CODE[str(source)]
    for index in (-1, 0, 16383, 16384, 46079):
        damaged = rows.copy()
        if index >= 0:
            damaged.reshape(-1)[index:] = bad
        raw = damaged if source is F32 else damaged.astype(np.float16)
        if source is BF16:
            raw = (damaged.view(np.uint32) >> 16).astype(np.uint16)
        assert first_nonfinite(raw.view(np.uint8), code) == index
    largest = np.array([[3.4e38, -3.4e38]], np.float32)
    assert first_nonfinite(largest.view(np.uint8), 0) == -1
