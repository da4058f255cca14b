"""Matrix products in the lane form: rows of the weight are lanes, so every lane's sum runs over the columns in order
and the result depends on neither the tile nor the threads. The multiply-adds are fused by request, one rounding each,
which every CPU does alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.cgutils import get_or_insert_function
from numpy.typing import NDArray

from ..kernels.base import intrinsic, jit
from ..kernels.contract import F32_ARRAY
from ..kernels.simd import F32V, VEC, any_lane, spread, vload, vload_flat, vstore, vstore_flat

SQUARE = 32  # columns whose errors meet at once; farther ones get them as products
TILE = 16  # output columns at a time: with VEC lanes each, what the registers of AVX-512 hold beside one more
_FEW = 4  # of those, what other registers hold


def spread_scalar(builder: Any, scalar: Any) -> Any:
    """Set all lanes to an LLVM scalar."""
    vector, word = ir.VectorType(scalar.type, VEC), ir.IntType(32)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, word(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(word, VEC), [0] * VEC))


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` of three F32V, rounded once."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.call(_fused(builder), args)

    return F32V(F32V, F32V, F32V), codegen


def _fused(builder: Any) -> Any:
    vector = ir.VectorType(ir.FloatType(), VEC)
    return get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{VEC}f32")


def _add_rows(context: Any, builder: Any, tile: Any, source: Any, out: Any, count: Any, row_of: Any) -> None:
    """Emit ``out[c] += sum_i tile[row_of(i), c] * source[row_of(i)]``, i < ``count``; the pointers are to the tile's
    first row, and to columns of a group in the lane form. The sum runs over i in order, whatever the registers."""
    vector, word = ir.VectorType(ir.FloatType(), VEC), ir.IntType(64)
    source, out = (builder.bitcast(pointer, vector.as_pointer()) for pointer in (source, out))
    wide = "+avx512f" in context.codegen()._tm_features  # of the machine that will run it, numba's settings applied
    step = TILE if wide else _FEW
    for first in range(0, TILE, step):
        places = [builder.gep(out, [word(first + c)]) for c in range(step)]
        sums = [cgutils.alloca_once_value(builder, builder.load(place, align=4)) for place in places]
        with cgutils.for_range(builder, count) as loop:
            k = row_of(loop.index)
            v = builder.load(builder.gep(source, [k]), align=4)
            row = builder.gep(tile, [builder.mul(k, word(TILE))])
            for c, total in enumerate(sums):
                factor = spread_scalar(builder, builder.load(builder.gep(row, [word(first + c)])))
                builder.store(builder.call(_fused(builder), [v, factor, builder.load(total)]), total)
        for place, total in zip(places, sums, strict=True):
            builder.store(builder.load(total), place, align=4)


@intrinsic
def tile_product(
    typingctx: Any, packed: Any, tile: Any, row: Any, n: Any, source: Any, at: Any, out: Any, to: Any
) -> Any:
    """``out[to + c] += sum_k packed[tile, row + k, c] * source[at + k]``, k < ``n``, for the ``TILE`` columns c.

    Args:
        packed: a matrix as ``pack`` gives it.
        source, out: float32 in the lane form.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first = tile_row(context, builder, sig.args[0], *args[:3])
        source, out = (lane_row(context, builder, sig.args[i], args[i], args[i + 1]) for i in (4, 6))
        _add_rows(context, builder, first, source, out, args[3], lambda i: i)
        return context.get_dummy_value()

    i = types.intp
    return types.void(packed, i, i, i, source, i, out, i), codegen


@intrinsic
def tile_moves(
    typingctx: Any, packed: Any, tile: Any, row: Any, moved: Any, source: Any, at: Any, out: Any, to: Any
) -> Any:
    """Do as ``tile_product``, with some k alone: ``moved`` int32 has how many they are, and which."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first = tile_row(context, builder, sig.args[0], *args[:3])
        source, out = (lane_row(context, builder, sig.args[i], args[i], args[i + 1]) for i in (4, 6))
        data, word = context.make_array(sig.args[3])(context, builder, args[3]).data, ir.IntType(64)

        def entry(i: Any) -> Any:
            return builder.sext(builder.load(builder.gep(data, [i])), word)

        count = entry(word(0))
        _add_rows(context, builder, first, source, out, count, lambda i: entry(builder.add(i, word(1))))
        return context.get_dummy_value()

    i = types.intp
    return types.void(packed, i, i, moved, source, i, out, i), codegen


def tile_row(context: Any, builder: Any, kind: Any, array: Any, tile: Any, row: Any) -> Any:
    """Return the address of a row of a tile of a packed matrix."""
    struct = context.make_array(kind)(context, builder, array)
    rows = builder.extract_value(struct.shape, 1)
    return builder.gep(struct.data, [builder.mul(builder.add(builder.mul(tile, rows), row), ir.IntType(64)(TILE))])


def lane_row(context: Any, builder: Any, kind: Any, array: Any, row: Any) -> Any:
    """Return the address of a row of an array in the lane form."""
    struct = context.make_array(kind)(context, builder, array)
    return builder.gep(struct.data, [builder.mul(row, ir.IntType(64)(VEC))])


def pack(matrix: NDArray[Any]) -> F32_ARRAY:
    """Return a matrix [rows, columns] as float32 [columns / TILE, rows, TILE], as the products read it."""
    rows, columns = matrix.shape
    tiles = np.asarray(matrix, np.float32).reshape(rows, columns // TILE, TILE).transpose(1, 0, 2)
    return np.ascontiguousarray(tiles)


def unpack(packed: F32_ARRAY) -> F32_ARRAY:
    """Return a matrix that was packed."""
    return np.ascontiguousarray(packed.transpose(1, 0, 2)).reshape(packed.shape[1], -1)


def new_lanes(n: int, dtype: Any = np.float32) -> NDArray[Any]:
    """Return zeros [n, VEC] that start at a line of the cache: a vector across two lines takes twice the time."""
    line, size = 64, n * VEC * np.dtype(dtype).itemsize
    raw = np.zeros(size + line, np.uint8)
    start = -raw.ctypes.data % line
    lanes: NDArray[Any] = raw[start : start + size].view(dtype).reshape(n, VEC)
    return lanes


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
    lanes = new_lanes(len(rows) // VEC * columns, rows.dtype)
    lanes.reshape(-1, columns, VEC)[:] = rows.reshape(-1, VEC, columns).transpose(0, 2, 1)
    return lanes


def from_lanes(lanes: NDArray[Any], n: int, columns: int) -> NDArray[Any]:
    """Return an array in the lane form as rows [n, columns]; see ``to_lanes``."""
    rows = np.ascontiguousarray(lanes.reshape(-1, columns, VEC).transpose(0, 2, 1)).reshape(-1, columns)
    return rows[:n]


def part_of(columns: Any, n: int) -> NDArray[Any]:
    """Return ``n`` of the ``Columns``, not a copy, as ``from_lanes`` takes them."""
    part: NDArray[Any] = columns.values.reshape(-1, columns.width, VEC)[:, columns.at : columns.at + n]
    return part


@jit
def add_product(packed, first, n, source, start, end, target):  # type: ignore[no-untyped-def]
    """Add a product to columns: ``target[j - start] += sum_k matrix[first + k, j] * source[k]`` for k < ``n`` and
    ``start`` <= j < ``end``.

    Args:
        packed: the matrix as ``pack`` gives it.
        first, n: the matrix's rows that take part.
        source, target: ``Columns``.
        start, end: the matrix's columns that take part; multiples of ``TILE``.
    """
    for tile in range(start // TILE, end // TILE):
        column = target.at + TILE * tile - start
        for group in range(source.values.shape[0] // source.width):
            at, to = group * source.width + source.at, group * target.width + column
            tile_product(packed, tile, first, n, source.values, at, target.values, to)


@jit
def squared_products(factor, diagonal, errors, columns, enough, out):  # type: ignore[no-untyped-def]
    """``out[row] = sum_j (sum_{i<=j} factor[i, j] * errors[i] * diagonal[j])**2``, from the last columns on, where the
    most is; of a group of rows that have all passed ``enough``, no more is added.

    Args:
        factor: upper triangular, packed.
        diagonal: float32 [columns].
        errors: float32 [groups * columns, VEC].
        columns: how many.
        enough, out: float32 [groups * VEC].
    """
    products = np.empty((TILE, VEC), np.float32)
    for group in range(errors.shape[0] // columns):
        total, limit = spread(np.float32(0)), vload_flat(enough, group * VEC)
        for back in range(columns // TILE):
            tile = columns // TILE - 1 - back
            for c in range(TILE):
                vstore(products, c, 0, spread(np.float32(0)))
            tile_product(factor, tile, 0, TILE * (tile + 1), errors, group * columns, products, 0)
            for c in range(TILE):
                v = vload(products, c, 0) * diagonal[TILE * tile + c]
                total = fma(v, v, total)
            if not any_lane(total <= limit):
                break
        vstore_flat(out, group * VEC, total)


@jit
def gram(a):  # type: ignore[no-untyped-def]
    """Return a times its transpose, a float64 [n, n] that is upper triangular."""
    n, turned = a.shape[0], np.ascontiguousarray(a.T)
    product = np.zeros((n, n))
    for i in range(n):
        for k in range(i, n):
            f = a[i, k]
            for j in range(k + 1):
                product[i, j] += f * turned[k, j]
    return product


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
