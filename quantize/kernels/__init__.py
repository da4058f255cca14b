"""The kernels, which encode and decode every GGML type. Importing this package does not import numba."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from ...formats.errors import QuantmillError
from ...formats.qtypes import QType
from .contract import Kernel

# Each module has KERNELS: dict[str, Kernel], by the type's name.
_MODULES = {
    "F32": "floats",
    "F16": "floats",
    "BF16": "floats",
    "Q4_0": "legacy",
    "Q4_1": "legacy",
    "Q5_0": "legacy",
    "Q5_1": "legacy",
    "Q8_0": "q8_0",
    "Q2_K": "q2_k",
    "Q3_K": "q3_k",
    "Q4_K": "q4_k",
    "Q5_K": "q5_k",
    "Q6_K": "q6_k",
    "IQ1_S": "iq1",
    "IQ1_M": "iq1",
    "IQ2_XXS": "iq2_xxs",
    "IQ2_XS": "iq2_xs",
    "IQ2_S": "iq2_xs",
    "IQ3_XXS": "iq3",
    "IQ3_S": "iq3",
    "IQ4_NL": "iq4",
    "IQ4_XS": "iq4",
    "TQ1_0": "tq",
    "TQ2_0": "tq",
    "MXFP4": "fp4",
    "NVFP4": "fp4",
    "Q1_0": "bits",
    "Q2_0": "bits",
}

ENCODABLE = frozenset(_MODULES)


def kernel_for(qtype: QType) -> Kernel:
    """Return the kernel of a type. The first use imports numba, but for the float types.

    Args:
        qtype: the type.

    Raises:
        QuantmillError: the type has no kernel (the integers, F64, Q8_1, Q8_K).

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.qtypes import BY_NAME, F32
        >>> from quantmill.quantize.kernels import kernel_for
        >>> kernel = kernel_for(BY_NAME["Q8_0"])
        >>> rows, out = np.ones((1, 32), np.float32), np.empty((1, 34), np.uint8)
        >>> kernel.encode(rows.view(np.uint8), F32, None, out)
        >>> out.view(kernel.qtype.block)["qs"][0, 0, :3]
        array([127, 127, 127], dtype=int8)
    """
    module = _MODULES.get(qtype.name)
    if module is None:
        raise QuantmillError(f"type {qtype} has no kernel", hint=f"types with one: {', '.join(_MODULES)}")
    return _kernel(qtype.name)


@cache
def _kernel(name: str) -> Kernel:
    kernel: Kernel = import_module(f".{_MODULES[name]}", __name__).KERNELS[name]
    return kernel
