"""Encode rows of a weight with error feedback, block by block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...formats.ir import Bytes
from ...formats.qtypes import F32, QType
from ..kernels import kernel_for
from ..kernels.contract import F32_ARRAY, Kernel
from ..kernels.simd import VEC
from .factor import Block
from .products import add_product, from_lanes, part_of, squared_products, to_lanes
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
        plain_loss = _loss(rows, plain, kernel, block, loss)
        out[:, span] = np.where((loss <= plain_loss)[:, None], refined, plain)
        total += np.minimum(loss, plain_loss)
    return total


def _refine(rows: F32_ARRAY, plain: Bytes, kernel: Kernel, block: Block, passes: int) -> tuple[Bytes, F32_ARRAY]:
    """Return encoded rows and their losses, the squared errors of the products. ``plain`` is the plain encoder's
    result."""
    state, size = State(rows, block), kernel.qtype.block_size
    codes = walker(kernel.qtype, state)
    headers = []
    alone = len(block.panels) == 1
    for panel in block.panels:
        x = state.look_back(panel)
        for at in range(panel.first, panel.first + panel.width, size):
            here = x._replace(at=at - panel.first)
            if size == block.width:  # nothing came before
                headers.append(plain)
            else:
                before = state.errors._replace(at=panel.first)
                add_product(block.factor, panel.first, at - panel.first, before, at, at + size, here)
                compensated = from_lanes(part_of(here, size), state.n, size)
                headers.append(_encode(compensated, kernel, block.importance[at : at + size]))
            codes.begin(at, headers[-1])
            codes.feed(here, at)
        state.look_ahead(panel)
        codes.sweep(panel, panel.ahead, *((passes, passes) if alone else (1, int(codes.quick))))
        state.settle(panel)
    for done in range(0 if alone else passes):  # rounds
        for panel in block.panels:
            state.look_around(panel)
            codes.sweep(panel, panel.joint, 1, int(codes.quick or done == passes - 1))
            state.settle(panel)
    return codes.write(headers), state.lost


def _loss(rows: F32_ARRAY, encoded: Bytes, kernel: Kernel, block: Block, enough: F32_ARRAY) -> F32_ARRAY:
    """Return the squared error of each row's products, or a part of it that is above ``enough``."""
    decoded = np.empty_like(rows)
    kernel.decode(encoded, decoded)
    errors = to_lanes(rows - decoded)
    limit = np.full(len(errors) // block.width * VEC, -1, np.float32)
    limit[: len(rows)] = enough
    loss = np.zeros_like(limit)
    squared_products(block.factor, block.diagonal, errors, block.width, limit, loss)
    return loss[: len(rows)]


def _encode(rows: F32_ARRAY, kernel: Kernel, importance: F32_ARRAY) -> Bytes:
    out = np.empty((len(rows), kernel.qtype.row_bytes(rows.shape[1])), np.uint8)
    kernel.encode(np.ascontiguousarray(rows).view(np.uint8), F32, importance, out)
    return out
