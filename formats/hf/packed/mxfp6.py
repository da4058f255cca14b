"""MXFP6: E2M3 codes, four in three bytes, and an exponent for each 32. GGML has no such type: it is decoded.

Source: compressors/mxfp6 and compressors/mx_utils.py of compressed-tensors 0.20.1.
"""

from __future__ import annotations

import numpy as np

from ...ir import Bytes, Role, Tensor
from ...qtypes import F32
from .bits import unpack_bits
from .stored import Module, float_rows

GROUP = 32  # weights that share an exponent
_MAGNITUDES = [m / 8 for m in range(8)] + [(1 + m / 8) * 2**e for e in range(3) for m in range(8)]
_E2M3 = np.array(_MAGNITUDES + [-m for m in _MAGNITUDES], np.float32)


def read_mxfp6(module: Module, packed: str, scale: str) -> Tensor:
    """Read a layer, decoded to F32 as its rows are read.

    Args:
        module: the layer's stored parts.
        packed: the part with the codes: bytes [out, in * 3 / 4], a little-endian stream of 6 bits each.
        scale: the part with the exponents, of bias 127: bytes [out, in / 32].

    Raises:
        FormatError: a part is missing, shapes disagree, or an exponent is none.
    """
    codes = module.matrix(packed, ("U8",))
    shape = codes.stored.shape
    if len(shape) != 2 or shape[1] % (GROUP * 6 // 8):
        raise module.error(packed, f"its shape is {list(shape)}, not [rows, groups of {GROUP * 6 // 8}]")
    rows, groups = shape[0], shape[1] // (GROUP * 6 // 8)
    exponents = module.sized(scale, ("U8", "F8_E8M0"), (rows, groups), packed)
    if (exponents.all() == 255).any():
        raise module.error(scale, "an exponent is 255, which is no number", "the checkpoint is damaged")

    def read(a: int, b: int) -> Bytes:
        values = _E2M3[unpack_bits(codes.rows(a, b), 6, groups * GROUP)].reshape(b - a, groups, GROUP)
        scaled = values * float_rows(exponents.rows(a, b), "F8_E8M0")[..., None]
        return np.ascontiguousarray(scaled.reshape(b - a, -1)).view(np.uint8)

    return Tensor(f"{module.name}.weight", Role.OTHER, None, (rows, groups * GROUP), F32, read, codes.where)
