"""Tensors made of packed parts, and what the rules' ops need of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...floats import from_f32, to_f32
from ...ir import Bytes, Tensor
from ...qtypes import F32
from ..ops import Moving, On, Op, Stack, Tensors, Unstack
from .blocks import as_float


@dataclass(frozen=True)
class Unpacked(Tensor):
    """A tensor that a checkpoint holds packed.

    Args:
        stands_for: the float type the unpacked checkpoint would have: ``F16``, ``BF16`` or ``F32``.
    """

    stands_for: str = "F16"


def prepared(op: Op, tensors: Tensors) -> Tensors:
    """The tensors as the op can take them: floats where it works on single weights or makes one tensor of unlike ones.

    Ops that move rows take blocks as they are.
    """
    if _moves_rows(op) and len({tensor.qtype for tensor in tensors}) == 1:
        return tensors
    if not any(isinstance(tensor, Unpacked) for tensor in tensors):
        return tensors
    return tuple(_as_f32(as_float(tensor)) for tensor in tensors)


def _moves_rows(op: Op) -> bool:
    return _moves_rows(op.op) if isinstance(op, On) else isinstance(op, (Moving, Stack, Unstack))


def _as_f32(tensor: Tensor) -> Tensor:
    if tensor.qtype is F32:
        return tensor

    def read(a: int, b: int) -> Bytes:
        return from_f32(to_f32(tensor.rows(a, b), tensor.qtype), F32)

    return replace(tensor, qtype=F32, read=read)
