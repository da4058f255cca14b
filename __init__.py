"""quantmill: Hugging Face checkpoints into the quantized files people run.

The public face. Heavy names are handed out lazily (PEP 562), since this module is imported first by everything.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "AWQSettings": "quantize.awq.settings",
    "BaseComparison": "imatrix.evaluate",
    "CheckpointOptions": "tools.library.blockwise",
    "ClusterOptions": "tools.library.ray_pool",
    "CollectedImatrix": "tools.library.importance",
    "Evaluation": "imatrix.evaluate",
    "FormatError": "formats.errors",
    "GPTQSettings": "quantize.gptq.settings",
    "Model": "formats.ir",
    "QuantizedCheckpoint": "tools.library.blockwise",
    "QuantmillError": "formats.errors",
    "Role": "formats.ir",
    "RunOptions": "tools.library.running",
    "Tensor": "formats.ir",
    "as_float": "quantize.decode",
    "awq": "tools.library.awq",
    "collect_imatrix": "tools.library.importance",
    "compare": "quantize.compare",
    "evaluate": "tools.library.evaluation",
    "execute": "quantize.execute",
    "gptq": "tools.library.gptq",
    "imatrix_statistics": "tools.library.importance",
    "make_plan": "quantize.plan",
    "merge_imatrices": "tools.library.importance",
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
