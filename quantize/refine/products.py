"""Matrix products in the lane form: rows of the weight are lanes, so every lane's sum runs over the columns in order
and the result depends on neither the tile nor the threads. The multiply-adds are fused by request, one rounding each,
which every CPU does alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core.cgutils import get_or_insert_function
from numpy.typing import NDArray

from ..kernels.base import intrinsic, jit
from ..kernels.contract import F32_ARRAY
from ..kernels.simd import F32V, VEC, any_lane, spread, vload, vstore, vstore_flat

SQUARE = 32  # columns whose errors meet at once; farther ones get them as products
QUAD = 4  # output columns at a time: with VEC lanes each, what the registers hold


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` of three F32V, rounded once."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.FloatType(), VEC)
        kind = ir.FunctionType(vector, [vector] * 3)
        return builder.call(get_or_insert_function(builder.module, kind, f"llvm.fma.v{VEC}f32"), args)

    return F32V(F32V, F32V, F32V), codegen


def pack(matrix: NDArray[Any]) -> F32_ARRAY:
    """float32 [columns/4, rows, 4] of a matrix [rows, columns]: what ``add_product`` reads in order."""
    rows, columns = matrix.shape
    quads = np.asarray(matrix, np.float32).reshape(rows, columns // QUAD, QUAD).transpose(1, 0, 2)
    return np.ascontiguousarray(quads)


def to_lanes(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows [n, columns] in the lane form: [groups * columns, VEC], a group of ``VEC`` rows after the other, zeros in
    the place of rows that the last one lacks. A column of a group is a line of the cache."""
    n, columns = rows.shape
    if n % VEC:
        rows = np.concatenate([rows, np.zeros((-n % VEC, columns), rows.dtype)])
    return np.ascontiguousarray(rows.reshape(-1, VEC, columns).transpose(0, 2, 1)).reshape(-1, VEC)


def from_lanes(lanes: NDArray[Any], n: int, columns: int) -> NDArray[Any]:
    """Back to rows [n, columns]."""
    rows = np.ascontiguousarray(lanes.reshape(-1, columns, VEC).transpose(0, 2, 1)).reshape(-1, columns)
    return rows[:n]


@jit
def add_product(packed, first, n, a, at, a_columns, start, end, out, into, out_columns):  # type: ignore[no-untyped-def]
    """``out[into + j - start] += sum_k matrix[first + k, j] * a[at + k]`` for k < ``n`` and ``start`` <= j < ``end``.

    Args:
        packed: the matrix as ``pack`` gives it; ``start`` and ``end`` are multiples of ``QUAD``.
        a, out: float32 in the lane form, of so many columns.
    """
    for quad in range(start // 4, end // 4):
        row = into + 4 * quad - start
        for group in range(a.shape[0] // a_columns):
            source, target = group * a_columns + at, group * out_columns + row
            s0, s1 = vload(out, target, 0), vload(out, target + 1, 0)
            s2, s3 = vload(out, target + 2, 0), vload(out, target + 3, 0)
            for k in range(n):
                v = vload(a, source + k, 0)
                s0 = fma(v, spread(packed[quad, first + k, 0]), s0)
                s1 = fma(v, spread(packed[quad, first + k, 1]), s1)
                s2 = fma(v, spread(packed[quad, first + k, 2]), s2)
                s3 = fma(v, spread(packed[quad, first + k, 3]), s3)
            vstore(out, target, 0, s0)
            vstore(out, target + 1, 0, s1)
            vstore(out, target + 2, 0, s2)
            vstore(out, target + 3, 0, s3)


@jit
def add_moves(packed, first, n, moved, moves, start, end, out, out_columns):  # type: ignore[no-untyped-def]
    """As ``add_product``, from the columns that moved alone.

    Args:
        moved: float32 [groups * n, VEC], what moved in ``n`` columns from ``first`` on.
        moves: int32 [groups, n + 1], how many columns of the group moved at all, and which.
        out: columns ``start`` to ``end`` of it are added to.
    """
    for quad in range(start // 4, end // 4):
        for group in range(moves.shape[0]):
            count = moves[group, 0]
            if count == 0:
                continue
            target = group * out_columns + 4 * quad
            s0, s1 = vload(out, target, 0), vload(out, target + 1, 0)
            s2, s3 = vload(out, target + 2, 0), vload(out, target + 3, 0)
            for i in range(1, count + 1):
                k = moves[group, i]
                v = vload(moved, group * n + k, 0)
                s0 = fma(v, spread(packed[quad, first + k, 0]), s0)
                s1 = fma(v, spread(packed[quad, first + k, 1]), s1)
                s2 = fma(v, spread(packed[quad, first + k, 2]), s2)
                s3 = fma(v, spread(packed[quad, first + k, 3]), s3)
            vstore(out, target, 0, s0)
            vstore(out, target + 1, 0, s1)
            vstore(out, target + 2, 0, s2)
            vstore(out, target + 3, 0, s3)


@jit
def find_moves(now, before, at, n, columns, moved, moves):  # type: ignore[no-untyped-def]
    """What ``add_moves`` takes, of ``n`` columns that begin at column ``at`` of ``now``; ``before`` are they alone."""
    for group in range(moves.shape[0]):
        count = 0
        for j in range(n):
            delta = vload(now, group * columns + at + j, 0) - vload(before, group * n + j, 0)
            if any_lane(delta != np.float32(0)):
                vstore(moved, group * n + j, 0, delta)
                count += 1
                moves[group, count] = j
        moves[group, 0] = count


@jit
def row_sums(a, b, columns, out):  # type: ignore[no-untyped-def]
    """``out[row] = sum_j a[j] * b[j]`` of arrays in the lane form."""
    for group in range(a.shape[0] // columns):
        total = spread(np.float32(0))
        for j in range(group * columns, (group + 1) * columns):
            total = fma(vload(a, j, 0), vload(b, j, 0), total)
        vstore_flat(out, group * VEC, total)


@jit
def weighted_squares(a, weights, columns, out):  # type: ignore[no-untyped-def]
    """``out[row] = sum_j weights[j] * a[j]**2`` of an array in the lane form."""
    for group in range(a.shape[0] // columns):
        total = spread(np.float32(0))
        for j in range(columns):
            v = vload(a, group * columns + j, 0)
            total = fma(v * v, spread(weights[j]), total)
        vstore_flat(out, group * VEC, total)


@jit
def cholesky(a):  # type: ignore[no-untyped-def]
    """The upper factor R, a = R^T R, of a symmetric float64 [n, n], in place (what lies below the diagonal stays).

    Returns whether it exists: False at the first pivot that is not positive.
    """
    n = a.shape[0]
    for first in range(0, n, 8):
        last = min(first + 8, n)
        for k in range(first, last):
            pivot = a[k, k]
            if not pivot > 0.0:
                return False
            root = np.sqrt(pivot)
            for j in range(k, n):
                a[k, j] /= root
            for i in range(k + 1, last):
                f = a[k, i]
                for j in range(i, n):
                    a[i, j] -= f * a[k, j]
        if last - first == 8:
            _subtract_eight(a, first, last)
    return True


@jit
def _subtract_eight(a, first, last):  # type: ignore[no-untyped-def]
    """What eight finished rows take from those below: one pass over memory instead of eight."""
    n = a.shape[0]
    r0, r1, r2, r3 = a[first], a[first + 1], a[first + 2], a[first + 3]
    r4, r5, r6, r7 = a[first + 4], a[first + 5], a[first + 6], a[first + 7]
    for i in range(last, n):
        row = a[i]
        f0, f1, f2, f3 = r0[i], r1[i], r2[i], r3[i]
        f4, f5, f6, f7 = r4[i], r5[i], r6[i], r7[i]
        for j in range(i, n):
            high = f0 * r0[j] + f1 * r1[j] + f2 * r2[j] + f3 * r3[j]
            low = f4 * r4[j] + f5 * r5[j] + f6 * r6[j] + f7 * r7[j]
            row[j] -= high + low
