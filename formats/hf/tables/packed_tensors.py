"""Tensors unpacked from a quantized checkpoint, and how the rules' ops take them: as floats, or as GGML blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...floats import cast
from ...ir import Bytes, Tensor
from ...qtypes import BY_NAME, F32, QType
from .dimensions import Config
from .ops import On, Op, RowOp, Stack, Tensors, Transpose, Unstack

Q4_0, Q4_1, Q5_0, Q8_0, MXFP4 = (BY_NAME[name] for name in ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "MXFP4"))
BLOCK = 32  # weights in a block of each of these types
OFFSET = {Q4_0: 8, Q5_0: 16, Q8_0: 0}  # what is subtracted from a code


@dataclass(frozen=True)
class UnpackedTensor(Tensor):
    """A tensor that a checkpoint holds in packed parts.

    Args:
        stands_for: the float type that the checkpoint would have without quantization: ``F16``, ``BF16`` or ``F32``.
    """

    stands_for: str = "F16"


@dataclass(frozen=True)
class TransposedTensor(UnpackedTensor):
    """A matrix, or a stack of them, whose packed rows are columns in an unpacked checkpoint.

    Args:
        as_packed: the tensor as it is packed, with its last two axes swapped.
    """

    as_packed: Tensor | None = field(default=None, repr=False, compare=False)


def transposed(as_packed: Tensor) -> TransposedTensor:
    """See a packed tensor [out, in] as unpacked checkpoints hold it whose layers are [in, out].

    It decodes to F32 when its rows are read; the op ``Transpose`` gives back ``as_packed``, in its blocks.
    """
    if isinstance(as_packed, TransposedTensor):
        return as_packed
    (tensor,) = Transpose().apply((unpack_blocks(as_packed),), {})
    return TransposedTensor(**vars(tensor), as_packed=as_packed)


def apply_op(op: Op, tensors: Tensors, config: Config) -> Tensors:
    """Apply an op to tensors that may have been unpacked from parts."""
    if isinstance(op, Transpose):
        packed = [tensor.as_packed for tensor in tensors if isinstance(tensor, TransposedTensor) and tensor.as_packed]
        if len(packed) == len(tensors):
            return tuple(packed)
    return op.apply(_prepared(op, tensors), config)


def _prepared(op: Op, tensors: Tensors) -> Tensors:
    """The tensors as the op can take them: as floats if it works on single weights or joins tensors of unlike types.

    Ops that move rows take blocks as they are.
    """
    if _moves_rows(op) and len({tensor.qtype for tensor in tensors}) == 1:
        return tensors
    if not any(tensor.qtype.is_quantized or isinstance(tensor, UnpackedTensor) for tensor in tensors):
        return tensors
    return tuple(cast(unpack_blocks(tensor), F32) for tensor in tensors)


def _moves_rows(op: Op) -> bool:
    return _moves_rows(op.op) if isinstance(op, On) else isinstance(op, (RowOp, Stack, Unstack))


def unpack_blocks(tensor: Tensor) -> Tensor:
    """Decode a tensor to F32, lazily, if it is of one of the block types above; any other is returned as it is."""
    if tensor.qtype not in (*OFFSET, Q4_1, MXFP4):
        return tensor

    def read(a: int, b: int) -> Bytes:
        blocks = np.ascontiguousarray(tensor.rows(a, b)).view(tensor.qtype.block)
        return _decode(tensor.qtype, blocks).reshape(b - a, tensor.width).view(np.uint8)

    return replace(tensor, qtype=F32, read=read)


def _decode(type: QType, blocks: NDArray[Any]) -> NDArray[np.float32]:
    """Decode blocks to float32 [..., 32]."""
    if type is MXFP4:
        return _fp4(blocks["qs"]) * np.ldexp(np.float32(1), blocks["e"].astype(np.int32) - 127)[..., None]
    scales = blocks["d"].astype(np.float32)[..., None]
    if type is Q8_0:
        return blocks["qs"] * scales
    codes = np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=-1)
    if type is Q5_0:
        codes |= np.unpackbits(blocks["qh"], axis=-1, bitorder="little") << np.uint8(4)
    if type is Q4_1:
        decoded: NDArray[np.float32] = codes * scales + blocks["m"].astype(np.float32)[..., None]
        return decoded
    steps: NDArray[np.float32] = (codes.astype(np.float32) - OFFSET[type]) * scales
    return steps


def _fp4(qs: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    values = np.concatenate([values, -values])
    decoded: NDArray[np.float32] = values[np.concatenate([qs & 15, qs >> 4], axis=-1)]
    return decoded
