"""HQQ: codes in groups along the rows or across them, with zeros that are fractions.

A layer's tensors say all of it: ``W_q`` holds the groups' matrix, [groups, size] by rows or [size, groups] across them,
its rows cut into as many parts as a word holds codes, the first part in the highest bits. A weight is (code - zero) *
scale, rounded after each step to the dtype that the layer computes in. Source: ``BitPack`` and ``Quantizer.dequantize``
of hqq 0.2.8 (core/bitpack.py, core/quantize.py), ``encode_safetensor_type`` of core/utils.py.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...floats import from_f32, to_f32
from ...ir import Bytes, Role, Tensor
from ...json_types import OBJECT, shown
from ...qtypes import BY_NAME, QType
from .described import Config, check_types
from .stored import FLOAT_DTYPES, Matrix, Module, float_rows

_NEEDED = ("W_q", "scale", "zero", "shape", "packing", "axis", "compute_dtype")
_FLAGS = ("quant_scale", "quant_zero", "view_as_float")
PARTS = (
    *_NEEDED, *_FLAGS, "nbits", "group_size", "unpack_view_dtype", "offload_meta", "encoded_state_dict",
    "stores_quant_config", "channel_wise", "optimize", "round_zero",
)  # fmt: skip
# Bits of a code, and codes in a word, by the name of the packing.
PACKINGS = {"8bit_u8": (8, 1), "4bit_u8": (4, 2), "3bit_32": (3, 10), "2bit_u8": (2, 4), "1bit_u8": (1, 8)}
_DTYPES = {"torch.float16": "F16", "torch.bfloat16": "BF16", "torch.float32": "F32"}
_MAX_TEXT = 64  # bytes of a name, which has a dozen
REASON = "zeros that are fractions"


def check_config(config: Config, path: Path) -> None:
    """Raise ``FormatError`` for a config that is not one. What a layer is, its own tensors say."""
    check_types(config, {"quant_config": OBJECT}, path)


def read_layer(module: Module, config: Config, path: Path) -> tuple[Tensor, str]:
    """Read a layer, decoded as its rows are read.

    Raises:
        FormatError: a part is missing, shapes disagree, or scales and zeros are quantized themselves.
    """
    for flag in _FLAGS:
        if module.has(flag) and module.matrix(flag, ("U8",)).all().any():
            raise module.error(flag, "is set: such layers are not read", "convert the original checkpoint")
    packing, dtype = _text(module, "packing", PACKINGS), _DTYPES[_text(module, "compute_dtype", _DTYPES)]
    bits, n_codes = PACKINGS[packing]
    codes = module.plane("W_q", ("I32",) if packing == "3bit_32" else ("U8",))
    shape = _shape(module)
    words, size = codes.shape
    rows, rest = divmod(prod(shape), size) if size else (0, 1)
    if rest or not rows or -(-rows // n_codes) != words:
        problem = f"{list(codes.stored.shape)} words of {n_codes} codes do not hold {list(shape)} weights"
        raise module.error("W_q", problem)
    axis = int(module.sized("axis", ("I32", "I64"), (), "HQQ").all().reshape(-1)[0])
    if axis not in (0, 1):
        raise module.error("axis", f"is {axis}, not 0 or 1")
    around = (rows, 1) if axis == 1 else (1, size)
    scales, zeros = (_floats(module, part, dtype, around) for part in ("scale", "zero"))
    qtype, width = BY_NAME[dtype], shape[1]

    def read(a: int, b: int) -> Bytes:
        first, last = a * width, b * width
        r, end = first // size, -(-last // size)
        own = slice(r, end) if axis == 1 else slice(None)
        values = _rounded(_unpacked(codes, bits, n_codes, r, end) - zeros[own], qtype)
        values = _rounded(values * scales[own], qtype).reshape(-1)[first - r * size :][: last - first]
        return from_f32(np.ascontiguousarray(values.reshape(b - a, width)), qtype)

    name = f"{module.name}.weight"
    return Tensor(name, Role.OTHER, None, shape, qtype, read, codes.where), REASON


def _unpacked(codes: Matrix, bits: int, n_codes: int, a: int, b: int) -> NDArray[np.float32]:
    """Rows a to b of the groups' matrix: float32 [b-a, size]."""
    step = codes.shape[0]
    out = [np.empty((0, codes.shape[1]), np.int32)]
    for part in range(n_codes):
        low, high = max(a, part * step), min(b, (part + 1) * step)
        if low < high:
            words = codes.rows(low - part * step, high - part * step)
            out.append(words >> (bits * (n_codes - 1 - part)) & ((1 << bits) - 1))
    return np.concatenate(out).astype(np.float32)


def _rounded(values: NDArray[np.float32], qtype: QType) -> NDArray[np.float32]:
    return to_f32(from_f32(values, qtype), qtype)


def _floats(module: Module, part: str, dtype: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    stored = module.sized(part, FLOAT_DTYPES, shape, "W_q")
    if stored.stored.dtype != dtype:
        raise module.error(part, f"its dtype is {stored.stored.dtype}, the layer computes in {dtype}")
    values = float_rows(stored.all(), dtype).reshape(shape)
    if not np.isfinite(values).all():
        bad = int(np.argmin(np.isfinite(values.reshape(-1))))
        raise FormatError(f"that of group {bad} is not finite", where=stored.where, hint="the checkpoint is damaged")
    return values


def _shape(module: Module) -> tuple[int, int]:
    stored = module.sized("shape", ("I64", "I32"), (2,), "HQQ")
    n_out, width = (int(n) for n in stored.all().reshape(-1))
    if min(n_out, width) < 1:
        raise module.error("shape", f"{[n_out, width]} is not that of a matrix")
    return n_out, width


def _text(module: Module, part: str, known: dict[str, object] | dict[str, tuple[int, int]] | dict[str, str]) -> str:
    """A name that is stored as its characters."""
    stored = module.matrix(part, ("U8",))
    raw = stored.all().tobytes() if stored.stored.nbytes <= _MAX_TEXT else b""
    name = raw.decode("ascii", "replace")
    if name not in known:
        raise module.error(part, f"{shown(name)} is none of {', '.join(known)}")
    return name
