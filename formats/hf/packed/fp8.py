"""FP8 checkpoints: e4m3 or e5m2 codes and scales for the tensor, its rows, or blocks of rows and columns.

Sources: transformers' ``finegrained_fp8`` (DeepSeek's 128 x 128 blocks), ``fbgemm_fp8`` (a scale a row), and
compressed-tensors' ``float-quantized``; DeepSeek V4's own names, with ``scale``; Mistral's, with ``qscale_weight``.
``weight_scale_inv``, despite its name, is multiplied as ``weight_scale`` is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...ir import Bytes, Role, Tensor
from ...json_types import JsonType
from ...qtypes import F32
from ..files.safetensors import StoredTensor
from .stored import FLOAT_DTYPES, Module, float_rows

DTYPES = ("F8_E4M3", "F8_E5M2")
SCALES = ("weight_scale_inv", "weight_scale", "scale", "qscale_weight")


@cache
def table(dtype: str) -> NDArray[np.float32]:
    """The value of each of the 256 codes: float32 [256]. e4m3 is the "fn" kind: no infinities, NaN at 0x7F and 0xFF."""
    codes = np.arange(256, dtype=np.uint8)
    if dtype == "F8_E5M2":
        return (codes.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    exponent, mantissa = (codes >> 3 & 15).astype(np.int32), (codes & 7).astype(np.float32)
    values = np.where(exponent > 0, np.ldexp(1 + mantissa / 8, exponent - 7), np.ldexp(mantissa / 8, -6))
    values = np.where(codes & 127 == 127, np.nan, values)
    return np.where(codes & 128, -values, values).astype(np.float32)


def block_size(value: Any) -> tuple[int, int] | None:
    """Rows and columns of a block from a config's value, ``[128, 128]`` or ``"128x128"``; None if it is not valid."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,9})x(\d{1,9})", value, re.ASCII)):
        value = [int(match[1]), int(match[2])]
    if isinstance(value, list) and len(value) == 2 and all(type(n) is int and 0 < n < 1 << 31 for n in value):
        return value[0], value[1]
    return None


BLOCK = JsonType("a valid block size, such as [128, 128]", lambda value: block_size(value) is not None)


def scale_of(module: Module) -> str:
    """The name of the part with the scales; ``weight_scale`` where there is none."""
    return next((name for name in SCALES if module.has(name)), "weight_scale")


def read_layer(module: Module, block: tuple[int, int] | None, *, exponents: bool = False) -> Tensor:
    """Read a layer's weight, decoded to F32 as its rows are read: code times scale, rounded once.

    Args:
        module: with ``weight`` and one of ``SCALES``.
        block: rows and columns of a block, if the config gives them.
        exponents: whether bytes that are no floats are exponents with bias 127, as MXFP8 has them.

    Raises:
        FormatError: a part is missing, a scale is not finite, or the scales' shape fits no scheme; when rows are read:
            a weight is NaN.
    """
    weight = module.matrix("weight", DTYPES)
    name = scale_of(module)
    stored = module.matrix(name, (*FLOAT_DTYPES, "F8_E8M0", *(("U8",) if exponents else ())))
    shape = weight.stored.shape
    if len(shape) < 2:
        raise module.error("weight", f"its shape {list(shape)} is not that of a matrix")
    values = float_rows(stored.all(), "F8_E8M0" if exponents else stored.stored.dtype)
    if not np.isfinite(values).all():
        raise module.error(name, f"a scale is {values[~np.isfinite(values)][0]}", "the checkpoint is damaged")
    scales = _scale_rows(module, name, values, shape, stored.stored.shape, block)

    def read(a: int, b: int) -> Bytes:
        decoded = _decoded(weight.stored.dtype, weight.rows(a, b), a, weight.where)
        decoded *= scales(a, b)
        rows: Bytes = decoded.view(np.uint8)
        return rows

    return Tensor(f"{module.name}.weight", Role.OTHER, None, shape, F32, read, weight.where)


def read_plain(stored: StoredTensor) -> Tensor:
    """Read a tensor of codes without scales, decoded to F32 as its rows are read.

    Raises:
        FormatError: when rows are read: a weight is NaN.
    """
    where = f"{stored.path}: {stored.name}"

    def read(a: int, b: int) -> Bytes:
        rows: Bytes = _decoded(stored.dtype, stored.rows(a, b), a, where).view(np.uint8)
        return rows

    return Tensor(stored.name, Role.OTHER, None, stored.shape, F32, read, where)


def _decoded(dtype: str, codes: Bytes, first: int, where: str) -> NDArray[np.float32]:
    """The values of rows of codes, the first of which has the number ``first`` in messages."""
    decoded: NDArray[np.float32] = table(dtype)[codes]
    bad = np.isnan(decoded)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise FormatError(f"weight [{first + row}, {column}] is NaN", where=where, hint="get the file again")
    return decoded


def _scale_rows(
    module: Module,
    name: str,
    values: NDArray[np.float32],
    shape: tuple[int, ...],
    stored: tuple[int, ...],
    block: tuple[int, int] | None,
) -> Callable[[int, int], NDArray[np.float32]]:
    """Return ``scales(a, b)``, the factors of rows a to b: float32 [b-a, 1 or width]."""
    n_out, width = prod(shape[:-1]), shape[-1]
    if values.size == 1:
        return lambda a, b: values.reshape(1, 1)
    if stored in (shape[:-1], (*shape[:-1], 1)):
        column = values.reshape(n_out, 1)
        return lambda a, b: column[a:b]
    high, wide = block or (128, 128)
    rows_each, blocks = shape[-2], (-(-shape[-2] // high), -(-width // wide))
    if stored != (*shape[:-2], *blocks):
        problem = (
            f"{list(stored)} scales fit neither the tensor, its rows nor blocks of {high} x {wide} of {list(shape)}"
        )
        raise module.error(name, problem)
    by_block = values.reshape(-1, blocks[1])

    def scales(a: int, b: int) -> NDArray[np.float32]:
        matrix, row = np.divmod(np.arange(a, b), rows_each)
        return np.repeat(by_block[matrix * blocks[0] + row // high], wide, axis=1)[:, :width]

    return scales
