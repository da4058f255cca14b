"""What every kernel must pass: its bytes on rows of every kind against ``ggml_quantize_chunk``, its floats against
``to_float``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from oracles.ggml import ggml_dequantize, ggml_quantize
from quantmill.formats.qtypes import BY_NAME, QType
from quantmill.quantize.kernels import kernel_for

Floats = NDArray[np.float32]


def row_sets(width: int, seed: int = 0, n: int = 24) -> Iterator[tuple[str, Floats]]:
    """Named sets of float32 rows [n, width]: the statistics a kernel's branches tell apart. 24 rows of a few blocks
    fill no whole number of tiles."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((n, width)).astype(np.float32)
    yield "normal", normal
    yield "small normal", normal * np.float32(0.02)
    yield "heavy-tailed", rng.standard_t(2, (n, width)).astype(np.float32)
    yield "constant", np.repeat(normal[:, :1], width, axis=1)
    yield "zero", np.zeros((n, width), np.float32)
    yield "negative zero", np.full((n, width), -0.0, np.float32)
    yield "zeros of both signs", np.where(normal < 0, np.float32(-0.0), np.float32(0))
    yield "subnormal", normal * np.float32(1e-40)
    yield "tiny", normal * np.float32(10) ** np.linspace(-38, -10, n, dtype=np.float32)[:, None]
    yield "huge", normal * np.float32(10) ** np.linspace(2, 15, n, dtype=np.float32)[:, None]
    outlier = normal * np.float32(1e-3)
    outlier[np.arange(n), rng.integers(0, width, n)] = 30
    outlier[n // 2 :, width // 3] = -500
    yield "one outlier", outlier
    yield "mixed magnitudes", normal * np.float32(10) ** rng.integers(-8, 4, (n, width)).astype(np.float32)
    sixteens = np.float32(10) ** rng.integers(-6, 3, (n, width // 16)).astype(np.float32)
    yield "mixed sub-blocks", normal * np.repeat(sixteens, 16, axis=1)
    yield "mixed rows", normal * np.float32(10) ** rng.integers(-8, 4, (n, 1)).astype(np.float32)
    yield "steps", np.round(normal * 4) / np.float32(4)  # ties
    yield "positive", np.abs(normal) + np.float32(0.1)
    yield "negative", -np.abs(normal)
    sparse = normal.copy()
    sparse[rng.random((n, width)) < 0.9] = 0
    yield "sparse", sparse


def importances(width: int, seed: int = 0) -> Iterator[tuple[str, Floats | None]]:
    """None, and importance vectors float32 [width] of several shapes."""
    rng = np.random.default_rng(seed + 1)
    yield "none", None
    yield "uniform", rng.random(width).astype(np.float32) + np.float32(0.01)
    yield "heavy-tailed", (rng.standard_normal(width) ** 4 * 10).astype(np.float32)
    yield "log-normal", np.exp(4 * rng.standard_normal(width)).astype(np.float32)
    yield "some zero", (rng.random(width) * (rng.random(width) < 0.5)).astype(np.float32)
    yield "all zero", np.zeros(width, np.float32)


def encode(type_name: str, rows: Floats, importance: Floats | None = None, source: str = "F32") -> NDArray[np.uint8]:
    """Rows, first rounded to ``source`` (F32, F16 or BF16), through our kernel: uint8 [n, row bytes]."""
    qtype = BY_NAME[type_name]
    out = np.full((len(rows), qtype.row_bytes(rows.shape[1])), 0xA5, np.uint8)  # a kernel must write every byte
    kernel_for(qtype).encode(raw_rows(rows, source), BY_NAME[source], importance, out)
    return out


def decode(type_name: str, blocks: NDArray[np.uint8], width: int) -> Floats:
    """Blocks uint8 [n, row bytes] through our kernel: float32 [n, width]."""
    out = np.full((len(blocks), width), np.nan, np.float32)
    kernel_for(BY_NAME[type_name]).decode(blocks, out)
    return out


def raw_rows(rows: Floats, source: str) -> NDArray[np.uint8]:
    """Float rows as stored in F32, F16 or BF16 (truncated): uint8 [n, row bytes]."""
    if source == "F16":
        with np.errstate(over="ignore"):
            return rows.astype(np.float16).view(np.uint8)
    if source == "BF16":
        return (np.ascontiguousarray(rows).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return np.ascontiguousarray(rows).view(np.uint8)


def as_stored(rows: Floats, source: str) -> Floats:
    """The float32 values of rows stored in ``source``."""
    raw = raw_rows(rows, source)
    if source == "F16":
        return raw.view(np.float16).astype(np.float32)
    if source == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return rows


def assert_same_bytes(type_name: str, rows: Floats, importance: Floats | None, source: str, what: str) -> None:
    """Our bytes are llama.cpp's, or the first block that differs is named."""
    ours = encode(type_name, rows, importance, source)
    theirs = ggml_quantize(type_name, as_stored(rows, source), importance)
    size = BY_NAME[type_name].block_bytes
    different = (ours != theirs).reshape(len(rows), -1, size).any(2)
    assert not different.any(), (
        f"{type_name} {what} from {source}: {different.sum()} of {different.size} blocks differ, first (row, block) "
        f"{tuple(np.argwhere(different)[0])}"
    )


def llama_cpp_uses_importance(type_name: str) -> bool:
    """Whether importance changes llama.cpp's bytes; where a type has a search of our own it does not."""
    kernel = kernel_for(BY_NAME[type_name])
    return kernel.uses_importance and not kernel.own_search


def check_encode(type_name: str, width: int, required: bool = False) -> None:
    """Byte equality on every row set, with every importance where the type takes one, and from every source type."""
    uses = llama_cpp_uses_importance(type_name)
    for set_name, rows in row_sets(width):
        for importance_name, importance in importances(width):
            if (importance is None and required) or (importance is not None and not uses):
                continue
            assert_same_bytes(type_name, rows, importance, "F32", f"{set_name}, importance {importance_name}")
    importance = next(w for name, w in importances(width) if name == "uniform")
    for source in ("F16", "BF16"):
        for set_name, rows in row_sets(width):
            if set_name not in ("huge", "mixed magnitudes"):  # beyond F16
                for weights in [importance] if required else [None, importance] if uses else [None]:
                    assert_same_bytes(type_name, rows, weights, source, set_name)


# Tested in one file: llama.cpp takes half a minute to make the tables of the first of them.
LATTICE = ("IQ1_M", "IQ1_S", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ3_S", "IQ3_XXS")


def check_zero_importance(type_name: str, width: int) -> None:
    """Importance that is zero throughout, with which searches end as they began."""
    for set_name, rows in row_sets(width, n=9):
        if set_name in ("normal", "sparse", "positive", "steps"):
            assert_same_bytes(type_name, rows, np.zeros(width, np.float32), "F32", f"{set_name}, importance all zero")


def check_ragged(type_name: str) -> None:
    """Rows that fill no whole number of lanes: one row of one block, and every count of rows up to a few."""
    importance, block = not kernel_for(BY_NAME[type_name]).own_search, BY_NAME[type_name].block_size
    rng = np.random.default_rng(7)
    for n, blocks in ((1, 1), (1, 3), (2, 5), (3, 11), (7, 1), (5, 33)):
        rows = rng.standard_normal((n, blocks * block)).astype(np.float32)
        weights = rng.random(blocks * block).astype(np.float32) if importance else None
        assert_same_bytes(type_name, rows, weights, "F32", f"{n} rows of {blocks} blocks")


def check_decode(type_name: str, seed: int = 0) -> None:
    """Exactly ``to_float``, on blocks of random bytes (scales kept finite) and on encoded weights."""
    qtype = BY_NAME[type_name]
    width = 4 * qtype.block_size
    random = random_blocks(qtype, 64, seed)
    encoded = encode(type_name, next(row_sets(width))[1], np.ones(width, np.float32))
    for blocks in (random.reshape(-1, 4 * qtype.block_bytes), encoded):
        theirs = ggml_dequantize(type_name, blocks, width)
        assert np.array_equal(decode(type_name, blocks, width).view(np.uint32), theirs.view(np.uint32)), type_name


def random_blocks(qtype: QType, n: int, seed: int = 0) -> NDArray[np.uint8]:
    """``n`` blocks of random bytes, their half-precision fields finite: uint8 [n, block bytes]."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (n, qtype.block_bytes), dtype=np.uint8)
    fields = blocks.view(qtype.block)[:, 0]
    for name, dtype, _ in qtype.fields:
        if dtype == "<f2":
            fields[name] = rng.standard_normal(fields[name].shape).astype(np.float16)
    return blocks


def check_split(type_name: str, importance: Floats | None) -> None:
    """Rows encoded one by one, or a few at a time, give the bytes of all at once: a row knows nothing of its tile, so
    neither the chunk size nor the threads that share the chunks show in the file."""
    width = 768
    rows = np.concatenate([rows[:6] for name, rows in row_sets(width) if name in ("mixed rows", "sparse", "normal")])
    whole = encode(type_name, rows, importance)
    for step in (1, 5, 17):
        parts = [encode(type_name, rows[a : a + step], importance) for a in range(0, len(rows), step)]
        assert np.array_equal(np.concatenate(parts), whole), f"{type_name}, {step} rows at a time"


def mixed_rows(n: int, width: int, seed: int) -> Floats:
    """Float32 rows [n, width] of mixed statistics: tails, outliers, offsets, ties and scales of 2**-30 to 2**10."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, width), np.float32)
    x[::3] = rng.standard_t(2 + seed % 5, (len(x[::3]), width))
    x[::5] *= np.exp(rng.standard_normal((len(x[::5]), width), np.float32) * 2)
    x[::7] += rng.standard_normal((len(x[::7]), 1), np.float32)
    x[::11] = np.round(x[::11] * 8) / np.float32(8)
    x *= np.exp2(rng.uniform(-30, 10, (n, 1))).astype(np.float32)
    return x


def check_many(type_name: str, rows: int) -> None:
    """Byte equality on ``rows`` rows of 256 weights of mixed statistics, with importance in every chunk the type needs
    it and in half of the others."""
    kernel, chunk = kernel_for(BY_NAME[type_name]), 1000
    for seed in range(-(-rows // chunk)):
        x = mixed_rows(min(chunk, rows - seed * chunk), 256, seed)
        weights = (np.random.default_rng(seed).standard_normal(256) ** 2).astype(np.float32)
        weighted = kernel.requires_importance or (llama_cpp_uses_importance(type_name) and seed % 2 == 0)
        assert_same_bytes(type_name, x, weights if weighted else None, "F32", f"mixed statistics, seed {seed}")
