"""The primitives of all compiled kernels, and the folder in which compiled code is cached.

Lane form. A kernel takes ``LANES`` blocks at once as a structure of arrays ``X[i, lane]`` and keeps the lane loop
innermost, so that each lane does exactly the arithmetic llama.cpp's C does for its block, in its order, while the
compiler gives all lanes one instruction. No fastmath and no FMA contraction: the promise is the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from .cachedir import cache_dir
from .contract import F32_ARRAY, SOURCE_CODE, Kernel
from .contract import constant as _constant

if "NUMBA_CACHE_DIR" not in os.environ:  # before numba reads its configuration
    os.environ["NUMBA_CACHE_DIR"] = str(cache_dir())

__all__ = ["F32_ARRAY", "SOURCE_CODE", "Kernel", "_constant"]  # handed on from the contract

import numba
from numba import extending, types

numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]  # somebody may have imported numba before us

LANES = 32

intrinsic: Callable[[Callable[..., Any]], Any] = extending.intrinsic


def jit(function: Callable[..., Any]) -> Any:
    """Compile for exact, GIL-free, cached execution. Division by zero gives inf, as in C."""
    return numba.njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)(function)


def jit_inline(function: Callable[..., Any]) -> Any:
    """Compile as ``jit``, for small helpers that must be inlined into the lane loop that calls them.

    They are not cached on their own: their code is part of the caller's.
    """
    return numba.njit(nogil=True, error_model="numpy", boundscheck=False, forceinline=True)(function)


def jit_part(function: Callable[..., Any]) -> Any:
    """Compile as ``jit``, for a part of one caller that is a function only to be readable: it is pasted into the caller
    before typing, so it compiles once."""
    return numba.njit(nogil=True, error_model="numpy", boundscheck=False, inline="always")(function)


@intrinsic
def bits_to_float(typingctx: Any, x: Any) -> Any:
    """Return the float32 with the bits of an int32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return types.float32(types.int32), codegen


@intrinsic
def float_to_bits(typingctx: Any, x: Any) -> Any:
    """Return the int32 with the bits of a float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.int32))

    return types.int32(types.float32), codegen


@intrinsic
def half_to_float(typingctx: Any, h: Any) -> Any:
    """Return the float32 of IEEE half bits (uint16); a vcvtph2ps where the CPU has F16C."""
    from llvmlite import ir

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def float_to_half(typingctx: Any, x: Any) -> Any:
    """Return the IEEE half bits (uint16) of a float32, rounded to nearest even; a vcvtps2ph where the CPU has F16C."""
    from llvmlite import ir

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen


@jit_inline
def nearest_int(x):  # type: ignore[no-untyped-def]
    """Round as llama.cpp does, half to even by adding 1.5 * 2**23 (``nearest_int`` in ggml-quants.c): int32."""
    return (float_to_bits(np.float32(x) + np.float32(12582912.0)) & np.int32(0x007FFFFF)) - np.int32(0x00400000)


def _load(name: str, bits: int, convert: Callable[[Any, Any], Any]) -> Any:
    """Return an intrinsic ``f(bytes, offset) -> float32`` that loads a little-endian number, aligned or not."""
    from llvmlite import ir

    @intrinsic
    def load(typingctx: Any, array: Any, offset: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            address = builder.gep(data, [args[1]])
            word = builder.load(builder.bitcast(address, ir.IntType(bits).as_pointer()), align=1)
            return convert(builder, word)

        return types.float32(array, types.intp), codegen

    load.__name__ = name
    return load


def _from_half(builder: Any, word: Any) -> Any:
    from llvmlite import ir

    return builder.fpext(builder.bitcast(word, ir.HalfType()), ir.FloatType())


def _from_bf16(builder: Any, word: Any) -> Any:
    from llvmlite import ir

    high = builder.shl(builder.zext(word, ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
    return builder.bitcast(high, ir.FloatType())


def _from_float(builder: Any, word: Any) -> Any:
    from llvmlite import ir

    return builder.bitcast(word, ir.FloatType())


load_f32 = _load("load_f32", 32, _from_float)
load_f16 = _load("load_f16", 16, _from_half)
load_bf16 = _load("load_bf16", 16, _from_bf16)
