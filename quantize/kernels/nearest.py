"""The nearest of a point's neighbours, eight neighbours to an instruction.

The C sums ``w[i] * diff * diff`` over the coordinates of each neighbour. A coordinate has three (or eight) values, so
the terms are tables of three (or eight) floats per coordinate, computed once per point with the C's operations; a
neighbour's distance is then one table look-up and one addition per coordinate, in the C's order, and the look-up is
one instruction (``vpermilps``, ``vpermps``) for eight neighbours. The first minimum wins, as in the C.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .base import intrinsic

_F32, _I16, _I32 = ir.FloatType(), ir.IntType(16), ir.IntType(32)
_F8, _I8x, _H8 = (ir.VectorType(item, 8) for item in (_F32, _I32, _I16))


def _ints(*values: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(_I32, len(values)), list(values))


def _spread(builder: Any, scalar: Any) -> Any:
    one = builder.insert_element(ir.Constant(ir.VectorType(scalar.type, 8), ir.Undefined), scalar, _I32(0))
    return builder.shuffle_vector(one, one, _ints(*[0] * 8))


def _look_up(context: Any, builder: Any, table: Any, codes: Any, wide: bool) -> Any:
    """``table[codes & 7]`` (``wide``) or ``table[codes & 3]`` of eight codes, whatever their higher bits."""
    features = context.codegen()._tm_features  # of the machine that will run it, numba's settings applied
    if "+avx2" in features:
        if wide:
            permute = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_F8, [_F8, _I8x]), "llvm.x86.avx2.permps"
            )
        else:
            permute = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_F8, [_F8, _I8x]), "llvm.x86.avx.vpermilvar.ps.256"
            )
        return builder.call(permute, [table, codes])
    codes = builder.and_(codes, _ints(*[7 if wide else 3] * 8))
    found = ir.Constant(_F8, ir.Undefined)
    for lane in range(8):
        value = builder.extract_element(table, builder.extract_element(codes, _I32(lane)))
        found = builder.insert_element(found, value, _I32(lane))
    return found


def _first_minimum(context: Any, builder: Any, tables: list[Any], bits: int, near: Any, slot: Any) -> Any:
    """The packed neighbour with the least sum of table entries, the first of equals. ``near`` is its data pointer."""
    octets = builder.and_(slot, _I32(255))
    first = builder.zext(builder.lshr(slot, _I32(8)), ir.IntType(64))
    start = builder.gep(near, [builder.shl(first, ir.IntType(64)(3))])
    vectors = builder.bitcast(start, _H8.as_pointer())

    def distances(octet: Any) -> Any:
        codes = builder.zext(builder.load(builder.gep(vectors, [octet]), align=2), _I8x)
        total = None
        for i, table in enumerate(tables):
            shifted = builder.lshr(codes, _ints(*[bits * i] * 8)) if i else codes
            term = _look_up(context, builder, table, shifted, wide=bits == 3)
            total = term if total is None else builder.fadd(total, term)
        return total

    best = cgutils.alloca_once_value(builder, distances(_I32(0)))
    place = cgutils.alloca_once_value(builder, _I32(0))
    single = builder.icmp_signed("==", octets, _I32(1))
    with builder.if_else(single) as (one, more):
        with one:
            least = _least(builder, builder.load(best))
            builder.store(_first_set(builder, builder.fcmp_ordered("==", builder.load(best), least)), place)
        with more:
            best_octet = cgutils.alloca_once_value(builder, _ints(*[0] * 8))
            with cgutils.for_range(builder, octets, start=_I32(1)) as loop:
                total = distances(loop.index)
                less = builder.fcmp_ordered("<", total, builder.load(best))
                builder.store(builder.select(less, total, builder.load(best)), best)
                octet = _spread(builder, loop.index)
                builder.store(builder.select(less, octet, builder.load(best_octet)), best_octet)
            places = builder.or_(builder.shl(builder.load(best_octet), _ints(*[3] * 8)), _ints(*range(8)))
            equal = builder.fcmp_ordered("==", builder.load(best), _least(builder, builder.load(best)))
            places = builder.select(equal, places, _ints(*[0x7FFF] * 8))
            for step in (4, 2, 1):
                other = builder.shuffle_vector(places, places, _ints(*[lane ^ step for lane in range(8)]))
                places = builder.select(builder.icmp_signed("<", other, places), other, places)
            none = builder.icmp_signed("==", builder.extract_element(places, _I32(0)), _I32(0x7FFF))  # not-a-numbers
            builder.store(builder.select(none, _I32(0), builder.extract_element(places, _I32(0))), place)
    return builder.zext(builder.load(builder.gep(start, [builder.load(place)])), _I32)


def _least(builder: Any, vector: Any) -> Any:
    """The least of eight floats, in all eight places."""
    for step in (4, 2, 1):
        other = builder.shuffle_vector(vector, vector, _ints(*[lane ^ step for lane in range(8)]))
        vector = builder.select(builder.fcmp_ordered("<", other, vector), other, vector)
    return vector


def _first_set(builder: Any, mask: Any) -> Any:
    """The number of the first true of eight; 7 if there is none (where all are not-a-numbers)."""
    bits = builder.or_(builder.zext(builder.bitcast(mask, ir.IntType(8)), _I32), _I32(0x80))
    return builder.cttz(bits, ir.IntType(1)(1))


def _data(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    return context.make_array(array_type)(context, builder, array).data


def _terms(builder: Any, q: Any, x: Any, w: Any) -> Any:
    diff = builder.fsub(q, x)
    return builder.fmul(builder.fmul(w, diff), diff)


@intrinsic
def nearest_of_three(typingctx: Any, x: Any, w: Any, at: Any, q0: Any, q1: Any, q2: Any, near: Any, slot: Any) -> Any:
    """The packed neighbour (2 bits a coordinate) nearest to eight floats, weighted: int32.

    Args:
        x, w: C-contiguous float32 arrays; point and weights are the eight floats from flat index ``at``.
        q0, q1, q2: float32, what the coordinate values 0, 1 and 2 stand for, the scale multiplied in.
        near, slot: the neighbours, as in ``codebooks.SearchableCodebook``.
    """
    signature = types.int32(x, w, types.intp, types.float32, types.float32, types.float32, near, types.int32)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = args[2]
        point, weight = (
            builder.load(
                builder.bitcast(builder.gep(_data(context, builder, sig.args[k], args[k]), [at]), _F8.as_pointer()),
                align=4,
            )
            for k in (0, 1)
        )
        t0, t1, t2 = (_terms(builder, _spread(builder, args[k]), point, weight) for k in (3, 4, 5))
        tables = []
        halves = []
        for pair in ((0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)):  # vunpcklps, vunpckhps
            halves.append([builder.shuffle_vector(a, b, _ints(*pair)) for a, b in ((t0, t1), (t2, t2))])
        quads = [  # [table i | table i + 4] for i = 0 .. 3
            builder.shuffle_vector(a, b, _ints(*lanes))
            for a, b in halves
            for lanes in ((0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15))
        ]
        for low in (0, 4):
            for quad in quads:
                tables.append(builder.shuffle_vector(quad, quad, _ints(*[low + i for i in (0, 1, 2, 3, 0, 1, 2, 3)])))
        return _first_minimum(context, builder, tables, 2, _data(context, builder, sig.args[6], args[6]), args[7])

    return signature, codegen


@intrinsic
def nearest_of_eight(typingctx: Any, x: Any, w: Any, at: Any, scale: Any, near: Any, slot: Any) -> Any:
    """The packed neighbour (3 bits a coordinate) nearest to four floats, weighted: int32.

    Arguments as of ``nearest_of_three``; the coordinate value ``l`` stands for ``scale * (2 * l + 1)``.
    """
    signature = types.int32(x, w, types.intp, types.float32, near, types.int32)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        odd = ir.Constant(_F8, [float(2 * level + 1) for level in range(8)])
        q = builder.fmul(_spread(builder, args[3]), odd)
        tables = []
        for i in range(4):
            at = builder.add(args[2], ir.IntType(64)(i))
            point, weight = (
                _spread(builder, builder.load(builder.gep(_data(context, builder, sig.args[k], args[k]), [at])))
                for k in (0, 1)
            )
            tables.append(_terms(builder, q, point, weight))
        return _first_minimum(context, builder, tables, 3, _data(context, builder, sig.args[4], args[4]), args[5])

    return signature, codegen
