"""A vector of lanes as a value inside compiled code: ``F32V`` (16 float32), ``I32V`` (16 int32) and ``MaskV``.

With it a search reads as the C it must equal, one variable for one variable, while its sums stay in registers: the
loop vectorizer would keep them in memory, since the lane loop must be the inner one. Operators work lane by lane,
scalars spread to all lanes, and nothing is reassociated or contracted. Only the compiler sees these types.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import lower_builtin, models, register_model, type_callable

from .base import intrinsic

VEC = 16  # lanes in a vector: two AVX registers, one of AVX-512; with 32 the search's sums spill


class _Vector(types.Type):  # type: ignore[misc]
    """The numba type of a vector; ``item`` is its LLVM element."""

    def __init__(self, name: str, item: ir.Type) -> None:
        self.item = item
        super().__init__(name=name)


F32V = _Vector("F32V", ir.FloatType())
I32V = _Vector("I32V", ir.IntType(32))
MaskV = _Vector("MaskV", ir.IntType(1))


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: _Vector) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(fe_type.item, VEC))


def _constant(item: ir.Type, value: Any) -> ir.Constant:
    return ir.Constant(ir.VectorType(item, VEC), [value] * VEC)


def _spread(builder: Any, scalar: Any) -> Any:
    """Set all lanes to an LLVM scalar."""
    vector = ir.VectorType(scalar.type, VEC)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), _constant(ir.IntType(32), 0))


def _as_vector(context: Any, builder: Any, value: Any, have: Any, want: _Vector) -> Any:
    if isinstance(have, _Vector):
        return value
    scalar = types.float32 if want is F32V else types.int32
    return _spread(builder, context.cast(builder, value, have, scalar))


def _common(a: Any, b: Any) -> _Vector | None:
    """Return the vector type of a binary operation, or None. A scalar takes the vector's element type."""
    for x, y in ((a, b), (b, a)):
        if isinstance(x, _Vector):
            scalar = types.Number if x is F32V else types.Integer
            return x if x is y or isinstance(y, scalar) else None
    return None


def _binary(op: Callable[..., Any], emit: dict[_Vector, Callable[..., Any]], result: _Vector | None = None) -> None:
    def typer(context: Any) -> Any:
        def types_of(a: Any, b: Any) -> Any:
            vector = _common(a, b)
            return (result or vector) if vector in emit else None

        return types_of

    type_callable(op)(typer)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = _common(*sig.args)
        assert vector is not None
        a, b = (_as_vector(context, builder, v, t, vector) for v, t in zip(args, sig.args, strict=True))
        return emit[vector](builder, a, b)

    for a, b in ((_Vector, _Vector), (_Vector, types.Number), (types.Number, _Vector)):
        lower_builtin(op, a, b)(lower)


def _method(name: str, *arguments: Any) -> Callable[..., Any]:
    return lambda builder, a, b: getattr(builder, name)(*arguments, a, b)


_binary(operator.add, {F32V: _method("fadd"), I32V: _method("add")})
_binary(operator.sub, {F32V: _method("fsub"), I32V: _method("sub")})
_binary(operator.mul, {F32V: _method("fmul"), I32V: _method("mul")})
_binary(operator.truediv, {F32V: _method("fdiv")})
_binary(operator.and_, {I32V: _method("and_"), MaskV: _method("and_")})
_binary(operator.or_, {I32V: _method("or_"), MaskV: _method("or_")})
_binary(operator.xor, {I32V: _method("xor"), MaskV: _method("xor")})
_binary(operator.lshift, {I32V: _method("shl")})
_binary(operator.rshift, {I32V: _method("ashr")})
_ORDERED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
for _symbol, _op in _ORDERED.items():
    _binary(_op, {F32V: _method("fcmp_ordered", _symbol), I32V: _method("icmp_signed", _symbol)}, MaskV)
_binary(operator.ne, {F32V: _method("fcmp_unordered", "!="), I32V: _method("icmp_signed", "!=")}, MaskV)


def _unary(result: _Vector, argument: _Vector, emit: Callable[[Any, Any], Any]) -> Any:
    """Return an intrinsic that takes one vector."""

    @intrinsic
    def function(typingctx: Any, a: Any) -> Any:
        return result(argument), lambda context, builder, sig, args: emit(builder, args[0])

    return function


def _call(name: str) -> Callable[[Any, Any], Any]:
    def emit(builder: Any, a: Any) -> Any:
        function = get_or_insert_function(builder.module, ir.FunctionType(a.type, [a.type]), f"{name}.v{VEC}f32")
        return builder.call(function, [a])

    return emit


def _to(item: ir.Type, *steps: str) -> Callable[[Any, Any], Any]:
    def emit(builder: Any, a: Any) -> Any:
        return getattr(builder, steps[0])(a, ir.VectorType(item, VEC))

    return emit


def _half_bits(builder: Any, a: Any) -> Any:
    half = builder.fptrunc(a, ir.VectorType(ir.HalfType(), VEC))
    return builder.zext(builder.bitcast(half, ir.VectorType(ir.IntType(16), VEC)), ir.VectorType(ir.IntType(32), VEC))


def _from_half_bits(builder: Any, a: Any) -> Any:
    bits = builder.trunc(a, ir.VectorType(ir.IntType(16), VEC))
    return builder.fpext(builder.bitcast(bits, ir.VectorType(ir.HalfType(), VEC)), ir.VectorType(ir.FloatType(), VEC))


vabs = _unary(F32V, F32V, _call("llvm.fabs"))
vsqrt = _unary(F32V, F32V, _call("llvm.sqrt"))
vneg = _unary(F32V, F32V, lambda builder, a: builder.fneg(a))
vnot = _unary(MaskV, MaskV, lambda builder, a: builder.not_(a))
to_float = _unary(F32V, I32V, _to(ir.FloatType(), "sitofp"))
to_int = _unary(I32V, F32V, _to(ir.IntType(32), "fptosi"))  # towards zero
bits_of = _unary(I32V, F32V, _to(ir.IntType(32), "bitcast"))
from_bits = _unary(F32V, I32V, _to(ir.FloatType(), "bitcast"))
half_bits = _unary(I32V, F32V, _half_bits)  # IEEE half, round to nearest even
from_half_bits = _unary(F32V, I32V, _from_half_bits)


@intrinsic
def vnearest(typingctx: Any, a: Any) -> Any:
    """``nearest_int`` of ggml-quants.c in each lane: half to even, by adding 1.5 * 2**23, and its bits beyond 2**22."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        i32 = ir.IntType(32)
        moved = builder.fadd(args[0], _constant(ir.FloatType(), 12582912.0))
        bits = builder.bitcast(moved, ir.VectorType(i32, VEC))
        return builder.sub(builder.and_(bits, _constant(i32, 0x007FFFFF)), _constant(i32, 0x00400000))

    return I32V(F32V), codegen


@intrinsic
def any_lane(typingctx: Any, mask: Any) -> Any:
    """Return whether the mask is true in any lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word = builder.bitcast(args[0], ir.IntType(VEC))
        return builder.icmp_unsigned("!=", word, ir.Constant(ir.IntType(VEC), 0))

    return types.boolean(MaskV), codegen


@intrinsic
def where(typingctx: Any, mask: Any, a: Any, b: Any) -> Any:
    """``mask ? a : b`` in each lane; one of the two may be a scalar."""
    vector = a if isinstance(a, _Vector) and mask is MaskV and a is b else _common(a, b)
    if vector is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        yes, no = (_as_vector(context, builder, args[k], sig.args[k], vector) for k in (1, 2))
        return builder.select(args[0], yes, no)

    return vector(MaskV, a, b), codegen


def _pick(symbol: str) -> Any:
    """C's ``a > b ? a : b`` (or ``<``) as an intrinsic; the second where one is NaN, as MAXPS has it."""

    @intrinsic
    def function(typingctx: Any, a: Any, b: Any) -> Any:
        vector = _common(a, b)
        if vector is None:
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            x, y = (_as_vector(context, builder, v, t, vector) for v, t in zip(args, sig.args, strict=True))
            compare = builder.fcmp_ordered if vector is F32V else builder.icmp_signed
            return builder.select(compare(symbol, x, y), x, y)

        return vector(a, b), codegen

    return function


vmax = _pick(">")
vmin = _pick("<")


@intrinsic
def spread(typingctx: Any, x: Any) -> Any:
    """All lanes equal to a scalar: float32 gives F32V, int32 gives I32V; other widths are converted."""
    vector = F32V if isinstance(x, types.Float) else I32V if isinstance(x, types.Integer) else None
    if vector is None:
        return None
    return vector(x), lambda context, builder, sig, args: _as_vector(context, builder, args[0], x, vector)


def _address(context: Any, builder: Any, array_type: Any, array: Any, i: Any, j: Any) -> Any:
    """Return the address of element [i, j] of a C-contiguous array."""
    struct = context.make_array(array_type)(context, builder, array)
    columns = builder.extract_value(struct.shape, 1)
    return builder.gep(struct.data, [builder.add(builder.mul(i, columns), j)])


@intrinsic
def vload(typingctx: Any, array: Any, i: Any, j: Any) -> Any:
    """``array[i, j : j + VEC]`` of a C-contiguous array: float32 as F32V; int32, uint8, int8, uint16 as I32V."""
    vector = F32V if array.dtype is types.float32 else I32V

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = _address(context, builder, array, *args)
        item = address.type.pointee
        value = builder.load(builder.bitcast(address, ir.VectorType(item, VEC).as_pointer()), align=1)
        if vector is F32V or item.width == 32:
            return value
        return (builder.sext if array.dtype.signed else builder.zext)(value, ir.VectorType(ir.IntType(32), VEC))

    return vector(array, types.intp, types.intp), codegen


@intrinsic
def vstore(typingctx: Any, array: Any, i: Any, j: Any, value: Any) -> Any:
    """``array[i, j : j + VEC] = value`` of a C-contiguous array; an I32V is cut to the width of the element."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = _address(context, builder, array, *args[:3])
        item, vector = address.type.pointee, args[3]
        if value is I32V and item.width < 32:
            vector = builder.trunc(vector, ir.VectorType(item, VEC))
        builder.store(vector, builder.bitcast(address, ir.VectorType(item, VEC).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, value), codegen


@intrinsic
def vload_flat(typingctx: Any, array: Any, i: Any) -> Any:
    """``array[i : i + VEC]`` of a contiguous 1-D float32 array, as F32V."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = builder.gep(context.make_array(array)(context, builder, args[0]).data, [args[1]])
        return builder.load(builder.bitcast(address, ir.VectorType(ir.FloatType(), VEC).as_pointer()), align=1)

    return F32V(array, types.intp), codegen


@intrinsic
def vstore_flat(typingctx: Any, array: Any, i: Any, value: Any) -> Any:
    """``array[i : i + VEC] = value`` of a contiguous 1-D array; an I32V is cut to the width of the element."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = builder.gep(context.make_array(array)(context, builder, args[0]).data, [args[1]])
        item, vector = address.type.pointee, args[2]
        if value is I32V and item.width < 32:
            vector = builder.trunc(vector, ir.VectorType(item, VEC))
        builder.store(vector, builder.bitcast(address, ir.VectorType(item, VEC).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


def _load_bytes(context: Any, builder: Any, array_type: Any, array: Any, offset: Any, bits: int) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    vector = ir.VectorType(ir.IntType(bits), VEC)
    return builder.load(builder.bitcast(builder.gep(data, [offset]), vector.as_pointer()), align=1)


@intrinsic
def load_f32v(typingctx: Any, raw: Any, offset: Any) -> Any:
    """``VEC`` little-endian float32 at a byte offset of a C-contiguous uint8 array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(
            _load_bytes(context, builder, raw, args[0], args[1], 32), ir.VectorType(ir.FloatType(), VEC)
        )

    return F32V(raw, types.intp), codegen


@intrinsic
def load_half(typingctx: Any, raw: Any, offset: Any, ieee: Any) -> Any:
    """``VEC`` IEEE halves (``ieee``) or bfloat16 at a byte offset of a C-contiguous uint8 array, as F32V."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        floats, words = ir.VectorType(ir.FloatType(), VEC), ir.VectorType(ir.IntType(32), VEC)
        halves = _load_bytes(context, builder, raw, args[0], args[1], 16)
        wide = builder.fpext(builder.bitcast(halves, ir.VectorType(ir.HalfType(), VEC)), floats)
        high = builder.shl(builder.zext(halves, words), _constant(ir.IntType(32), 16))
        return builder.select(args[2], wide, builder.bitcast(high, floats))

    return F32V(raw, types.intp, types.boolean), codegen


@intrinsic
def store_byte(typingctx: Any, raw: Any, offset: Any, value: Any) -> Any:
    """``value`` (uint8) at a byte offset of a C-contiguous uint8 array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(raw)(context, builder, args[0]).data
        builder.store(args[2], builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(raw, types.intp, types.uint8), codegen


def _vstore_raw(bits: int) -> Any:
    """The low ``bits`` of an I32V, ``VEC`` times, at a byte offset of a C-contiguous uint8 array."""

    @intrinsic
    def function(typingctx: Any, raw: Any, offset: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            data = context.make_array(raw)(context, builder, args[0]).data
            vector = ir.VectorType(ir.IntType(bits), VEC)
            address = builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer())
            builder.store(args[2] if bits == 32 else builder.trunc(args[2], vector), address, align=1)
            return context.get_dummy_value()

        return types.void(raw, types.intp, I32V), codegen

    return function


vstore_bytes = _vstore_raw(8)
vstore_halves = _vstore_raw(16)
vstore_words = _vstore_raw(32)


def _reduce(name: str) -> Any:
    @intrinsic
    def function(typingctx: Any, a: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = ir.FunctionType(ir.IntType(32), [args[0].type])
            name_of = f"llvm.vector.reduce.{name}.v{VEC}i32"
            return builder.call(get_or_insert_function(builder.module, kind, name_of), args)

        return types.int32(I32V), codegen

    return function


largest_lane = _reduce("smax")


@intrinsic
def range_of_lanes(typingctx: Any, a: Any, b: Any) -> Any:
    """The least and the largest of the lanes of two F32V, a pair of float32; of zeros of both signs, either."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def least(x: Any, y: Any) -> Any:
            return builder.select(builder.fcmp_ordered("<", x, y), x, y)

        a, b = args
        low, high = least(a, b), builder.select(builder.fcmp_ordered(">", a, b), a, b)
        minus = builder.fneg(high)
        # the lows in the lower half, the negated highs in the upper: one reduction for both
        order = [*range(8), *range(16, 24)], [*range(8, 16), *range(24, 32)]
        both = least(*(_shuffled(builder, low, minus, lanes) for lanes in order))
        for step in (4, 2, 1):
            both = least(both, _shuffled(builder, both, both, [n ^ step for n in range(VEC)]))
        i32 = ir.IntType(32)
        pair = builder.extract_element(both, i32(0)), builder.fneg(builder.extract_element(both, i32(8)))
        return context.make_tuple(builder, sig.return_type, pair)

    return types.UniTuple(types.float32, 2)(F32V, F32V), codegen


@intrinsic
def mask_bits(typingctx: Any, mask: Any) -> Any:
    """The mask as an int32, lane 0 lowest."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], ir.IntType(VEC)), ir.IntType(32))

    return types.int32(MaskV), codegen


def _shuffled(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))


@intrinsic
def transpose_8x8(typingctx: Any, source: Any, i: Any, j: Any, target: Any, k: Any, m: Any) -> Any:
    """``target[k : k + 8, m : m + 8] = source[i : i + 8, j : j + 8].T`` of C-contiguous float32 arrays."""
    both = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
    pairs = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
    halves = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.FloatType(), 8).as_pointer()

        def at(array_type: Any, array: Any, row: Any, column: Any, step: int) -> Any:
            row = builder.add(row, ir.Constant(row.type, step))
            return builder.bitcast(_address(context, builder, array_type, array, row, column), vector)

        r = [builder.load(at(source, args[0], args[1], args[2], n), align=1) for n in range(8)]
        t = [_shuffled(builder, r[n & ~1], r[n | 1], both[n & 1]) for n in range(8)]
        u = [_shuffled(builder, t[n & 4 | n >> 1 & 1], t[n & 4 | n >> 1 & 1 | 2], pairs[n & 1]) for n in range(8)]
        for n in range(8):
            row = _shuffled(builder, u[n & 3], u[n & 3 | 4], halves[n >> 2])
            builder.store(row, at(target, args[3], args[4], args[5], n), align=1)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), codegen


@intrinsic
def transpose_bytes(typingctx: Any, source: Any, i: Any, j: Any, target: Any) -> Any:
    """``target[:] = source[i : i + 16, j : j + 16].T`` of C-contiguous uint8 arrays, ``target`` [16, 16]."""
    zips = [n // 2 + 16 * (n % 2) for n in range(16)], [8 + n // 2 + 16 * (n % 2) for n in range(16)]

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.IntType(8), 16).as_pointer()

        def at(array_type: Any, array: Any, row: Any, column: Any, step: int) -> Any:
            row = builder.add(row, ir.Constant(row.type, step))
            return builder.bitcast(_address(context, builder, array_type, array, row, column), vector)

        rows = [builder.load(at(source, args[0], args[1], args[2], n), align=1) for n in range(16)]
        for _ in range(4):
            rows = [_shuffled(builder, rows[n // 2], rows[n // 2 + 8], zips[n % 2]) for n in range(16)]
        zero = ir.Constant(ir.IntType(64), 0)
        for n, row in enumerate(rows):
            builder.store(row, at(target, args[3], zero, zero, n), align=1)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target), codegen


@intrinsic
def trailing_zeros(typingctx: Any, word: Any) -> Any:
    """Count the trailing zero bits of a non-zero integer."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return word(word), codegen
