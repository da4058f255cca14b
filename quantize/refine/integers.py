"""Products of wide blocks in whole numbers: exact in any order, so that every processor gives the same bytes, and
several times quicker than floats where one has matrix units (AMX).

Errors and matrix become two digits of base 256 each, -128 to 127, under a scale for each row and panel of columns, and
for each column of the matrix. The product of the lower digits is left out: it is below the rounding of the rest.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.cgutils import get_or_insert_function
from numpy.typing import NDArray

from ..kernels.base import intrinsic, jit
from ..kernels.simd import VEC, spread, to_float, vabs, vload, vmax, vnearest, vstore, where
from .columns import PANEL
from .products import TILE, fma, lane_row, new_lanes, spread_scalar

STEP = 64  # columns that a matrix unit takes at a time
_LARGEST = 32512  # 127 * 256: its upper digit is 127
_BYTE, _WORD, _LONG = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_TILES = bytes([1] + [0] * 15) + bytes([64, 0] * 8 + [0] * 16) + bytes([16] * 8 + [0] * 8)  # eight of 16 x 64 bytes


class Digits(NamedTuple):
    """A matrix [rows, columns] in digits.

    Args:
        tiles: int8 [columns / TILE, rows / STEP, 2, TILE, STEP], upper and lower digits, as matrix units take them.
        pairs: int32 [columns / TILE, rows, TILE], the lower digit in the upper half, the upper in the lower, as other
            processors take them; one of the two is empty.
        scales: float32 [columns], of what is multiplied.
    """

    tiles: Any
    pairs: Any
    scales: Any


class ErrorDigits(NamedTuple):
    """Errors in digits, in the lane form.

    Args:
        tiles: int32 [groups * columns / 4, 2, VEC], the upper and the lower digits of four columns.
        pairs: int32 [groups * columns, VEC], in the lower half the whole number, in the upper half its upper digit; one
            of the two is empty.
        scales: float32 [groups * columns / PANEL, VEC].
        width: columns.
        sums, totals: int32 [4 * TILE, VEC] and float32 [2 * PANEL, VEC], scratch.
    """

    tiles: Any
    pairs: Any
    scales: Any
    width: int
    sums: Any
    totals: Any


@cache
def matrix_units() -> bool:
    """Return whether this process may use AMX; the first call asks Linux for leave."""
    from llvmlite import binding

    if not sys.platform.startswith("linux") or not binding.get_host_cpu_features().get("amx-int8"):
        return False
    ask, permission, tile_data = 158, 0x1023, 18  # arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return bool(ctypes.CDLL(None).syscall(ask, permission, tile_data) == 0)


def digits_of(matrix: NDArray[Any], units: bool) -> Digits:
    """Return a matrix [rows, columns] in digits, with rows of zeros up to whole panels.

    Args:
        matrix: columns are a multiple of ``TILE``.
        units: for matrix units, or for other processors.
    """
    matrix = np.pad(matrix, ((0, -len(matrix) % PANEL), (0, 0)))
    rows, columns = matrix.shape
    largest = np.abs(matrix).max(axis=0)
    scales = np.where(largest > 0, largest, 1) / _LARGEST
    whole = np.rint(matrix / scales.astype(matrix.dtype)).astype(np.int32)
    upper = whole + 128 >> 8
    lower = whole - (upper << 8)
    tiles, pairs = np.zeros((0, 0, 2, TILE, STEP), np.int8), np.zeros((0, 0, TILE), np.int32)
    if units:
        both = np.stack([upper.astype(np.int8), lower.astype(np.int8)])
        tiles = np.ascontiguousarray(
            both.reshape(2, rows // STEP, STEP, columns // TILE, TILE).transpose(3, 1, 0, 4, 2)
        )
    else:
        both = lower << 16 | upper & 0xFFFF
        pairs = np.ascontiguousarray(both.reshape(rows, columns // TILE, TILE).transpose(1, 0, 2))
    return Digits(tiles, pairs, scales.astype(np.float32))


def new_error_digits(groups: int, width: int, units: bool) -> ErrorDigits:
    """Return digits of ``groups`` of rows of zeros, of whole panels."""
    width += -width % PANEL
    tiles = new_lanes(groups * width // 2 if units else 0, np.int32).reshape(-1, 2, VEC)
    pairs = new_lanes(0 if units else groups * width, np.int32)
    scales, totals = new_lanes(groups * width // PANEL), new_lanes(2 * PANEL)
    return ErrorDigits(tiles, pairs, scales, width, new_lanes(4 * TILE, np.int32), totals)


@jit
def set_digits(errors, n, digits):  # type: ignore[no-untyped-def]
    """Take the errors of ``n`` columns, which are a panel and are ``Columns``, into ``ErrorDigits``."""
    for group in range(errors.values.shape[0] // errors.width):
        base, source = group * digits.width + errors.at, group * errors.width + errors.at
        largest = spread(np.float32(0))
        for j in range(n):
            largest = vmax(largest, vabs(vload(errors.values, source + j, 0)))
        none = largest == np.float32(0)
        vstore(digits.scales, base // PANEL, 0, where(none, np.float32(0), largest / np.float32(_LARGEST)))
        inverse = where(none, np.float32(0), np.float32(_LARGEST) / largest)
        for j in range(0, n, 4):
            uppers, lowers = spread(np.int32(0)), spread(np.int32(0))
            for k in range(4):
                whole = vnearest(vload(errors.values, source + j + k, 0) * inverse)
                upper = (whole + np.int32(128)) >> np.int32(8)
                if digits.pairs.shape[0]:
                    vstore(digits.pairs, base + j + k, 0, (whole & np.int32(0xFFFF)) | (upper << np.int32(16)))
                else:
                    lower = whole - (upper << np.int32(8))
                    uppers = uppers | ((upper & np.int32(255)) << np.int32(8 * k))
                    lowers = lowers | ((lower & np.int32(255)) << np.int32(8 * k))
            if digits.tiles.shape[0]:
                _store_word(digits.tiles, 2 * ((base + j) // 4), uppers)
                _store_word(digits.tiles, 2 * ((base + j) // 4) + 1, lowers)


@intrinsic
def _store_word(typingctx: Any, array: Any, row: Any, value: Any) -> Any:
    """``array.reshape(-1, VEC)[row] = value`` of int32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = lane_row(context, builder, sig.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(place, args[2].type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


def _amx(builder: Any, name: str, *args: Any) -> Any:
    kind = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
    return builder.call(get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), args)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, offset: Any) -> Any:
    """Return the address of the byte at an offset, in elements, of a contiguous array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), _BYTE.as_pointer())


@intrinsic
def _configure(typingctx: Any, on: Any) -> Any:
    """Let the tiles of this thread be of 16 x 64 bytes, or free."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if "+amx-int8" in context.codegen()._tm_features:
            with builder.if_else(args[0]) as (begin, end):
                with begin:
                    config = cgutils.global_constant(builder, "tiles", cgutils.make_bytearray(_TILES))
                    _amx(builder, "ldtilecfg", builder.bitcast(config, _BYTE.as_pointer()))
                with end:
                    _amx(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(types.boolean), codegen


@intrinsic
def _tile_sums(typingctx: Any, matrix: Any, first: Any, errors: Any, one: Any, other: Any, out: Any) -> Any:
    """Sum over a panel by matrix units: ``out`` int32 [4, TILE, VEC] gets, for one group and another, the products of
    upper digits and those of upper with lower ones. ``first`` is the offset of the panel's first tile, ``one`` and
    ``other`` of the groups' first lines."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if "+amx-int8" not in context.codegen()._tm_features:
            return context.get_dummy_value()
        tile = [ir.Constant(_BYTE, i) for i in range(8)]
        near, far, line = _LONG(STEP), _LONG(2 * 4 * VEC), _LONG(4 * VEC)
        upper, lower, uppers, lowers = tile[4:]
        for i in range(4):
            _amx(builder, "tilezero", tile[i])
        with cgutils.for_range(builder, _LONG(PANEL // STEP)) as loop:
            at = builder.add(args[1], builder.mul(loop.index, _LONG(2 * TILE * STEP)))
            for i, digit in enumerate((upper, lower)):
                place = builder.add(at, _LONG(i * TILE * STEP))
                _amx(builder, "tileloadd64", digit, _pointer(context, builder, sig.args[0], args[0], place), near)
            for group in (0, 1):
                k = builder.add(args[3 + group], builder.mul(loop.index, _LONG(2 * VEC * STEP // 4)))
                for i, digit in enumerate((uppers, lowers)):
                    place = builder.add(k, _LONG(i * VEC))
                    _amx(builder, "tileloadd64", digit, _pointer(context, builder, sig.args[2], args[2], place), far)
                _amx(builder, "tdpbssd", tile[2 * group], upper, uppers)
                _amx(builder, "tdpbssd", tile[2 * group + 1], upper, lowers)
                _amx(builder, "tdpbssd", tile[2 * group + 1], lower, uppers)
        for i in range(4):
            place = _pointer(context, builder, sig.args[5], args[5], _LONG(i * TILE * VEC))
            _amx(builder, "tilestored64", tile[i], place, line)
        return context.get_dummy_value()

    i = types.intp
    return types.void(matrix, i, errors, i, i, out), codegen


def _pair_product(context: Any, builder: Any, a: Any, b: Any) -> Any:
    """Return in each lane the sum of the products of the lower and of the upper halves: vpmaddwd."""
    features = context.codegen()._tm_features
    size, name = next(
        ((n, name) for n, feature, name in ((32, "+avx512bw", "avx512.pmaddw.d.512"), (16, "+avx2", "avx2.pmadd.wd"))
         if feature in features), (0, ""),
    )  # fmt: skip
    lanes = ir.VectorType(_WORD, VEC)
    if not size:
        sixteen = ir.Constant(lanes, [16] * VEC)
        low = [builder.ashr(builder.shl(x, sixteen), sixteen) for x in (a, b)]
        return builder.add(builder.mul(*low), builder.mul(builder.ashr(a, sixteen), builder.ashr(b, sixteen)))
    half, whole = ir.VectorType(ir.IntType(16), size), ir.VectorType(_WORD, size // 2)
    function = get_or_insert_function(builder.module, ir.FunctionType(whole, [half, half]), f"llvm.x86.{name}")
    parts = []
    for first in range(0, VEC, size // 2):
        order = ir.Constant(ir.VectorType(_WORD, size // 2), [*range(first, first + size // 2)])
        x, y = (builder.bitcast(builder.shuffle_vector(v, v, order), half) for v in (a, b))
        parts.append(builder.call(function, [x, y]))
    if len(parts) == 1:
        return parts[0]
    return builder.shuffle_vector(*parts, ir.Constant(ir.VectorType(_WORD, VEC), [*range(VEC)]))


@intrinsic
def _pair_sums(typingctx: Any, matrix: Any, at: Any, errors: Any, row: Any, out: Any) -> Any:
    """Sum over a panel: ``out`` int32 [TILE, VEC] gets the products of pairs. ``at`` is the offset of the panel's first
    pair, ``row`` the errors' first line."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = ir.VectorType(_WORD, VEC)
        sums = [cgutils.alloca_once_value(builder, ir.Constant(lanes, [0] * VEC)) for _ in range(TILE)]
        source = builder.bitcast(lane_row(context, builder, sig.args[2], args[2], args[3]), lanes.as_pointer())
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        with cgutils.for_range(builder, _LONG(PANEL)) as loop:
            pairs = builder.load(builder.gep(source, [loop.index]), align=4)
            first = builder.add(args[1], builder.mul(loop.index, _LONG(TILE)))
            for c, total in enumerate(sums):
                factors = spread_scalar(builder, builder.load(builder.gep(data, [builder.add(first, _LONG(c))])))
                product = _pair_product(context, builder, pairs, factors)
                builder.store(builder.add(builder.load(total), product), total)
        target = builder.bitcast(lane_row(context, builder, sig.args[4], args[4], _LONG(0)), lanes.as_pointer())
        for c, total in enumerate(sums):
            builder.store(builder.load(total), builder.gep(target, [_LONG(c)]), align=4)
        return context.get_dummy_value()

    i = types.intp
    return types.void(matrix, i, errors, i, out), codegen


@jit
def add_whole(digits, errors, first, last, start, end, target):  # type: ignore[no-untyped-def]
    """Add a product to columns: ``target[j - start] += sum_k matrix[k, j] * errors[k]`` for ``first`` <= k < ``last``
    and ``start`` <= j < ``end``, at most a panel.

    Args:
        digits: ``Digits`` of the matrix.
        errors: ``ErrorDigits``.
        first, last: multiples of ``PANEL``.
        start, end: multiples of ``TILE``.
        target: ``Columns``.
    """
    units, groups = digits.tiles.shape[0] > 0, errors.scales.shape[0] * PANEL // errors.width
    n = end - start
    sums, totals = errors.sums, errors.totals
    if units:
        _configure(True)
    for group in range(0, groups, 2):
        both = min(2, groups - group)  # of the last alone, the sums of another are of itself
        one, other = group * errors.width, (group + both - 1) * errors.width
        for c in range(2 * n):
            vstore(totals, c, 0, spread(np.float32(0)))
        for k in range(first, last, PANEL):
            for column in range(start, end, TILE):
                tile = column // TILE
                if units:
                    at = (tile * digits.tiles.shape[1] + k // STEP) * (2 * TILE * STEP)
                    _tile_sums(digits.tiles, at, errors.tiles, (one + k) // 2 * VEC, (other + k) // 2 * VEC, sums)
                for which in range(both):
                    to = which * n + column - start
                    scale = vload(errors.scales, (one + which * errors.width + k) // PANEL, 0)
                    if not units:
                        at = (tile * digits.pairs.shape[1] + k) * TILE
                        _pair_sums(digits.pairs, at, errors.pairs, one + which * errors.width + k, sums)
                    for c in range(TILE):
                        whole = vload(sums, c, 0)
                        if units:
                            at = 2 * TILE * which + c
                            whole = (vload(sums, at, 0) << np.int32(8)) + vload(sums, at + TILE, 0)
                        vstore(totals, to + c, 0, fma(to_float(whole), scale, vload(totals, to + c, 0)))
        for which in range(both):
            to = (group + which) * target.width + target.at
            for c in range(n):
                scale = spread(digits.scales[start + c] * np.float32(256))
                total = fma(vload(totals, which * n + c, 0), scale, vload(target.values, to + c, 0))
                vstore(target.values, to + c, 0, total)
    if units:
        _configure(False)
