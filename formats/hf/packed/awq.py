"""AWQ: its bit layouts, and its layers as integer grids.

gemm: eight 4-bit codes of neighbouring output columns in an int32, shuffled: nibble i of word w holds column
8w + [0, 2, 4, 6, 1, 3, 5, 7][i]. gemv: rows of the weight, codes in their order. Zeros are stored as they are.
Source: ``WQLinear_GEMM`` and ``WQLinear_GEMV`` of AutoAWQ (modules/linear).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import QuantmillError
from ...json_types import TEXT, shown
from .bits import unpack_bits
from .described import check_types, refusal
from .integer_grid import IntegerGrid
from .stored import FLOAT_DTYPES, Module, float_rows

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column, of eight, that nibble i holds


def pack(codes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Pack 4-bit codes, uint8 [rows, N], to int32 [rows, N / 8], for ``qweight`` and ``qzeros``.

    Raises:
        QuantmillError: N is not a multiple of 8, or a code is above 15.
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
    """Undo ``pack``: int32 [rows, N / 8] to uint8 [rows, N]."""
    rows, width = words.shape
    unsigned = np.ascontiguousarray(words).view(np.uint32)
    codes = np.empty((rows, width, 8), np.uint8)
    for i, column in enumerate(ORDER):
        codes[:, :, column] = (unsigned >> np.uint32(4 * i)) & np.uint32(15)
    return codes.reshape(rows, width * 8)


MAX_GROUP = 1 << 24  # far above any layer's width
PARTS = ("qweight", "qzeros", "scales")
_TYPES = {"version": TEXT, "format": TEXT}
VERSIONS = ("gemm", "gemv")


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Raise ``FormatError`` for a config that is not supported."""

    check_types(config, _TYPES, path)
    bits, group = config.get("bits"), config.get("group_size")
    if type(bits) is not int or bits != 4:
        raise refusal(path, "bits", f"{shown(bits)} bits: AWQ checkpoints of 4 bits are read")
    if type(group) is not int or not (group == -1 or 0 < group <= MAX_GROUP):
        raise refusal(
            path, "group_size", f"{shown(group)} is not a valid group size", "a positive number, or -1 for whole rows"
        )
    if _version(config) not in VERSIONS:
        raise refusal(path, "version", f"{_version(config)!r} is not read", f"{' and '.join(VERSIONS)} are")


def _version(config: Mapping[str, Any]) -> str:
    named = (config[key] for key in ("version", "format") if config.get(key) is not None)
    return str(next(named, "gemm")).lower()


def read_layer(module: Module, config: Mapping[str, Any], path: Path) -> IntegerGrid:
    """Read a layer as an integer grid.

    Raises:
        FormatError: a part is missing, or shapes disagree.
    """
    return (_gemm if _version(config) == "gemm" else _gemv)(module, int(config["group_size"]))


def _groups(module: Module, width: int, size: int) -> NDArray[np.int32]:
    size = size if size > 0 else width
    if not width or width % size:
        raise module.error("qweight", f"groups of {size} do not divide its {width} columns")
    return np.arange(width, dtype=np.int32) // np.int32(size)


def _gemm(module: Module, group_size: int) -> IntegerGrid:
    qweight = module.plane("qweight", ("I32",))
    width, n_words = qweight.shape
    groups = _groups(module, width, group_size)
    n_groups = int(groups[-1]) + 1
    qzeros = module.sized("qzeros", ("I32",), (n_groups, n_words), "qweight")
    scales = module.sized("scales", FLOAT_DTYPES, (n_groups, n_words * 8), "qweight")

    def codes(a: int, b: int) -> NDArray[np.uint8]:
        return _columns(qweight.columns(a // 8, -(-b // 8)))[a % 8 :][: b - a]

    def zeros(a: int, b: int) -> NDArray[np.int16]:
        return _columns(qzeros.columns(a // 8, -(-b // 8)))[a % 8 :][: b - a].astype(np.int16)

    def read_scales(a: int, b: int) -> NDArray[np.float32]:
        return float_rows(scales.columns(a, b), scales.stored.dtype)

    shape, half = (n_words * 8, width), scales.stored.dtype == "F16"
    name = f"{module.name}.weight"
    return IntegerGrid(name, qweight.where, shape, 4, groups, n_groups, codes, zeros, read_scales, half)


def _columns(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Unpack transposed columns of words, int32 [words, K], to columns of codes, uint8 [8 * words, K]."""
    n_words, rows = words.shape
    unsigned = words.view(np.uint32)
    codes = np.empty((n_words, 8, rows), np.uint8)
    for i, column in enumerate(ORDER):
        codes[:, column] = (unsigned >> np.uint32(4 * i)) & np.uint32(15)
    return codes.reshape(n_words * 8, rows)


def _gemv(module: Module, group_size: int) -> IntegerGrid:
    qweight = module.plane("qweight", ("I32",))
    n_out, n_words = qweight.shape
    width = n_words * 8
    groups = _groups(module, width, group_size)
    n_groups = int(groups[-1]) + 1
    # Padded to what the kernel of that group size reads at once (calculate_zeros_width, utils/packing_utils.py).
    multiple = {64: 2, 32: 4}.get(group_size, 1)
    zero_words = math.ceil(math.ceil(n_groups / 8) / multiple) * multiple
    qzeros = module.sized("qzeros", ("I32",), (n_out, zero_words), "qweight")
    scales = module.sized("scales", FLOAT_DTYPES, (n_out, zero_words * 8), "qweight")

    def codes(a: int, b: int) -> NDArray[np.uint8]:
        return unpack_bits(qweight.rows(a, b).view(np.uint8), 4, width)

    def zeros(a: int, b: int) -> NDArray[np.int16]:
        return unpack_bits(qzeros.rows(a, b).view(np.uint8), 4, n_groups).astype(np.int16)

    def read_scales(a: int, b: int) -> NDArray[np.float32]:
        return float_rows(scales.rows(a, b)[:, :n_groups], scales.stored.dtype)

    shape, half = (n_out, width), scales.stored.dtype == "F16"
    name = f"{module.name}.weight"
    return IntegerGrid(name, qweight.where, shape, 4, groups, n_groups, codes, zeros, read_scales, half)
