"""The scale searches of ggml-quants.c on a vector of sub-blocks: ``make_qx``, ``make_q3``, ``make_qkx``, ``make_qp``.

All take arrays of the lane form [i, lane], the first row ``r`` of the sub-block and the first lane ``h`` of the vector,
and work on ``n`` rows. Where the C keeps the levels of the best try, these keep the numbers they follow from: the
levels are needed only for sub-blocks whose final scale is zero, and are then computed anew (``levels_*``).
"""

from __future__ import annotations

import numpy as np

from .base import jit
from .simd import any_lane, spread, to_float, vabs, vload, vmax, vmin, vnearest, vstore, where

GROUP_MAX_EPS = np.float32(1e-15)  # ggml-quants.c
_ZERO, _ONE = np.float32(0), np.float32(1)
_SHIFT = np.float32(12582912)  # 1.5 * 2**23: adding it rounds to an integer, half to even


@jit
def largest(x, r, n, h):  # type: ignore[no-untyped-def]
    """The first weight of largest magnitude, and that magnitude."""
    amax = spread(_ZERO)
    largest = spread(_ZERO)
    for i in range(r, r + n):
        v = vload(x, i, h)
        a = vabs(v)
        larger = a > amax
        amax = where(larger, a, amax)
        largest = where(larger, v, largest)
    return largest, amax


@jit
def qx_sums(x, w, wx, r, n, h, iscale, nmax):  # type: ignore[no-untyped-def]
    """sum(w*x*l) and sum(w*l*l) with l the levels at ``iscale``; ``wx`` holds w*x."""
    # Rounding by the shift itself, clamped while shifted: |iscale * x| < nmax + 1 wherever the sub-block is not zero,
    # so the bits never wrap and the integers of nearest_int are not needed.
    least, most = _SHIFT - np.float32(nmax), _SHIFT + np.float32(nmax - 1)
    sumlx = spread(_ZERO)
    suml2 = spread(_ZERO)
    for i in range(n):
        q = vmax(vmin(iscale * vload(x, r + i, h) + _SHIFT, most), least) - _SHIFT
        sumlx = sumlx + vload(wx, i, h) * q
        suml2 = suml2 + vload(w, r + i, h) * q * q
    return sumlx, suml2


@jit
def make_qx(x, w, r, n, h, nmax, wx):  # type: ignore[no-untyped-def]
    """``make_qx_quants`` with weights ``w``: (scale, inverse scale of the best levels; 0 for an all-zero sub-block).

    ``wx`` float32 [n, LANES] is scratch.
    """
    extreme, amax = largest(x, r, n, h)
    zero = amax < GROUP_MAX_EPS
    for i in range(n):
        vstore(wx, i, h, vload(w, r + i, h) * vload(x, r + i, h))
    fmax = np.float32(nmax)
    iscale = -fmax / extreme
    sumlx, suml2 = qx_sums(x, w, wx, r, n, h, iscale, nmax)
    scale = where(suml2 != _ZERO, sumlx / suml2, _ZERO)
    best = scale * sumlx
    for step in range(-9, 10):
        if step == 0:
            continue
        tried = -(fmax + np.float32(0.1) * np.float32(step)) / extreme
        sumlx, suml2 = qx_sums(x, w, wx, r, n, h, tried, nmax)
        better = (suml2 > _ZERO) & (sumlx * sumlx > best * suml2)
        scale = where(better, sumlx / suml2, scale)
        best = where(better, scale * sumlx, best)
        iscale = where(better, tried, iscale)
    return where(zero, _ZERO, scale), where(zero, _ZERO, iscale)


@jit
def levels_qx(v, iscale, nmax):  # type: ignore[no-untyped-def]
    """The levels (0 .. 2*nmax-1) of weights ``v`` at the ``iscale`` of ``make_qx``; an all-zero sub-block's are 0."""
    levels = vmax(-nmax, vmin(nmax - 1, vnearest(iscale * v))) + nmax
    return where(iscale == _ZERO, 0, levels)


@jit
def make_q3(x, r, n, h, nmax, levels):  # type: ignore[no-untyped-def]
    """``make_q3_quants`` with do_rmse: the scale; writes the levels (0 .. 2*nmax-1) to ``levels`` uint8."""
    extreme, amax = largest(x, r, n, h)
    zero = amax < GROUP_MAX_EPS
    iscale = -np.float32(nmax) / extreme
    sumlx = spread(_ZERO)
    suml2 = spread(_ZERO)
    for i in range(n):
        v = vload(x, r + i, h)
        level = vmax(-nmax, vmin(nmax - 1, vnearest(iscale * v)))
        vstore(levels, r + i, h, level + nmax)
        q = to_float(level)
        w = v * v
        sumlx = sumlx + w * v * q
        suml2 = suml2 + w * q * q
    for _ in range(5):
        changed = spread(0)
        for i in range(n):
            v = vload(x, r + i, h)
            level = vload(levels, r + i, h) - nmax
            q = to_float(level)
            w = v * v
            slx = sumlx - w * v * q
            sl2 = suml2 - w * q * q
            new_level = vmax(-nmax, vmin(nmax - 1, vnearest(v * sl2 / slx)))
            new = to_float(new_level)
            move = (slx > _ZERO) & (new_level != level)
            slx = slx + w * v * new
            sl2 = sl2 + w * new * new
            move = move & (sl2 > _ZERO) & (slx * slx * suml2 > sumlx * sumlx * sl2)
            vstore(levels, r + i, h, where(move, new_level, level) + nmax)
            sumlx = where(move, slx, sumlx)
            suml2 = where(move, sl2, suml2)
            changed = where(move, 1, changed)
        if not any_lane(changed != 0):  # a lane that changed nothing never will
            break
    for i in range(n):
        vstore(levels, r + i, h, where(zero, 0, vload(levels, r + i, h)))
    return where(zero, _ZERO, where(suml2 > _ZERO, sumlx / suml2, _ZERO))


@jit
def make_qkx(x, w, r, n, h, nmax, rmin, rdelta, nstep, use_mad, aux):  # type: ignore[no-untyped-def]
    """``make_qkx2_quants`` and ``make_qkx3_quants``, one algorithm: (scale, min <= 0, and the inverse scale and min
    that the best levels were taken with). ``aux`` float32 [n, LANES] is scratch."""
    low = vload(x, r, h)
    high = low
    sum_w = spread(_ZERO)
    sum_x = spread(_ZERO)
    for i in range(r, r + n):
        v = vload(x, i, h)
        low = vmin(v, low)
        high = vmax(v, high)
        wi = vload(w, i, h)
        sum_w = sum_w + wi
        sum_x = sum_x + wi * v
    low = where(low > _ZERO, _ZERO, low)
    flat = high <= low
    flat_min = low
    level_iscale = low
    level_min = low
    scale = low
    best = low
    for step in range(-1, nstep + 1):  # -1: the plain levels, where the C starts from
        numerator = np.float32(nmax)
        if step >= 0:
            numerator = rmin + rdelta * np.float32(step) + np.float32(nmax)
        iscale = numerator / (high - low)
        sum_l = spread(_ZERO)
        sum_l2 = spread(_ZERO)
        sum_xl = spread(_ZERO)
        for i in range(n):
            v = vload(x, r + i, h)
            q = to_float(vmax(0, vmin(nmax, vnearest(iscale * (v - low)))))
            vstore(aux, i, h, q)
            wl = vload(w, r + i, h) * q
            sum_l = sum_l + wl
            sum_l2 = sum_l2 + wl * q
            sum_xl = sum_xl + wl * v
        d = sum_w * sum_l2 - sum_l * sum_l
        this_scale = (sum_w * sum_xl - sum_x * sum_l) / d
        this_min = (sum_l2 * sum_x - sum_l * sum_xl) / d
        above = this_min > _ZERO
        this_scale = where(above, sum_xl / sum_l2, this_scale)
        this_min = where(above, _ZERO, this_min)
        if step < 0:
            this_scale = np.float32(1) / iscale
            this_min = low
        error = spread(_ZERO)
        if use_mad:
            for i in range(n):
                diff = vabs(this_scale * vload(aux, i, h) + this_min - vload(x, r + i, h))
                error = error + vload(w, r + i, h) * diff
        else:
            for i in range(n):
                diff = this_scale * vload(aux, i, h) + this_min - vload(x, r + i, h)
                error = error + vload(w, r + i, h) * (diff * diff)
        better = (d > _ZERO) & (error < best)
        if step < 0:
            better = low == low
        best = where(better, error, best)
        level_iscale = where(better, iscale, level_iscale)
        level_min = where(better, low, level_min)
        scale = where(better, this_scale, scale)
        low = where(better, this_min, low)
    return (
        where(flat, _ZERO, scale),
        where(flat, flat_min, low),
        where(flat, _ZERO, level_iscale),
        where(flat, flat_min, level_min),
    )


@jit
def levels_qkx(v, level_iscale, level_min, nmax):  # type: ignore[no-untyped-def]
    """The levels (0 .. nmax) of weights ``v`` in the best try of ``make_qkx``."""
    return vmax(0, vmin(nmax, vnearest(level_iscale * (v - level_min))))


@jit
def make_qp(x, w, n, h, nmax, levels):  # type: ignore[no-untyped-def]
    """``make_qp_quants`` of the ``n`` sub-block scales ``x`` with weights ``w``: the scale of the scales; writes
    uint8 ``levels`` [n, LANES] (the C cuts them to a byte too)."""
    top = spread(_ZERO)
    for i in range(n):
        top = vmax(top, vload(x, i, h))
    zero = top < GROUP_MAX_EPS
    fmax = np.float32(nmax)
    iscale = fmax / top
    scale = _ONE / iscale
    best = spread(_ZERO)
    for i in range(n):
        v = vload(x, i, h)
        diff = v - scale * to_float(vnearest(iscale * v) & 255)
        best = best + vload(w, i, h) * diff * diff
    for step in range(-4, 5):
        if step == 0:
            continue
        tried = (np.float32(0.1) * np.float32(step) + fmax) / top
        scale = _ONE / tried
        mse = spread(_ZERO)
        for i in range(n):
            v = vload(x, i, h)
            diff = v - scale * to_float(vmin(nmax, vnearest(tried * v)))
            mse = mse + vload(w, i, h) * diff * diff
        better = mse < best
        best = where(better, mse, best)
        iscale = where(better, tried, iscale)
    sumlx = spread(_ZERO)
    suml2 = spread(_ZERO)
    for i in range(n):
        v = vload(x, i, h)
        level = vmin(nmax, vnearest(iscale * v))
        vstore(levels, i, h, level)
        q = to_float(level)
        wi = vload(w, i, h)
        sumlx = sumlx + wi * v * q
        suml2 = suml2 + wi * q * q
    for _ in range(5):
        changed = spread(0)
        for i in range(n):
            v = vload(x, i, h)
            wi = vload(w, i, h)
            level = vload(levels, i, h)
            q = to_float(level)
            slx = sumlx - wi * v * q
            sl2 = suml2 - wi * q * q
            new_level = vmin(nmax, vnearest(v * sl2 / slx))
            new = to_float(new_level)
            move = (slx > _ZERO) & (sl2 > _ZERO) & (new_level != level)
            slx = slx + wi * v * new
            sl2 = sl2 + wi * new * new
            move = move & (slx * slx * suml2 > sumlx * sumlx * sl2)
            vstore(levels, i, h, where(move, new_level, level))
            sumlx = where(move, slx, sumlx)
            suml2 = where(move, sl2, suml2)
            changed = where(move, 1, changed)
        if not any_lane(changed != 0):
            break
    for i in range(n):
        vstore(levels, i, h, where(zero, 0, vload(levels, i, h)))
    return where(zero, _ZERO, where(suml2 > _ZERO, sumlx / suml2, _ZERO))
