"""quantmill: Hugging Face checkpoints into the quantized files people run.

The public face. Heavy names are handed out lazily (PEP 562), since this module is imported first by everything.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "Model": "formats.ir",
    "Tensor": "formats.ir",
    "Role": "formats.ir",
    "QuantmillError": "formats.errors",
    "FormatError": "formats.errors",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
