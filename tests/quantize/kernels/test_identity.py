"""Our bytes are llama.cpp's, for the float types, the legacy types and the k-quants; and laws every kernel keeps."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from oracles.kernel_checks import (
    LATTICE,
    check_decode,
    check_encode,
    check_ragged,
    check_split,
    check_zero_importance,
    encode,
    importances,
    row_sets,
)
from quantmill.formats.qtypes import BF16, F16, F32, qtype
from quantmill.quantize.kernels import ENCODABLE, kernel_for, q6_k

WIDTH = 768  # several blocks of any type, and not a power of two
SEARCHED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
TYPES = ["F32", "F16", "BF16", "Q8_0", *SEARCHED]
UNIFORM = next(w for name, w in importances(WIDTH) if name == "uniform")
NORMAL = next(rows for name, rows in row_sets(WIDTH) if name == "normal")


@pytest.mark.parametrize("type_name", TYPES)
def test_bytes_are_llama_cpps(type_name: str) -> None:
    check_encode(type_name, WIDTH)
    check_ragged(type_name)


@pytest.mark.parametrize("type_name", TYPES)
def test_floats_are_llama_cpps(type_name: str) -> None:
    check_decode(type_name)


@pytest.mark.parametrize("type_name", sorted(ENCODABLE - {*LATTICE}))
def test_all_zero_importance_is_what_llama_cpp_does(type_name: str) -> None:
    check_zero_importance(type_name, WIDTH)


@pytest.mark.parametrize("type_name", sorted(ENCODABLE))
def test_a_row_knows_nothing_of_its_neighbours(type_name: str) -> None:
    check_split(type_name, UNIFORM)
    if not kernel_for(qtype(type_name)).requires_importance:
        check_split(type_name, None)


@pytest.mark.parametrize("type_name", ["Q8_0", "F16"])
def test_importance_changes_nothing_where_it_is_unused(type_name: str) -> None:
    np.testing.assert_array_equal(encode(type_name, NORMAL, UNIFORM), encode(type_name, NORMAL))


@pytest.mark.parametrize("type_name", ["Q4_0", "Q5_1"])
@pytest.mark.parametrize("width", [32, 96])
def test_narrow_rows(type_name: str, width: int) -> None:
    check_encode(type_name, width)


@pytest.mark.parametrize("type_name", ["Q4_K", "IQ2_XS", "IQ1_S", "MXFP4"])
@pytest.mark.parametrize("n_threads", [2, 7])
def test_threads_share_nothing(type_name: str, n_threads: int) -> None:
    expected = encode(type_name, NORMAL, UNIFORM)
    results = [np.zeros_like(expected) for _ in range(n_threads)]

    def work(k: int) -> None:
        for _ in range(3):
            results[k][:] = encode(type_name, NORMAL, UNIFORM)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_read_only_and_unaligned_sources_compile_nothing_new() -> None:
    expected = encode("Q6_K", NORMAL)
    raw = bytearray(b"x") + NORMAL.tobytes()  # one byte off any alignment
    unaligned = np.frombuffer(bytes(raw), np.uint8, offset=1).reshape(len(NORMAL), -1)
    out = np.empty_like(expected)
    kernel = q6_k.KERNELS["Q6_K"]  # numba's, not its image
    kernel.encode(NORMAL.view(np.uint8), F32, None, out)
    kernel.encode(unaligned, F32, None, out)
    np.testing.assert_array_equal(out, expected)
    assert len(kernel.encode_rows.signatures) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("source", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_nonfinite(source: object, bad: float) -> None:
    from quantmill.quantize.kernels.contract import SOURCE_CODE
    from quantmill.quantize.kernels.floats import first_nonfinite

    rows = next(row_sets(WIDTH, n=60))[1]
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
