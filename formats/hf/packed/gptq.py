"""GPTQ: its bit layout, and its layers as integer grids.

Codes are one contiguous little-endian bit stream over int32 words, down K (``qweight``) or along N (``qzeros``);
3-bit codes straddle words. Source: ``pack`` of AutoGPTQ's and GPTQModel's ``QuantLinear`` (nn_modules/qlinear).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import QuantmillError
from ...json_types import FLAG, OBJECT, TEXT, shown
from .bits import unpack_bits
from .described import check_types, refusal
from .integer_grid import IntegerGrid
from .stored import FLOAT_DTYPES, Matrix, Module, float_rows

BITS = (2, 3, 4, 8)


def per_unit(bits: int) -> int:
    """The number of codes in the shortest run that fills whole words: 16, 32, 8, 4 for 2, 3, 4, 8 bits."""
    return 32 // gcd(32, bits)


def pack_rows(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Pack codes along the first axis, as in ``qweight``.

    Args:
        codes: uint8 [K, N], each below 2**bits; K a multiple of ``per_unit(bits)``.
        bits: 2, 3, 4 or 8.

    Returns:
        int32 [K * bits / 32, N].

    Raises:
        QuantmillError: other bits, a K that does not fill words, a code too large.
    """
    n_codes, width = codes.shape
    unit = _unit(bits, n_codes)
    if codes.size and int(codes.max()) >> bits:
        raise QuantmillError(f"a code of {int(codes.max())} does not fit {bits} bits")
    runs = codes.reshape(-1, unit, width)
    words = np.zeros((len(runs), unit * bits // 32, width), np.uint32)
    for i in range(unit):
        word, shift = divmod(i * bits, 32)
        code = runs[:, i].astype(np.uint32)
        words[:, word] |= code << np.uint32(shift)
        if shift + bits > 32:
            words[:, word + 1] |= code >> np.uint32(32 - shift)
    return words.reshape(-1, width).view(np.int32)


def unpack_rows(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """Undo ``pack_rows``: int32 [K * bits / 32, N] to uint8 [K, N]."""
    n_words, width = words.shape
    unit = _unit(bits, n_words * 32 // bits)
    runs = np.ascontiguousarray(words).view(np.uint32).reshape(-1, unit * bits // 32, width)
    codes = np.empty((len(runs), unit, width), np.uint8)
    mask = np.uint32((1 << bits) - 1)
    for i in range(unit):
        word, shift = divmod(i * bits, 32)
        code = runs[:, word] >> np.uint32(shift)
        if shift + bits > 32:
            code |= runs[:, word + 1] << np.uint32(32 - shift)
        codes[:, i] = code & mask
    return codes.reshape(-1, width)


def pack_columns(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Pack codes along the last axis, as in ``qzeros``: uint8 [G, N] to int32 [G, N * bits / 32]."""
    return np.ascontiguousarray(pack_rows(codes.T, bits).T)


def unpack_columns(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """Undo ``pack_columns``: int32 [G, N * bits / 32] to uint8 [G, N]."""
    _unit(bits, words.shape[1] * 32 // bits)
    return unpack_bits(np.ascontiguousarray(words).view(np.uint8), bits, words.shape[1] * 32 // bits)


def _unit(bits: Any, n_codes: int) -> int:
    if bits not in BITS:
        raise QuantmillError(f"{bits} bits are none of {', '.join(map(str, BITS))}")
    unit = per_unit(bits)
    if n_codes % unit:
        raise QuantmillError(f"{n_codes} codes of {bits} bits do not fill words of 32 bits", hint=f"{unit} at a time")
    return unit


PARTS = ("qweight", "qzeros", "scales", "g_idx")
FORMATS = {"gptq": 1, "gptq_v2": 0}  # what is added to a stored zero: v1 stores it less one
_TYPES = {"checkpoint_format": TEXT, "format": TEXT, "is_marlin_format": FLAG, "dynamic": OBJECT, "pack_dtype": TEXT}
MAX_GROUP = 1 << 24  # far above any layer's width


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Raise ``FormatError`` for a config that is not supported: other bits, or layouts of other programs."""

    check_types(config, _TYPES, path)
    bits, group, layout = config.get("bits"), config.get("group_size"), _layout(config)
    if type(bits) is not int or bits not in BITS:
        raise refusal(path, "bits", f"{shown(bits)} bits are none of {', '.join(map(str, BITS))}")
    if type(group) is not int or not (group == -1 or 0 < group <= MAX_GROUP):
        raise refusal(
            path, "group_size", f"{shown(group)} is not a valid group size", "a positive number, or -1 for whole rows"
        )
    if layout not in FORMATS or config.get("is_marlin_format"):
        known = " and ".join(FORMATS)
        raise refusal(
            path, "checkpoint_format", f"{layout!r} is not read", f"{known} are; convert the original checkpoint"
        )
    if config.get("pack_dtype") not in (None, "int32"):
        raise refusal(path, "pack_dtype", f"{config['pack_dtype']!r} is not read, int32 is")


def _layout(config: Mapping[str, Any]) -> str:
    named = (config[key] for key in ("checkpoint_format", "format") if config.get(key) is not None)
    return next(named, "gptq")


def read_layer(module: Module, config: Mapping[str, Any], path: Path) -> IntegerGrid:
    """Read a layer as an integer grid. Its bits follow from its shapes, since GPTQModel's ``dynamic`` lets layers
    differ.

    Raises:
        FormatError: a part is missing (g_idx, too), shapes disagree, or a group index is out of range.
    """
    if not module.has("g_idx"):
        hint = "old files without it are ambiguous: ask for a newer version of the checkpoint"
        raise module.error("qweight", "no g_idx beside it", hint)
    g_idx = module.matrix("g_idx", ("I32", "I64"))
    qweight = module.plane("qweight", ("I32",))
    width, (n_words, n_out) = g_idx.shape[1], qweight.shape
    bits = _bits(module, config, n_words, width)
    size = config["group_size"] if config["group_size"] > 0 else width
    if not config.get("dynamic") and width % size:
        raise module.error("qweight", f"groups of {size} do not divide its {width} columns")
    scales = module.matrix("scales", FLOAT_DTYPES)
    n_groups = scales.shape[0] if config.get("dynamic") else width // size
    module.sized("scales", FLOAT_DTYPES, (n_groups, n_out), "the config")
    qzeros = module.sized("qzeros", ("I32",), (n_groups, n_out * bits // 32), "the config")
    if n_out % per_unit(bits):
        raise module.error("qweight", f"{n_out} rows of {bits} bits do not fill the words of qzeros")
    groups = column_groups(module, width, n_groups)

    def codes(a: int, b: int) -> NDArray[np.uint8]:
        return unpack_bits(qweight.columns(a, b).view(np.uint8), bits, width)

    def read_scales(a: int, b: int) -> NDArray[np.float32]:
        return float_rows(scales.columns(a, b), scales.stored.dtype)

    plus = FORMATS[_layout(config)]
    half = scales.stored.dtype == "F16"
    zeros = _zeros_reader(qzeros, bits, plus)
    name, source = f"{module.name}.weight", qweight.where
    return IntegerGrid(name, source, (n_out, width), bits, groups, n_groups, codes, zeros, read_scales, half)


def column_groups(module: Module, width: int, n_groups: int) -> NDArray[np.int32]:
    """The group of each column by ``g_idx``: int32 [width].

    Raises:
        FormatError: it has another shape, or names a group that there is not.
    """
    groups = module.sized("g_idx", ("I32", "I64"), (width,), "qweight").all().reshape(-1)
    if groups.min(initial=0) < 0 or groups.max(initial=0) >= n_groups:
        bad = groups[(groups < 0) | (groups >= n_groups)][0]
        raise module.error("g_idx", f"names group {bad} of {n_groups}")
    return groups.astype(np.int32)


def _bits(module: Module, config: Mapping[str, Any], n_words: int, width: int) -> int:
    wanted = int(config["bits"])
    bits = next((bits for bits in BITS if n_words * 32 == width * bits), None)
    if bits is None or (bits != wanted and not config.get("dynamic")):
        problem = f"{n_words} words a column do not hold {width} codes of {wanted} bits"
        raise module.error("qweight", problem, "is the config of the same checkpoint?")
    return bits


def _zeros_reader(qzeros: Matrix, bits: int, plus: int) -> Any:
    unit = per_unit(bits)
    mask = np.int16((1 << bits) - 1)

    def zeros(a: int, b: int) -> NDArray[np.int16]:
        first, last = a // unit * unit, -(-b // unit) * unit
        words = qzeros.columns(first * bits // 32, last * bits // 32)
        stored = unpack_rows(words, bits)[a - first : b - first].astype(np.int16)
        # A zero of 0 wraps in v1; the loaders that mask get it back so.
        return (stored + np.int16(plus)) & mask if plus else stored

    return zeros
