"""gpt-oss' MXFP4 experts (``X_blocks`` and ``X_scales``) as GGML's MXFP4: exact, only nibbles are reordered."""

from __future__ import annotations

from ...ir import Bytes, Role, Tensor
from ..packed_tensors import BLOCK, MXFP4, TransposedTensor, transposed
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
