"""Rows of a weight, encoded with error feedback: the order of the work, panel by panel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...formats.ir import Bytes
from ...formats.qtypes import F32, QType
from ..kernels import kernel_for
from ..kernels.contract import F32_ARRAY, Kernel
from ..kernels.simd import VEC
from .factor import Block
from .products import add_moves, add_product, from_lanes, row_sums, to_lanes, weighted_squares
from .walkers import State, walker

SWEEPS = 2
_STEP = 64  # columns of a triangle done as a square


def encode_refined(
    weights: F32_ARRAY, kind: QType, blocks: Sequence[Block], out: Bytes, sweeps: int = SWEEPS
) -> F32_ARRAY:
    """Encode rows so that their products with the layer's inputs, not the weights themselves, are kept.

    A row's part in a block of columns is the plain encoder's where that loses less.

    Args:
        weights: float32 [rows, width].
        kind: one of the types that are ``REFINED``.
        blocks: second moments of the width's columns.
        out: uint8 [rows, row bytes], written.

    Returns:
        float32 [rows], the mean squared error of each row's products with the inputs.
    """
    kernel = kernel_for(kind)
    total = np.zeros(len(weights), np.float32)
    for block in blocks:
        span = slice(kind.row_bytes(block.first), kind.row_bytes(block.end))
        rows = np.ascontiguousarray(weights[:, block.first : block.end])
        refined, loss = _refine(rows, kernel, block, sweeps)
        plain, plain_loss = _plain(rows, kernel, block)
        out[:, span] = np.where((loss <= plain_loss)[:, None], refined, plain)
        total += np.minimum(loss, plain_loss)
    return total


def _refine(rows: F32_ARRAY, kernel: Kernel, block: Block, sweeps: int) -> tuple[Bytes, F32_ARRAY]:
    """Encoded rows, and what they lose: the squared error of the products, by row."""
    state, size = State(rows, block), kernel.qtype.block_size
    codes = walker(kernel.qtype, state)
    panels = range(0, block.width, size)
    headers = []
    for at in panels:
        x = state.panel(at, size)
        add_product(block.factor, 0, at, state.errors, 0, block.width, at, at + size, x, 0, size)
        headers.append(_encode(from_lanes(x, state.n, size), kernel, block.importance[at : at + size]))
        codes.feed(at, x, _square(block.factor, at, size), headers[-1])
    state.left *= np.tile(block.diagonal, state.groups)[:, None]
    for at in panels:
        below = block.width - at
        add_product(
            block.turned, at, below, state.left, at, block.width, at, at + size, state.gradient, at, block.width
        )
    moved, moves = np.empty((state.groups * size, VEC), np.float32), np.empty((state.groups, size + 1), np.int32)
    squares = [_square(block.moments, at, size) for at in panels]
    for _ in range(sweeps):
        for at, near in zip(panels, squares, strict=True):
            codes.descend(at, near, moved, moves)
            for start, end in ((0, at), (at + size, block.width)):
                add_moves(block.moments, at, size, moved, moves, start, end, state.gradient, block.width)
    for at, header in zip(panels, headers, strict=True):
        codes.write(at, header)
    loss = np.empty(state.groups * VEC, np.float32)
    row_sums(state.errors, state.gradient, block.width, loss)
    return np.concatenate(headers, axis=1), loss[: state.n]


def _plain(rows: F32_ARRAY, kernel: Kernel, block: Block) -> tuple[Bytes, F32_ARRAY]:
    """The plain encoder's bytes, and what they lose."""
    encoded = _encode(rows, kernel, block.importance)
    decoded = np.empty_like(rows)
    kernel.decode(encoded, decoded)
    errors = to_lanes(rows - decoded)
    left = np.zeros_like(errors)
    for at in range(0, block.width, _STEP):
        end = min(at + _STEP, block.width)  # up to here: below its diagonal the factor is zero
        add_product(block.factor, 0, end, errors, 0, block.width, at, end, left, at, block.width)
    loss = np.empty(len(left) // block.width * VEC, np.float32)
    weighted_squares(left, np.square(block.diagonal), block.width, loss)
    return encoded, loss[: len(rows)]


def _encode(rows: F32_ARRAY, kernel: Kernel, importance: F32_ARRAY) -> Bytes:
    out = np.empty((len(rows), kernel.qtype.row_bytes(rows.shape[1])), np.uint8)
    kernel.encode(np.ascontiguousarray(rows).view(np.uint8), F32, importance, out)
    return out


def _square(packed: F32_ARRAY, at: int, n: int) -> F32_ARRAY:
    """The diagonal part [n, n] of a packed matrix that begins at column ``at``."""
    quads = packed[at // 4 : (at + n) // 4, at : at + n]
    return np.ascontiguousarray(quads.transpose(1, 0, 2)).reshape(n, n)
