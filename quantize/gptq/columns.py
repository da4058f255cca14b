"""The compiled part of GPTQ: columns quantized one after the other, the error of each compensated by the rest.

Outputs are independent of each other, so a tile of ``TILE`` of them is the lanes: weights are kept transposed,
[in, out], and the innermost loop runs over outputs.
"""

from __future__ import annotations

import numpy as np

from ..kernels.base import jit, jit_part

TILE = 64  # a block of 128 inputs for so many outputs is 32 kB, the first cache's size
SHRINK = np.float32(0.01)  # the steps of the search for a scale
NORMAL = np.float32(2.0**-14)  # the smallest normal half; below, halves are STEP apart
STEP = np.float32(2.0**-24)
HALF, BFLOAT = 13, 16


@jit
def quantize_block(weights, factor, groups, bits, symmetric, search, cut, params, codes, first, last):  # type: ignore[no-untyped-def]
    """Quantize outputs ``first`` to ``last`` of a block of inputs.

    Args:
        weights: float32 [B, out]; becomes the errors [B, out], each divided by the factor's diagonal.
        factor: float32 [B, B], the upper Cholesky factor of the inverse Hessian.
        groups: int32 [B], each input's row in ``params``, negative (minus one minus the row) where that row is to be
            found first, from this input and those that follow with the same row.
        bits: of a code.
        symmetric: the zero point stays in the middle.
        search: how many steps of ``SHRINK`` to try for a smaller scale; 0 takes the extreme weights' scale.
        cut: bits of a float's fraction that scales are stored without: ``HALF``, or ``BFLOAT``.
        params: float32 [2, G, out], scales (of that precision) and zero points.
        codes: uint8 [B, out], written.

    Returns:
        float64, the sum of squared errors: what the outputs' squared error on the calibration text grows by.
    """
    size = weights.shape[0]
    total = np.float64(0)
    W = np.empty((size, TILE), np.float32)
    cost = np.empty(size, np.float32)
    scale, zero = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    error = np.empty(TILE, np.float32)
    top = np.float32((1 << bits) - 1)
    for i in range(size):
        cost[i] = np.float32(1) / (factor[i, i] * factor[i, i])
    for start in range(first, last, TILE):
        lanes = min(TILE, last - start)
        for i in range(size):
            for lane in range(lanes):
                W[i, lane] = weights[i, start + lane]
            for lane in range(lanes, TILE):
                W[i, lane] = 0
        for i in range(size):
            row = groups[i]
            if row < 0:
                row = -1 - row
                end = i + 1
                while end < size and groups[end] == row:
                    end += 1
                _find_params(W, cost, i, end, top, symmetric, search, cut, scale, zero)
                for lane in range(lanes):
                    params[0, row, start + lane] = scale[lane]
                    params[1, row, start + lane] = zero[lane]
            elif i == 0 or (groups[i - 1] != row and groups[i - 1] != -1 - row):
                for lane in range(lanes):
                    scale[lane] = params[0, row, start + lane]
                    zero[lane] = params[1, row, start + lane]
                for lane in range(lanes, TILE):
                    scale[lane], zero[lane] = np.float32(1), np.float32(0)
            inverse = np.float32(1) / factor[i, i]
            squares = np.float32(0)
            for lane in range(TILE):
                code = np.rint(W[i, lane] / scale[lane]) + zero[lane]
                code = min(max(code, np.float32(0)), top)
                error[lane] = (W[i, lane] - (code - zero[lane]) * scale[lane]) * inverse
                W[i, lane] = code
            for lane in range(lanes):
                codes[i, start + lane] = np.uint8(W[i, lane])
                weights[i, start + lane] = error[lane]
                squares += error[lane] * error[lane]
            total += squares
            for j in range(i + 1, size):
                f = factor[i, j]
                for lane in range(TILE):
                    W[j, lane] -= error[lane] * f
    return total


@jit
def find_params(weights, cost, bits, symmetric, search, cut, params):  # type: ignore[no-untyped-def]
    """Find the scales and zero points of one group, all of whose inputs are known.

    Args:
        weights: float32 [n, out].
        cost: float32 [n], what a squared error of each input costs.
        bits, symmetric, search, cut: see ``quantize_block``.
        params: float32 [2, out], written: scales and zero points.
    """
    size = weights.shape[0]
    W = np.empty((size, TILE), np.float32)
    scale, zero = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    top = np.float32((1 << bits) - 1)
    for start in range(0, weights.shape[1], TILE):
        lanes = min(TILE, weights.shape[1] - start)
        for i in range(size):
            for lane in range(lanes):
                W[i, lane] = weights[i, start + lane]
            for lane in range(lanes, TILE):
                W[i, lane] = 0
        _find_params(W, cost, 0, size, top, symmetric, search, cut, scale, zero)
        for lane in range(lanes):
            params[0, start + lane], params[1, start + lane] = scale[lane], zero[lane]


@jit
def _find_params(W, cost, start, end, top, symmetric, search, cut, scale, zero):  # type: ignore[no-untyped-def]
    """Find each lane's scale and zero for a group: of those tried, the one whose weighted squared error is least."""
    low, high = np.zeros(TILE, np.float32), np.zeros(TILE, np.float32)
    best = np.full(TILE, np.float32(np.inf))
    s, z, loss = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    for i in range(start, end):
        for lane in range(TILE):
            low[lane] = min(low[lane], W[i, lane])
            high[lane] = max(high[lane], W[i, lane])
    for step in range(search + 1):
        shrink = np.float32(1) - np.float32(step) * SHRINK
        for lane in range(TILE):
            a, b = low[lane] * shrink, high[lane] * shrink
            if symmetric:
                b = max(-a, b)
                a = -b
            s[lane] = max((b - a) / top, STEP)
            if b - a == 0:
                s[lane] = np.float32(1)
        _round_fractions(s, cut)
        for lane in range(TILE):
            if symmetric:
                z[lane] = (top + np.float32(1)) / np.float32(2)
            else:
                # at least 1: the older checkpoint format stores zero - 1, and cannot store -1
                z[lane] = min(max(np.rint(-low[lane] * shrink / s[lane]), np.float32(1)), top)
            loss[lane] = 0
        if search > 0:
            for i in range(start, end):
                for lane in range(TILE):
                    code = np.rint(W[i, lane] / s[lane]) + z[lane]
                    code = min(max(code, np.float32(0)), top)
                    d = W[i, lane] - (code - z[lane]) * s[lane]
                    loss[lane] += cost[i] * d * d
        for lane in range(TILE):
            better = loss[lane] < best[lane]
            best[lane] = loss[lane] if better else best[lane]
            scale[lane] = s[lane] if better else scale[lane]
            zero[lane] = z[lane] if better else zero[lane]


@jit_part
def _round_fractions(s, cut):  # type: ignore[no-untyped-def]
    """Round each value to the nearest half or bfloat16, ties to even."""
    bits = s.view(np.uint32)
    for lane in range(TILE):
        below = np.rint(s[lane] / STEP) * STEP
        b = bits[lane]
        b += np.uint32((1 << (cut - 1)) - 1) + ((b >> np.uint32(cut)) & np.uint32(1))
        b &= np.uint32(0xFFFFFFFF - (1 << cut) + 1)
        if cut == HALF and s[lane] < NORMAL:
            s[lane] = below
        else:
            bits[lane] = b
