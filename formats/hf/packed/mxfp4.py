"""MXFP4 experts as GGML's MXFP4: exact, only nibbles are reordered.

gpt-oss has them as ``X_blocks`` and ``X_scales``; DeepSeek V4 in bytes of two under a weight's name, beside its scales.
"""

from __future__ import annotations

import numpy as np

from ...ir import Bytes, Role, Tensor
from ..tables.packed_tensors import BLOCK, MXFP4, TransposedTensor, transposed
from .ggml_blocks import mxfp4_to_ggml
from .stored import Module


def read_layer(module: Module) -> TransposedTensor:
    """Read experts under the module's own name, [experts, in, out] as unpacked checkpoints hold them.

    The architecture's rule transposes them to [experts, out, in], which stays in MXFP4: no weight is decoded.

    Args:
        module: with ``blocks`` uint8 [experts, out, in / 32, 16] and ``scales`` uint8 [experts, out, in / 32].

    Raises:
        FormatError: a part is missing, or shapes disagree.
    """
    blocks = module.matrix("blocks", ("U8",))
    shape = blocks.stored.shape
    if len(shape) < 3 or shape[-1] != BLOCK // 2:
        raise module.error("blocks", f"its shape is {list(shape)}, not [..., rows, groups, {BLOCK // 2}]")
    scales = module.sized("scales", ("U8",), shape[:-1], "blocks")
    groups = shape[-2]

    def read(a: int, b: int) -> Bytes:
        nibbles = blocks.rows(a * groups, b * groups).reshape(b - a, groups, BLOCK // 2)
        return mxfp4_to_ggml(nibbles, scales.rows(a, b))

    return transposed(Tensor(module.name, Role.OTHER, None, (*shape[:-2], groups * BLOCK), MXFP4, read, blocks.where))


def read_pairs(module: Module, scale: str, packed: str = "weight") -> Tensor:
    """Read an expert's matrix of two weights in a byte.

    Args:
        module: with bytes [out, in / 2], and exponents F8_E8M0 [out, in / 32].
        scale: the name of the part with the exponents.
        packed: the name of the part with the bytes.

    Raises:
        FormatError: a part is missing, or shapes disagree.
    """
    weight = module.matrix(packed, ("I8", "U8"))
    shape = weight.stored.shape
    if len(shape) != 2 or shape[1] % (BLOCK // 2):
        raise module.error(packed, f"its shape is {list(shape)}, not [rows, groups of {BLOCK // 2}]")
    groups = shape[1] * 2 // BLOCK
    exponents = module.sized(scale, ("F8_E8M0", "U8"), (shape[0], groups), packed)

    def read(a: int, b: int) -> Bytes:
        nibbles = weight.rows(a, b).view(np.uint8).reshape(b - a, groups, BLOCK // 2)
        return mxfp4_to_ggml(nibbles, exponents.rows(a, b))

    return Tensor(f"{module.name}.weight", Role.OTHER, None, (shape[0], shape[1] * 2), MXFP4, read, weight.where)
