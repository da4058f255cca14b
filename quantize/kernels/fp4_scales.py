"""The scales of MXFP4 and NVFP4 as tables. This module does not import numba: plans need the tables' types alone.

All are half the scale's value, for E2M1 values are kept twice as large, as whole numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

E8M0_HALVES = np.ldexp(np.float32(1), np.arange(255) - 128)  # 2**(code - 128), the first two subnormal


def _ue4m3_halves() -> NDArray[np.float32]:
    """Half the value of each UE4M3 byte, as ``ggml_ue4m3_to_fp32``: the top bit is ignored, 0 and 0x7F are zero."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, (code & 7).astype(np.float64)
    value = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(1 + mantissa / 8, exponent - 7))
    value[[0, 0x7F]] = 0
    return (value / 2).astype(np.float32)


UE4M3_HALVES = _ue4m3_halves()
