"""Encode rows of a weight with error feedback, block by block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...formats.ir import Bytes
from ...formats.qtypes import F32, QType
from ..kernels import kernel_for
from ..kernels.contract import F32_ARRAY, Kernel
from ..kernels.simd import VEC
from .columns import Columns
from .factor import Block
from .products import SQUARE, add_product, from_lanes, row_sums, to_lanes, weighted_squares
from .walkers import PASSES, State, walker


def encode_refined(
    weights: F32_ARRAY, kind: QType, blocks: Sequence[Block], out: Bytes, passes: int | None = None
) -> F32_ARRAY:
    """Encode rows so that their products with the layer's inputs, rather than the weights themselves, change least.

    Where the plain encoder loses less for a row's part in a block of columns, its bytes are taken.

    Args:
        weights: float32 [rows, width].
        kind: one of the types that are ``REFINED``.
        blocks: the second moments of the columns; their widths add up to ``width``.
        out: uint8 [rows, row bytes], written.
        passes: passes of coordinate descent over codes and scales; None for the type's usual number (``PASSES``).

    Returns:
        float32 [rows], the mean squared error of each row's products with the inputs.
    """
    kernel = kernel_for(kind)
    total = np.zeros(len(weights), np.float32)
    for block in blocks:
        span = slice(kind.row_bytes(block.first), kind.row_bytes(block.end))
        rows = np.ascontiguousarray(weights[:, block.first : block.end])
        plain = _encode(rows, kernel, block.importance)
        refined, loss = _refine(rows, plain, kernel, block, passes or PASSES[kind.name])
        plain_loss = _loss(rows, plain, kernel, block)
        out[:, span] = np.where((loss <= plain_loss)[:, None], refined, plain)
        total += np.minimum(loss, plain_loss)
    return total


def _refine(rows: F32_ARRAY, plain: Bytes, kernel: Kernel, block: Block, passes: int) -> tuple[Bytes, F32_ARRAY]:
    """Return encoded rows and their losses, the squared errors of the products. ``plain`` is the plain encoder's
    result."""
    state, size = State(rows, block), kernel.qtype.block_size
    codes = walker(kernel.qtype, state)
    headers = []
    for at in range(0, block.width, size):
        x = Columns(state.copy(state.lanes.weights, 1, at, size), 0, size)
        if size == block.width:  # nothing came before
            headers.append(plain)
        else:
            add_product(block.factor, 0, at, state.errors, at, at + size, x)
            compensated = from_lanes(x.values, state.n, size)
            headers.append(_encode(compensated, kernel, block.importance[at : at + size]))
        codes.begin(at, headers[-1])
        for q in range(at, at + size, SQUARE):
            square = x._replace(at=q - at)
            add_product(block.factor, at, q - at, state.errors._replace(at=at), q, q + SQUARE, square)
            codes.feed(square, q)
    for q in range(0, block.width, SQUARE):
        left, gradient = state.left._replace(at=q), state.gradient._replace(at=q)
        add_product(block.turned, q, block.width - q, left, q, q + SQUARE, gradient)
    for _ in range(passes):
        for q in range(0, block.width, SQUARE):
            state.move(q, (codes.descend, codes.refit, codes.descend))
    encoded = np.concatenate(headers, axis=1)
    codes.write(encoded.reshape(-1, kernel.qtype.block_bytes))
    loss = np.empty(state.groups * VEC, np.float32)
    row_sums(state.lanes.errors, state.lanes.gradient, block.width, loss)
    return encoded, loss[: state.n]


def _loss(rows: F32_ARRAY, encoded: Bytes, kernel: Kernel, block: Block) -> F32_ARRAY:
    """Return the squared error of each row's products."""
    decoded = np.empty_like(rows)
    kernel.decode(encoded, decoded)
    errors = to_lanes(rows - decoded)
    left = np.zeros_like(errors)
    source = Columns(errors, 0, block.width)
    for at in range(0, block.width, SQUARE):
        end = at + SQUARE  # up to here: below its diagonal the factor is zero
        add_product(block.factor, 0, end, source, at, end, Columns(left, at, block.width))
    loss = np.empty(len(left) // block.width * VEC, np.float32)
    weighted_squares(left, np.square(block.diagonal), block.width, loss)
    return loss[: len(rows)]


def _encode(rows: F32_ARRAY, kernel: Kernel, importance: F32_ARRAY) -> Bytes:
    out = np.empty((len(rows), kernel.qtype.row_bytes(rows.shape[1])), np.uint8)
    kernel.encode(np.ascontiguousarray(rows).view(np.uint8), F32, importance, out)
    return out
