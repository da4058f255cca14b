"""Encoding and decoding arrays: the bytes and floats of llama.cpp and of files, and errors that say what to do."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import quantmill.quantize.compare
import quantmill.quantize.decode
import quantmill.quantize.encode
import quantmill.quantize.execute
import quantmill.quantize.kernels
import quantmill.quantize.threads
from oracles.ggml import ggml_dequantize, ggml_quantize
from quantmill.formats.errors import ImportanceMissing, PlanError, QuantmillError, WeightError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.ir import Model, Tensor
from quantmill.formats.qtypes import BY_NAME
from quantmill.quantize.decode import decode
from quantmill.quantize.encode import encode
from quantmill.quantize.execute import execute
from quantmill.quantize.kernels import ENCODABLE, kernel_for
from quantmill.quantize.plan import PlanOptions, make_plan


@pytest.mark.parametrize("name", sorted(ENCODABLE))
def test_bytes_and_floats_are_llama_cpps(name: str, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((5, 512)).astype(np.float32)
    importance = rng.random(512).astype(np.float32)
    kernel = kernel_for(BY_NAME[name])
    used = importance if kernel.uses_importance and not kernel.own_search else None
    blocks = encode(rows, name.lower(), None if kernel.own_search else importance)
    assert np.array_equal(blocks, ggml_quantize(name, rows, used))
    assert np.array_equal(decode(blocks, BY_NAME[name]), ggml_dequantize(name, blocks, 512))


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8"])
def test_any_float_dtype_and_layout(dtype: str, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((4, 256)).astype(np.float16)
    expected = encode(rows, "Q4_K")
    assert np.array_equal(encode(rows.astype(dtype), "Q4_K"), expected)
    assert np.array_equal(encode(np.asfortranarray(rows.astype(dtype)), "Q4_K"), expected)
    assert np.array_equal(encode(np.repeat(rows.astype(dtype), 2, axis=1)[:, ::2], "Q4_K"), expected)


def test_bfloat16(rng: np.random.Generator) -> None:
    rows: Any = rng.standard_normal((4, 256)).astype(ml_dtypes.bfloat16)
    assert np.array_equal(encode(rows, "Q8_0"), encode(rows.astype(np.float32), "Q8_0"))
    assert np.array_equal(encode(rows, "BF16"), rows.view(np.uint8))


def test_one_row_and_none(rng: np.random.Generator) -> None:
    row = rng.standard_normal(64).astype(np.float32)
    blocks = encode(row, "Q8_0")
    assert blocks.shape == (68,)
    assert np.array_equal(blocks, encode(row[None], "Q8_0")[0])
    assert np.array_equal(decode(blocks, "Q8_0"), decode(blocks[None], "Q8_0")[0])
    assert encode(np.zeros((0, 256), np.float32), "Q4_K").shape == (0, 144)
    assert decode(np.zeros((0, 144), np.uint8), "Q4_K").shape == (0, 256)
    assert encode(np.zeros((3, 0), np.float32), "Q4_K").shape == (3, 0)
    assert decode(np.zeros((3, 0), np.uint8), "Q4_K").shape == (3, 0)


def test_the_same_bytes_as_in_a_file(
    model: Callable[..., Model], tensor: Callable[..., Tensor], tmp_path: Path, rng: np.random.Generator
) -> None:
    weights = rng.standard_normal((6, 512)).astype("f2")
    importance = rng.random(512).astype(np.float32)
    name = "blk.0.attn_q.weight"
    for vectors in (None, {name: importance}):
        plan = make_plan(model([tensor(name, weights)]), "Q4_K_S", PlanOptions(importance=vectors))
        execute(plan, tmp_path / "o.gguf", force=True)
        (written,) = read_gguf(tmp_path / "o.gguf")
        blocks = encode(weights, "Q4_K", importance if vectors else None)
        assert np.array_equal(written.rows(0, 6), blocks)


@pytest.mark.parametrize(
    ("rows", "name", "importance", "message"),
    [
        (np.zeros((2, 256), np.int8), "Q4_K", None, "rows must be floats, not int8"),
        (np.zeros((2, 256), np.complex64), "Q4_K", None, "rows must be floats, not complex64"),
        (np.zeros((2, 2, 256)), "Q4_K", None, "rows must have 1 or 2 dimensions, not 3"),
        (np.zeros(()), "Q4_K", None, "rows must have 1 or 2 dimensions, not 0"),
        (np.zeros((2, 100)), "Q4_K", None, "100 weights in a row are not a multiple of Q4_K's block of 256"),
        (np.zeros((2, 256)), "Q4_K", np.ones(255), r"importance must have the shape \[256\], not \[255\]"),
        (np.zeros((2, 256)), "Q4_K", np.ones((2, 256)), r"importance must have the shape \[256\], not \[2, 256\]"),
        (np.zeros((2, 256)), "Q4_K", -np.ones(256), "importance must be finite and not negative"),
        (np.zeros((2, 256)), "Q4_K", np.full(256, np.nan), "importance must be finite and not negative"),
    ],
)
def test_what_cannot_be_encoded(rows: Any, name: str, importance: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        encode(rows, name, importance)


@pytest.mark.parametrize("name", ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"])
def test_types_that_need_importance(name: str) -> None:
    with pytest.raises(ImportanceMissing, match=f"{name} needs importance"):
        encode(np.ones((1, 256)), name)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "F16"])
def test_weights_that_cannot_be_encoded(name: str) -> None:
    rows = np.ones((3, 512), np.float32)
    rows[1, 300] = np.nan
    with pytest.raises(WeightError, match=r"^weight \[1, 300\] is nan$"):
        encode(rows, name)
    rows[1, 300] = 1e30
    with pytest.raises(WeightError, match=rf"^weight \[1, \d+\] is too large for {name}$"):
        encode(rows, name)


def test_types_without_a_kernel() -> None:
    with pytest.raises(QuantmillError, match="did you mean Q4_K"):
        encode(np.ones((1, 256)), "Q4_KK")
    for call in (lambda: encode(np.ones((1, 256)), "Q8_K"), lambda: decode(np.ones((1, 292), np.uint8), "Q8_K")):
        with pytest.raises(QuantmillError, match="type Q8_K has no kernel"):
            call()


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (np.zeros((2, 144), np.int8), "blocks must be uint8, not int8"),
        (np.zeros((2, 2, 144), np.uint8), "blocks must have 1 or 2 dimensions, not 3"),
        (np.zeros((2, 143), np.uint8), "143 bytes in a row are not a multiple of Q4_K's block of 144"),
    ],
)
def test_what_cannot_be_decoded(blocks: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        decode(blocks, "Q4_K")


@pytest.mark.parametrize("module", ["compare", "decode", "encode", "execute", "kernels", "threads"])
def test_examples_in_docstrings(module: str) -> None:
    failed, tried = doctest.testmod(getattr(quantmill.quantize, module))
    assert tried
    assert not failed
