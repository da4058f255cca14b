"""The checks every kernel passes: against the oracle's bytes, its floats, and its own laws."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from oracles.ggml import ggml_dequantize, ggml_quantize
from quantmill.formats.qtypes import BF16, F16, F32, QType, qtype
from quantmill.quantize.kernels import kernel_for
from rowsets import importances, row_sets

WIDTH = 768  # several blocks of any type, and not a power of two


def encode(
    type_name: str, rows: NDArray[np.generic], source: QType = F32, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Our bytes for rows given in the source type's own array dtype."""
    kind = qtype(type_name)
    out = np.full((len(rows), kind.row_bytes(rows.shape[1])), 0xA5, np.uint8)
    kernel_for(kind).encode(rows.view(np.uint8), source, importance, out)
    return out


def decode(type_name: str, blocks: NDArray[np.uint8], width: int) -> NDArray[np.float32]:
    out = np.full((len(blocks), width), np.nan, np.float32)
    kernel_for(qtype(type_name)).decode(blocks, out)
    return out


def same_floats(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Bit for bit, any NaN equal to any other."""
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


def check_encode(type_name: str, importance_name: str | None, width: int = WIDTH) -> None:
    """Every row set's bytes equal ggml_quantize_chunk's; the message names the first block that differs."""
    importance = None if importance_name is None else importances(width)[importance_name]
    size = qtype(type_name).block_bytes
    for name, rows in row_sets(width).items():
        ours = encode(type_name, rows, importance=importance).reshape(-1, size)
        theirs = ggml_quantize(type_name, rows, importance).reshape(-1, size)
        differ = np.flatnonzero((ours != theirs).any(axis=1))
        assert differ.size == 0, (type_name, importance_name, name, f"{differ.size} blocks, first {differ[0]}")


def check_sources(type_name: str, importance: NDArray[np.float32] | None) -> None:
    """F16 and BF16 rows give the bytes of the same numbers in F32."""
    for name in ("normal", "outlier", "subnormal"):
        rows = row_sets(WIDTH)[name]
        half = rows.astype(np.float16)
        brain = (rows.view(np.uint32) >> 16).astype(np.uint16)
        wide = (brain.astype(np.uint32) << 16).view(np.float32)
        for raw, floats, source in ((half, half.astype(np.float32), F16), (brain, wide, BF16)):
            ours = encode(type_name, raw, source, importance)
            np.testing.assert_array_equal(ours, ggml_quantize(type_name, floats, importance), f"{name} {source}")


def check_decode(type_name: str, importance: NDArray[np.float32] | None) -> None:
    """Floats equal to_float's, of encoded rows and of random bytes."""
    random = np.random.default_rng(3).integers(0, 256, (50, qtype(type_name).row_bytes(WIDTH)), np.uint8)
    encoded = encode(type_name, row_sets(WIDTH)["heavy"], importance=importance)
    for blocks in (random, encoded):
        assert same_floats(decode(type_name, blocks, WIDTH), ggml_dequantize(type_name, blocks, WIDTH)), type_name


def check_split(type_name: str, importance: NDArray[np.float32] | None) -> None:
    """Rows encoded one by one, or a few at a time, give the bytes of all at once: blocks know nothing of lanes."""
    rows = row_sets(WIDTH)["mixed_rows"]
    whole = encode(type_name, rows, importance=importance)
    for step in (1, 5, 36):
        parts = [encode(type_name, rows[a : a + step], importance=importance) for a in range(0, len(rows), step)]
        np.testing.assert_array_equal(np.concatenate(parts), whole, f"{step} rows at a time")
