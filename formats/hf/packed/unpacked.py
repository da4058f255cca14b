"""Tensors made of packed parts, and what the rules' ops need of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...floats import from_f32, to_f32
from ...ir import Bytes, Tensor
from ...qtypes import F32
from ..ops import Moving, On, Op, Stack, Tensors, Transpose, Unstack
from ..sizes import Config
from .blocks import as_float


@dataclass(frozen=True)
class Unpacked(Tensor):
    """A tensor that a checkpoint holds packed.

    Args:
        stands_for: the float type the unpacked checkpoint would have: ``F16``, ``BF16`` or ``F32``.
    """

    stands_for: str = "F16"


@dataclass(frozen=True)
class Turned(Unpacked):
    """A matrix (or a stack of them) whose packed rows are what unpacked checkpoints hold as columns.

    Args:
        upright: the tensor as it is packed, its last two axes the other way round.
    """

    upright: Tensor | None = field(default=None, repr=False, compare=False)


def upended(upright: Tensor) -> Turned:
    """The tensor as checkpoints hold it whose layers are [in, out] unpacked: a packed one is always [out, in].

    Read so it decodes to F32; ``Transpose`` gives ``upright`` back.
    """
    if isinstance(upright, Turned):
        return upright
    (tensor,) = Transpose().apply((as_float(upright),), {})
    return Turned(**vars(tensor), upright=upright)


def applied(op: Op, tensors: Tensors, config: Config) -> Tensors:
    """``op.apply`` for tensors that may be of packed parts."""
    if isinstance(op, Transpose):
        uprights = [tensor.upright for tensor in tensors if isinstance(tensor, Turned) and tensor.upright]
        if len(uprights) == len(tensors):
            return tuple(uprights)
    return op.apply(_prepared(op, tensors), config)


def _prepared(op: Op, tensors: Tensors) -> Tensors:
    """The tensors as the op can take them: floats where it works on single weights or makes one tensor of unlike ones.

    Ops that move rows take blocks as they are.
    """
    if _moves_rows(op) and len({tensor.qtype for tensor in tensors}) == 1:
        return tensors
    if not any(tensor.qtype.is_quantized or isinstance(tensor, Unpacked) for tensor in tensors):
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
