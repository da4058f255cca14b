"""NVFP4: E2M1 codes, two in a byte, an E4M3 scale for each 16, and a factor for the matrix.

GGML's NVFP4 holds the same codes and scales, and GGUF the factor in a tensor of its own beside them, which llama.cpp
multiplies the layer's output with. Sources: compressors/nvfp4 of compressed-tensors 0.20.1, which divides the scales by
its ``weight_global_scale``; ``_nvfp4_pack`` of llama.cpp's conversion/base.py, and ``dequantize_row_nvfp4``.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...ir import Bytes, Role
from ...qtypes import F32
from ..tables.packed_tensors import NVFP4, ScaledTensor
from .fp8 import table
from .ggml_blocks import nvfp4_to_ggml
from .stored import FLOAT_DTYPES, Matrix, Module, float_rows

GROUP = 16  # weights that share a scale
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def read_nvfp4(
    module: Module, packed: str, scale: str, factor: str, *, divides: bool, input_factor: str = ""
) -> tuple[ScaledTensor, str]:
    """Read a layer as a tensor in GGML's blocks with its factor, or in F32 where a row has no whole number of blocks.

    Args:
        module: the layer's stored parts.
        packed: the part with the codes: bytes [..., out, in / 2], the earlier of two weights in the low nibble.
        scale: the part with the scales: E4M3 [..., out, in / 16].
        factor: the part with the factors: one float, or one for each matrix of a stack.
        divides: whether scales are divided by the factor rather than multiplied.
        input_factor: the part with the factors of the inputs, alike. A checkpoint may lack it.

    Returns:
        the tensor, and the reason if it is decoded.

    Raises:
        FormatError: a part is missing, shapes disagree, or a factor is not a positive number; when rows are read: a
            scale is NaN.
    """
    codes = module.matrix(packed, ("U8", "I8"))
    shape = codes.stored.shape
    if len(shape) < 2 or shape[-1] % (GROUP // 2) or 0 in shape:
        raise module.error(packed, f"its shape is {list(shape)}, not [rows, bytes of two weights, 8 to a group]")
    width = shape[-1] * 2
    scales = module.sized(scale, ("F8_E4M3",), (*shape[:-1], width // GROUP), packed)
    matrices = prod(shape[:-2])
    factors = _factors(module, factor, matrices)
    inputs = _factors(module, input_factor, matrices) if input_factor and module.has(input_factor) else ()
    if divides:
        inputs = tuple(float(np.float32(1) / np.float32(one)) for one in inputs)
    whole = width % NVFP4.block_size == 0

    def blocks(a: int, b: int) -> Bytes:
        return nvfp4_to_ggml(_grouped(codes, a, b), _checked(scales, a, b))

    name = f"{module.name}.weight"
    floats = ScaledTensor(
        name, Role.OTHER, None, (*shape[:-1], width), F32, blocks, codes.where, factors=factors, divides=divides
    )
    if whole:
        return ScaledTensor(**{**vars(floats), "qtype": NVFP4, "inputs": inputs}), ""

    def decoded(a: int, b: int) -> Bytes:
        each = floats.with_scales(table("F8_E4M3")[_checked(scales, a, b)], a)
        pairs = _grouped(codes, a, b)
        values = _E2M1[np.stack([pairs & np.uint8(15), pairs >> np.uint8(4)], axis=-1)].reshape(*each.shape, GROUP)
        return np.ascontiguousarray(values * each[..., None]).reshape(b - a, -1).view(np.uint8)

    reason = f"rows of {width} are not whole blocks of {NVFP4.block_size}"
    return ScaledTensor(**{**vars(floats), "factors": (), "read": decoded}), reason


def _grouped(codes: Matrix, a: int, b: int) -> NDArray[np.uint8]:
    return codes.rows(a, b).view(np.uint8).reshape(b - a, -1, GROUP // 2)


def _checked(scales: Matrix, a: int, b: int) -> NDArray[np.uint8]:
    """The scales' codes of rows a to b: uint8 [b-a, groups]."""
    found: NDArray[np.uint8] = scales.rows(a, b)
    if (bad := found & np.uint8(127) == 127).any():
        row, group = (int(i) for i in np.argwhere(bad)[0])
        problem = f"the scale of row {a + row}, group {group} is NaN"
        raise FormatError(problem, where=scales.where, hint="the checkpoint is damaged: get it again")
    return found


def _factors(module: Module, part: str, matrices: int) -> tuple[float, ...]:
    stored = module.matrix(part, FLOAT_DTYPES)
    shape = stored.stored.shape
    if prod(shape) not in (1, matrices):
        raise module.error(part, f"its shape is {list(shape)}, not that of one number for a matrix")
    values = float_rows(stored.all(), stored.stored.dtype).reshape(-1)
    with np.errstate(divide="ignore", over="ignore"):
        bad = ~(np.isfinite(values) & (values > 0) & np.isfinite(np.float32(1) / values))
    if bad.any():
        raise module.error(part, f"a factor is {values[bad][0]}, not a positive number", "the checkpoint is damaged")
    return tuple(float(value) for value in values)
