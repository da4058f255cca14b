"""What happens to tensors between a checkpoint and GGUF: small, frozen, lazy, each with its inverse.

An op maps a tuple of lazy tensors to another. Ops that only move rows work on raw bytes, whatever the type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..ir import Bytes, Tensor

Config = Mapping[str, Any]
Tensors = tuple[Tensor, ...]


class Op(Protocol):
    """One step. ``apply`` must not read a weight; ``inverse`` undoes it exactly."""

    def apply(self, tensors: Tensors, config: Config) -> Tensors: ...

    @property
    def inverse(self) -> Op: ...


@dataclass(frozen=True)
class PermuteRope:
    """Rows of each head from HF's rotate-half order to interleaved pairs, as llama.cpp's ``permute`` does.

    A head of 2n rows [0..n) + [n..2n) becomes 0, n, 1, n+1, ...: GGML's rope turns neighbours (2i, 2i+1), HF's turns
    (i, i+n). Biases permute likewise.

    Args:
        heads: the config key that counts the heads.
        undo: go the other way.
    """

    heads: str
    undo: bool = False

    @property
    def inverse(self) -> PermuteRope:
        return replace(self, undo=not self.undo)

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        (tensor,) = tensors
        head_rows = tensor.shape[0] // int(config[self.heads])
        half = head_rows // 2
        order = np.arange(head_rows).reshape((half, 2) if self.undo else (2, half)).T.reshape(-1)
        if len(tensor.shape) == 1:
            return (_permute_vector(tensor, order),)
        return (_permute_rows(tensor, order),)


def _permute_rows(tensor: Tensor, order: NDArray[np.intp]) -> Tensor:
    """Rows of each group of len(order) rows: row i of the result is row order[i] of its group."""
    group = len(order)

    def read(a: int, b: int) -> Bytes:
        first, last = a // group * group, -(-b // group) * group
        source = tensor.rows(first, min(last, tensor.n_rows))
        rows = np.arange(a, b)
        gathered: Bytes = source[rows // group * group - first + order[rows % group]]
        return gathered

    return replace(tensor, read=read)


def _permute_vector(tensor: Tensor, order: NDArray[np.intp]) -> Tensor:
    """The same for a bias, whose rows are its single values."""
    group = len(order)

    def read(a: int, b: int) -> Bytes:
        row = tensor.rows(a, b).reshape(b - a, tensor.width // group, group, tensor.qtype.block_bytes)
        return np.ascontiguousarray(row[:, :, order]).reshape(b - a, tensor.row_bytes)

    return replace(tensor, read=read)


@dataclass(frozen=True)
class Stack:
    """Equal tensors, one an expert, into one with a new first axis."""

    @property
    def inverse(self) -> Unstack:
        return Unstack()

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        first = tensors[0]
        each = first.n_rows

        def read(a: int, b: int) -> Bytes:
            parts = []
            for i in range(a // each, -(-b // each)):
                parts.append(tensors[i].rows(max(a - i * each, 0), min(b - i * each, each)))
            return np.concatenate(parts) if parts else first.rows(0, 0)

        return (replace(first, shape=(len(tensors), *first.shape), read=read),)


@dataclass(frozen=True)
class Unstack:
    """The experts of a stacked tensor, each by itself."""

    @property
    def inverse(self) -> Stack:
        return Stack()

    def apply(self, tensors: Tensors, config: Config) -> Tensors:
        (tensor,) = tensors
        each = tensor.n_rows // tensor.shape[0]
        return tuple(_slice(tensor, i * each) for i in range(tensor.shape[0]))


def _slice(tensor: Tensor, start: int) -> Tensor:
    return replace(tensor, shape=tensor.shape[1:], read=lambda a, b: tensor.rows(start + a, start + b))
