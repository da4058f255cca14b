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
from .products import SQUARE, add_product, from_lanes, row_sums, to_lanes, weighted_squares
from .walkers import PASSES, State, walker


def encode_refined(
    weights: F32_ARRAY, kind: QType, blocks: Sequence[Block], out: Bytes, passes: int | None = None
) -> F32_ARRAY:
    """Encode rows so that their products with the layer's inputs, not the weights themselves, are kept.

    A row's part in a block of columns is the plain encoder's where that loses less.

    Args:
        weights: float32 [rows, width].
        kind: one of the types that are ``REFINED``.
        blocks: second moments of the width's columns.
        out: uint8 [rows, row bytes], written.
        passes: of coordinate descent over codes and scales; None for as many as the type's time allows.

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
    """Encoded rows, and what they lose: the squared error of the products, by row. ``plain``: the plain encoder's."""
    state, size = State(rows, block), kernel.qtype.block_size
    codes = walker(kernel.qtype, state)
    headers = []
    for at in range(0, block.width, size):
        x = state.copy(state.weights, 1, at, size)
        if size == block.width:  # nothing came before
            headers.append(plain)
        else:
            add_product(block.factor, 0, at, state.errors, 0, block.width, at, at + size, x, 0, size)
            headers.append(_encode(from_lanes(x, state.n, size), kernel, block.importance[at : at + size]))
        codes.begin(at, headers[-1])
        for q in range(at, at + size, SQUARE):
            add_product(block.factor, at, q - at, state.errors, at, block.width, q, q + SQUARE, x, q - at, size)
            codes.feed(x, q - at, size, q)
    for q in range(0, block.width, SQUARE):
        add_product(
            block.turned, q, block.width - q, state.left, q, block.width, q, q + SQUARE, state.gradient, q, block.width
        )
    for _ in range(passes):
        for q in range(0, block.width, SQUARE):
            state.move(q, (codes.descend, codes.refit, codes.descend))
    encoded = np.concatenate(headers, axis=1)
    codes.write(encoded.reshape(-1, kernel.qtype.block_bytes))
    loss = np.empty(state.groups * VEC, np.float32)
    row_sums(state.errors, state.gradient, block.width, loss)
    return encoded, loss[: state.n]


def _loss(rows: F32_ARRAY, encoded: Bytes, kernel: Kernel, block: Block) -> F32_ARRAY:
    """The squared error of the products, by row."""
    decoded = np.empty_like(rows)
    kernel.decode(encoded, decoded)
    errors = to_lanes(rows - decoded)
    left = np.zeros_like(errors)
    for at in range(0, block.width, SQUARE):
        end = at + SQUARE  # up to here: below its diagonal the factor is zero
        add_product(block.factor, 0, end, errors, 0, block.width, at, end, left, at, block.width)
    loss = np.empty(len(left) // block.width * VEC, np.float32)
    weighted_squares(left, np.square(block.diagonal), block.width, loss)
    return loss[: len(rows)]


def _encode(rows: F32_ARRAY, kernel: Kernel, importance: F32_ARRAY) -> Bytes:
    out = np.empty((len(rows), kernel.qtype.row_bytes(rows.shape[1])), np.uint8)
    kernel.encode(np.ascontiguousarray(rows).view(np.uint8), F32, importance, out)
    return out
