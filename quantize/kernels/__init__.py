"""The kernels: encode and decode of every GGML type. Importing this package does not import numba."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module

from ...formats.errors import QuantmillError
from ...formats.qtypes import QType
from . import images
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
    "Q8_0": "legacy",
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
    """The kernel of a type; on first use loads its image, or imports numba and the type's module.

    Raises:
        QuantmillError: a type without a kernel (the integers, F64, Q8_1, Q8_K).
    """
    module = _MODULES.get(qtype.name)
    if module is None:
        raise QuantmillError(f"type {qtype} has no kernel", hint=f"types with one: {', '.join(_MODULES)}")
    return _kernel(qtype.name)


@cache
def _kernel(name: str) -> Kernel:
    place = f"{__name__}.{_MODULES[name]}"
    if _MODULES[name] != "floats" and place not in sys.modules:
        kernel = images.load(name, lambda blocks, out: _compiled(name).decode_rows(blocks, out))
        if kernel is not None:
            return kernel
    return _compiled(name)


def _compiled(name: str) -> Kernel:
    kernel: Kernel = import_module(f".{_MODULES[name]}", __name__).KERNELS[name]
    return kernel


def keep(qtypes: Iterable[QType]) -> None:
    """Let later runs start quickly: to be called when kernels of these types have encoded something."""
    for qtype in qtypes:
        images.save(kernel_for(qtype))
