"""quantmill: Hugging Face checkpoints into the quantized files people run.

The public face. Heavy names are handed out lazily (PEP 562), since this module is imported first by everything.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "FormatError": "formats.errors",
    "Model": "formats.ir",
    "QuantmillError": "formats.errors",
    "Role": "formats.ir",
    "Tensor": "formats.ir",
    "as_float": "quantize.decode",
    "compare": "quantize.compare",
    "execute": "quantize.execute",
    "make_plan": "quantize.plan",
    "read_ggml": "formats.ggml.reader",
    "read_gguf": "formats.gguf.reader",
    "read_hf": "formats.hf.load",
    "write_ggml": "formats.ggml.writer",
    "write_gguf": "formats.gguf.writer",
    "write_hf": "formats.hf.save",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
