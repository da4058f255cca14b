"""IQ4_NL and IQ4_XS: 4-bit indices into a non-linear codebook, 32 weights a block; IQ4_XS has 8 blocks to a scale.

Source: ``quantize_row_iq4_nl_impl`` in ggml-quants.c. Two things are done another way, with the same result:

- ``best_index_int8`` searches by bisection and compares ``x - lower < upper - x``. Each midpoint between neighbours
  is a float, and both differences are exact near it, so the answer is the number of midpoints not above ``x``
  (tried on every float in [-128, 128]; NaN gives 15 in both).
- The 15 tries scale the block by (-127 +- 7) / max. A weight's ``|scale * x|`` grows by at most 134/120 from the first
  try to the last, less than the ratio of any two neighbouring midpoints of one sign (at least 1.235), so it meets one
  midpoint at most. Its two possible values are found once; each try is then one comparison.
"""

from __future__ import annotations

import numpy as np

from ...formats.qtypes import BY_NAME
from .base import LANES, Kernel, jit, jit_inline, nearest_int
from .lanes import half_at, load_importance_lanes, load_lanes, store_half

_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_MIDPOINTS = (_VALUES[1:] + _VALUES[:-1]) / np.float32(2)
_STEPS = (_VALUES[1:] - _VALUES[:-1]).astype(np.int32)
_TRIES = 7  # the search covers -127 +- 7
_N_TRIES = 2 * _TRIES + 1
_BLOCK = 32
_SUPER = 8  # blocks in an IQ4_XS super-block
_MAX_EPS = np.float32(1e-15)  # GROUP_MAX_EPS: a block below it is zero

# Rows of the search's state.
_LARGEST, _MAGNITUDE, _FIRST, _QX, _QQ, _BEST, _MIDPOINT, _LOWER_QX, _LOWER_QQ, _UPPER_QX, _UPPER_QQ = range(11)
_N_STATE = 11

assert LANES % _SUPER == 0


@jit_inline
def _nearest_index(x):  # type: ignore[no-untyped-def]
    index = np.int32(0)
    for k in range(15):
        index = np.int32(index + (np.int32(0) if x < _MIDPOINTS[k] else np.int32(1)))
    return index


@jit_inline
def _nearest_value(x):  # type: ignore[no-untyped-def]
    value = np.int32(-127)
    for k in range(15):
        value = np.int32(value + (np.int32(0) if x < _MIDPOINTS[k] else _STEPS[k]))
    return np.float32(value)


@jit
def _weigh(X, W, sigma2, has_importance):  # type: ignore[no-untyped-def]
    """``W``, the importance of each weight, becomes its weight in the error; ``sigma2`` float32 [LANES]."""
    if has_importance:
        for j in range(_BLOCK):
            for lane in range(LANES):
                x = X[j, lane]
                W[j, lane] = W[j, lane] * np.sqrt(sigma2[lane] + x * x)
    else:
        for j in range(_BLOCK):
            for lane in range(LANES):
                W[j, lane] = X[j, lane] * X[j, lane]


@jit
def _search(X, W, scales):  # type: ignore[no-untyped-def]
    """The best scale of each lane, float32 [LANES], for weights ``X`` and their errors' weights ``W`` [32, LANES].

    Few arrays with many rows, not many arrays: the compiler vectorizes what it can prove apart.
    """
    state = np.zeros((_N_STATE, LANES), np.float32)
    inverse = np.empty((_N_TRIES, LANES), np.float32)
    sums = np.zeros((2 * _N_TRIES, LANES), np.float32)  # of w*q*x, then of w*q*q, by try
    _find_largest(X, state)
    for lane in range(LANES):
        state[_FIRST, lane] = np.float32(1) / (-state[_LARGEST, lane] / np.float32(-127))
    for t in range(_N_TRIES):
        for lane in range(LANES):
            inverse[t, lane] = np.float32(t - _TRIES - 127) / state[_LARGEST, lane]
    for j in range(_BLOCK):
        for lane in range(LANES):
            x = X[j, lane]
            w = W[j, lane]
            q = _nearest_value(state[_FIRST, lane] * x)
            state[_QX, lane] += w * q * x
            state[_QQ, lane] += w * q * q
        for lane in range(LANES):
            x = X[j, lane]
            w = W[j, lane]
            far = _nearest_value(inverse[0, lane] * x)
            near = _nearest_value(inverse[_N_TRIES - 1, lane] * x)
            lower = min(near, far)
            upper = max(near, far)
            state[_MIDPOINT, lane] = (lower + upper) * np.float32(0.5)
            state[_LOWER_QX, lane] = w * lower * x
            state[_LOWER_QQ, lane] = w * lower * lower
            state[_UPPER_QX, lane] = w * upper * x
            state[_UPPER_QQ, lane] = w * upper * upper
        for t in range(_N_TRIES):
            for lane in range(LANES):
                lower_qx = state[_LOWER_QX, lane]
                lower_qq = state[_LOWER_QQ, lane]
                upper_qx = state[_UPPER_QX, lane]
                upper_qq = state[_UPPER_QQ, lane]
                is_lower = inverse[t, lane] * X[j, lane] < state[_MIDPOINT, lane]
                sums[t, lane] += lower_qx if is_lower else upper_qx
                sums[t + _N_TRIES, lane] += lower_qq if is_lower else upper_qq
    _choose(state, sums, scales)


@jit
def _find_largest(X, state):  # type: ignore[no-untyped-def]
    """The first weight of the largest magnitude in each lane, and that magnitude."""
    for j in range(_BLOCK):
        for lane in range(LANES):
            x = X[j, lane]
            largest = state[_LARGEST, lane]
            magnitude = state[_MAGNITUDE, lane]
            larger = abs(x) > magnitude
            state[_LARGEST, lane] = x if larger else largest
            state[_MAGNITUDE, lane] = abs(x) if larger else magnitude


@jit
def _choose(state, sums, scales):  # type: ignore[no-untyped-def]
    """The scale that leaves the least error in each lane: the first guess, or a try that beats those before it."""
    for lane in range(LANES):
        qx = state[_QX, lane]
        qq = state[_QQ, lane]
        scale = qx / qq
        scale = scale if qq > np.float32(0) else np.float32(0)
        scales[lane] = scale
        state[_BEST, lane] = scale * qx
    for t in range(_N_TRIES):
        for lane in range(LANES):
            qx = sums[t, lane]
            qq = sums[t + _N_TRIES, lane]
            best = state[_BEST, lane]
            old = scales[lane]
            scale = qx / qq
            better = qx * qx > best * qq if qq > np.float32(0) else False
            scales[lane] = scale if better else old
            state[_BEST, lane] = scale * qx if better else best
    for lane in range(LANES):
        scale = scales[lane]
        scales[lane] = np.float32(0) if state[_MAGNITUDE, lane] < _MAX_EPS else scale


@jit
def _quantize(X, inverse, nibbles):  # type: ignore[no-untyped-def]
    """The indices of each lane's weights, packed: uint8 [16, LANES]. ``inverse`` float32 [LANES]."""
    for j in range(16):
        for lane in range(LANES):
            low = _nearest_index(inverse[lane] * X[j, lane])
            high = _nearest_index(inverse[lane] * X[j + 16, lane])
            nibbles[j, lane] = np.uint8(low | (high << np.int32(4)))


@jit
def _encode_nl(src, code, importance, out):  # type: ignore[no-untyped-def]
    blocks = out.reshape(-1, 18)
    X = np.empty((_BLOCK, LANES), np.float32)
    W = np.empty((_BLOCK, LANES), np.float32)
    sigma2 = np.empty(LANES, np.float32)
    scales = np.empty(LANES, np.float32)
    nibbles = np.empty((16, LANES), np.uint8)
    for first in range(0, len(blocks), LANES):
        n = min(LANES, len(blocks) - first)
        load_lanes(src, code, first, n, _BLOCK, X)
        if len(importance):
            load_importance_lanes(importance, first, n, _BLOCK, W)
            sigma2[:] = 0
            for j in range(_BLOCK):
                for lane in range(LANES):
                    sigma2[lane] += X[j, lane] * X[j, lane]
            for lane in range(LANES):
                sigma2[lane] *= np.float32(2.0 / _BLOCK)
        _weigh(X, W, sigma2, len(importance) > 0)
        _search(X, W, scales)
        for lane in range(n):
            store_half(blocks[first + lane], 0, scales[lane])
        for lane in range(LANES):
            scale = scales[lane]
            scales[lane] = np.float32(1) / scale if scale != np.float32(0) else np.float32(0)
        _quantize(X, scales, nibbles)
        for lane in range(n):
            for j in range(16):
                blocks[first + lane, 2 + j] = nibbles[j, lane]


@jit
def _sigma2_of_super_blocks(X, sigma2):  # type: ignore[no-untyped-def]
    """Twice the mean square over the 8 lanes of each super-block, summed in the order of its weights."""
    n_super = LANES // _SUPER
    total = np.zeros(n_super, np.float32)
    for block in range(_SUPER):
        for j in range(_BLOCK):
            for s in range(n_super):
                x = X[j, s * _SUPER + block]
                total[s] += x * x
    for lane in range(LANES):
        sigma2[lane] = total[lane // _SUPER] * np.float32(2.0 / (_SUPER * _BLOCK))


@jit
def _encode_xs(src, code, importance, out):  # type: ignore[no-untyped-def]
    blocks = out.reshape(-1, 136)
    X = np.empty((_BLOCK, LANES), np.float32)
    W = np.empty((_BLOCK, LANES), np.float32)
    sigma2 = np.empty(LANES, np.float32)
    scales = np.empty(LANES, np.float32)
    nibbles = np.empty((16, LANES), np.uint8)
    n_super = LANES // _SUPER
    for first in range(0, len(blocks), n_super):
        n = min(n_super, len(blocks) - first)
        load_lanes(src, code, first * _SUPER, n * _SUPER, _BLOCK, X)
        if len(importance):
            load_importance_lanes(importance, first * _SUPER, n * _SUPER, _BLOCK, W)
            _sigma2_of_super_blocks(X, sigma2)
        _weigh(X, W, sigma2, len(importance) > 0)
        _search(X, W, scales)
        for s in range(n):
            _quantize_scales(scales[s * _SUPER : (s + 1) * _SUPER], blocks[first + s])
        _quantize(X, scales, nibbles)
        for lane in range(n * _SUPER):
            start = 8 + lane % _SUPER * 16
            for j in range(16):
                blocks[first + lane // _SUPER, start + j] = nibbles[j, lane]


@jit
def _quantize_scales(scales, block):  # type: ignore[no-untyped-def]
    """Write d and the 6-bit scales of a super-block; ``scales`` float32 [8] becomes their inverses as stored."""
    magnitude = np.float32(0)
    largest = np.float32(0)
    for i in range(_SUPER):
        if abs(scales[i]) > magnitude:
            magnitude = abs(scales[i])
            largest = scales[i]
    d = -largest / np.float32(32)  # of a zero super-block: -0.0, as the C stores
    inverse = np.float32(1) / d if d != np.float32(0) else np.float32(0)
    store_half(block, 0, d)
    for k in range(2, 8):
        block[k] = 0
    for i in range(_SUPER):
        level = max(-32, min(31, nearest_int(inverse * scales[i])))
        scale = d * np.float32(level)
        scales[i] = np.float32(1) / scale if scale != np.float32(0) else np.float32(0)
        bits = level + 32
        block[2 + i // 4] |= np.uint8((bits >> 4) << (2 * (i % 4)))
        block[4 + i // 2] |= np.uint8((bits & 15) << (4 * (i % 2)))


@jit
def _decode_nl(blocks, out):  # type: ignore[no-untyped-def]
    source = blocks.reshape(-1, 18)
    weights = out.reshape(-1, _BLOCK)
    for b in range(len(source)):
        d = half_at(source[b], 0)
        for j in range(16):
            weights[b, j] = d * _VALUES[source[b, 2 + j] & 15]
            weights[b, j + 16] = d * _VALUES[source[b, 2 + j] >> 4]


@jit
def _decode_xs(blocks, out):  # type: ignore[no-untyped-def]
    source = blocks.reshape(-1, 136)
    weights = out.reshape(-1, _SUPER, _BLOCK)
    for b in range(len(source)):
        d = half_at(source[b], 0)
        for i in range(_SUPER):
            low = (source[b, 4 + i // 2] >> (4 * (i % 2))) & 15
            high = (source[b, 2 + i // 4] >> (2 * (i % 4))) & 3
            scale = d * np.float32(np.int32(low | (high << 4)) - np.int32(32))
            for j in range(16):
                q = source[b, 8 + 16 * i + j]
                weights[b, i, j] = scale * _VALUES[q & 15]
                weights[b, i, j + 16] = scale * _VALUES[q >> 4]


KERNELS = {
    "IQ4_NL": Kernel(BY_NAME["IQ4_NL"], _encode_nl, _decode_nl, uses_importance=True),
    "IQ4_XS": Kernel(BY_NAME["IQ4_XS"], _encode_xs, _decode_xs, uses_importance=True),
}
