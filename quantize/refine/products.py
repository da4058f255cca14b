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
    """Return a matrix [rows, columns] as float32 [columns / 4, rows, 4], as ``add_product`` reads it."""
    rows, columns = matrix.shape
    quads = np.asarray(matrix, np.float32).reshape(rows, columns // QUAD, QUAD).transpose(1, 0, 2)
    return np.ascontiguousarray(quads)


def to_lanes(rows: NDArray[Any]) -> NDArray[Any]:
    """Return rows [n, columns] in the lane form: [groups * columns, VEC], a group of ``VEC`` rows after the other, with
    zeros in the place of rows that the last group lacks. A column of a group is a line of the cache.

    Example:
        >>> import numpy as np
        >>> from quantmill.quantize.refine.products import from_lanes, to_lanes
        >>> rows = np.arange(6.0).reshape(2, 3)
        >>> to_lanes(rows)[:, :3].tolist()  # lanes of rows that are not there hold zeros
        [[0.0, 3.0, 0.0], [1.0, 4.0, 0.0], [2.0, 5.0, 0.0]]
        >>> from_lanes(to_lanes(rows), 2, 3).tolist()
        [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    """
    n, columns = rows.shape
    if n % VEC:
        rows = np.concatenate([rows, np.zeros((-n % VEC, columns), rows.dtype)])
    return np.ascontiguousarray(rows.reshape(-1, VEC, columns).transpose(0, 2, 1)).reshape(-1, VEC)


def from_lanes(lanes: NDArray[Any], n: int, columns: int) -> NDArray[Any]:
    """Return an array in the lane form as rows [n, columns]; see ``to_lanes``."""
    rows = np.ascontiguousarray(lanes.reshape(-1, columns, VEC).transpose(0, 2, 1)).reshape(-1, columns)
    return rows[:n]


@jit
def add_product(packed, first, n, source, start, end, target):  # type: ignore[no-untyped-def]
    """Add a product to columns: ``target[j - start] += sum_k matrix[first + k, j] * source[k]`` for k < ``n`` and
    ``start`` <= j < ``end``.

    Args:
        packed: the matrix as ``pack`` gives it.
        first, n: the matrix's rows that take part.
        source, target: ``Columns``.
        start, end: the matrix's columns that take part; multiples of ``QUAD``.
    """
    out = target.values
    for quad in range(start // 4, end // 4):
        column = target.at + 4 * quad - start
        for group in range(source.values.shape[0] // source.width):
            at, to = group * source.width + source.at, group * target.width + column
            s0, s1, s2, s3 = vload(out, to, 0), vload(out, to + 1, 0), vload(out, to + 2, 0), vload(out, to + 3, 0)
            for k in range(n):
                v = vload(source.values, at + k, 0)
                s0 = fma(v, spread(packed[quad, first + k, 0]), s0)
                s1 = fma(v, spread(packed[quad, first + k, 1]), s1)
                s2 = fma(v, spread(packed[quad, first + k, 2]), s2)
                s3 = fma(v, spread(packed[quad, first + k, 3]), s3)
            vstore(out, to, 0, s0)
            vstore(out, to + 1, 0, s1)
            vstore(out, to + 2, 0, s2)
            vstore(out, to + 3, 0, s3)


@jit
def add_moves(packed, first, n, moves, start, end, target):  # type: ignore[no-untyped-def]
    """Do as ``add_product``, with the columns that moved alone: ``moves`` are of ``n`` columns from ``first`` on."""
    out = target.values
    for quad in range(start // 4, end // 4):
        column = target.at + 4 * quad - start
        for group in range(moves.moved.shape[0]):
            count = moves.moved[group, 0]
            if count == 0:
                continue
            to = group * target.width + column
            s0, s1, s2, s3 = vload(out, to, 0), vload(out, to + 1, 0), vload(out, to + 2, 0), vload(out, to + 3, 0)
            for i in range(1, count + 1):
                k = moves.moved[group, i]
                v = vload(moves.values, group * n + k, 0)
                s0 = fma(v, spread(packed[quad, first + k, 0]), s0)
                s1 = fma(v, spread(packed[quad, first + k, 1]), s1)
                s2 = fma(v, spread(packed[quad, first + k, 2]), s2)
                s3 = fma(v, spread(packed[quad, first + k, 3]), s3)
            vstore(out, to, 0, s0)
            vstore(out, to + 1, 0, s1)
            vstore(out, to + 2, 0, s2)
            vstore(out, to + 3, 0, s3)


@jit
def find_moves(now, before, n, moves):  # type: ignore[no-untyped-def]
    """Fill ``moves`` with how far ``n`` columns moved.

    Args:
        now: ``Columns``, the columns as they are.
        before: float32 [groups * n, VEC], as they were.
        n: how many they are.
        moves: ``Moves``, written.
    """
    for group in range(moves.moved.shape[0]):
        count = 0
        for j in range(n):
            delta = vload(now.values, group * now.width + now.at + j, 0) - vload(before, group * n + j, 0)
            if any_lane(delta != np.float32(0)):
                vstore(moves.values, group * n + j, 0, delta)
                count += 1
                moves.moved[group, count] = j
        moves.moved[group, 0] = count


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
    """Replace a symmetric float64 [n, n] by its upper factor R, a = R^T R; what lies below the diagonal stays.

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
    """Subtract from the rows below what eight finished rows take, in one pass over memory instead of eight."""
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
