"""FP8 weights of ComfyUI: codes with one factor for each tensor, or without, decoded as their rows are read.

Sources: ``scale_weight`` beside a tensor ``scaled_fp8`` (comfy/ops.py until 2025), ``comfy_quant`` with
``weight_scale`` (comfy/quant_ops.py), both of github.com/comfyanonymous/ComfyUI.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import FormatError
from ..hf.files.safetensors import StoredTensor
from ..hf.packed.fp8 import table
from ..ir import Bytes, Role, Tensor
from ..json_text import ROOM, parse_json
from ..qtypes import F32

MARKS = ("scaled_fp8",)  # a tensor without values, which says that factors are there
FACTORS = ("scale_weight", "weight_scale")
INPUT_FACTORS = ("scale_input", "input_scale")  # of activations, which no GGUF file has
FORMAT = "comfy_quant"
_MOST_BYTES = 4096  # of a tensor's description: one JSON object of a few keys


def is_beside(name: str) -> bool:
    """Whether a tensor only describes another one: a factor, a mark, a format.

    Example:
        >>> from quantmill.formats.diffusion.scaled import is_beside
        >>> is_beside("blocks.0.ffn.0.scale_weight"), is_beside("blocks.0.ffn.0.weight")
        (True, False)
    """
    return name.rpartition(".")[2] in (*MARKS, *FACTORS, *INPUT_FACTORS, FORMAT)


def decoded(stored: StoredTensor, beside: Mapping[str, StoredTensor]) -> Tensor:
    """A tensor of codes as F32, times its factor where it has one.

    Args:
        stored: of F8_E4M3 or F8_E5M2.
        beside: the file's tensors that describe others, by their names.

    Raises:
        FormatError: a factor is not one finite number, or the format is another than FP8; when rows are read: a weight
            is NaN.
    """
    stem = stored.name.removesuffix(".weight")
    _check_format(stem, beside)
    factor = next((_factor(beside[f"{stem}.{name}"]) for name in FACTORS if f"{stem}.{name}" in beside), None)
    where = f"{stored.path}: {stored.name}"
    values = table(stored.dtype) if factor is None else table(stored.dtype) * factor

    def read(a: int, b: int) -> Bytes:
        rows = values[stored.rows(a, b)]
        bad = np.isnan(rows)
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            raise FormatError(f"weight [{a + row}, {column}] is NaN", where=where, hint="get the file again")
        found: Bytes = np.ascontiguousarray(rows).view(np.uint8)
        return found

    return Tensor(stored.name, Role.OTHER, None, stored.shape, F32, read, where)


def _factor(stored: StoredTensor) -> np.float32:
    values = np.zeros(0, np.float32)
    if stored.dtype == "F32" and stored.nbytes == 4:
        values = stored.piece(0, 4).view("<f4")
    if values.size != 1 or not np.isfinite(values).all():
        problem = f"{stored.dtype} {list(stored.shape)} is not one finite F32 factor for the whole tensor"
        hint = "other scaled checkpoints are not read: give the one in 16 bits"
        raise FormatError(problem, path=stored.path, where=stored.name, hint=hint)
    return np.float32(values[0])


def _check_format(stem: str, beside: Mapping[str, StoredTensor]) -> None:
    stored = beside.get(f"{stem}.{FORMAT}")
    if stored is None:
        return
    if stored.dtype != "U8" or stored.nbytes > _MOST_BYTES:
        problem = f"{stored.dtype} of {stored.nbytes} bytes is no description"
        raise FormatError(problem, path=stored.path, where=stored.name)
    raw = stored.piece(0, stored.nbytes).tobytes()
    said = parse_json(raw, stored.path, room=ROOM, where=stored.name)
    name = said.get("format") if isinstance(said, dict) else None
    if name not in ("float8_e4m3fn", "float8_e5m2"):
        hint = "FP8 with one factor a tensor is read; give the checkpoint in 16 bits"
        raise FormatError(f"the format {name!r} is not read", path=stored.path, where=stored.name, hint=hint)
