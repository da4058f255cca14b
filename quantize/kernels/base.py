"""What every kernel shares: the contract, the compiled primitives, and where compiled code is cached.

Lane form. A kernel takes ``LANES`` blocks at once as a structure of arrays ``X[i, lane]`` and keeps the lane loop
innermost, so that each lane does exactly the arithmetic llama.cpp's C does for its block, in its order, while the
compiler gives all lanes one instruction. No fastmath and no FMA contraction: the promise is the bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...formats.ir import Bytes
from ...formats.qtypes import QType


def _cache_dir() -> Path:
    """Where compiled code goes: the user's cache, keyed by our sources.

    Numba checks only the file a function stands in, not those it calls into, so the key covers every kernel; and an
    install directory may be read-only.
    """
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    root = os.environ.get("QUANTMILL_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "quantmill" / f"kernels-{digest.hexdigest()[:16]}"


os.environ.setdefault("NUMBA_CACHE_DIR", str(_cache_dir()))  # before numba reads its configuration

import numba  # noqa: E402
from numba import types  # noqa: E402
from numba.extending import intrinsic  # noqa: E402

LANES = 32

F32_ARRAY = NDArray[np.float32]


def jit(function: Callable[..., Any]) -> Any:
    """Compile for exact, GIL-free, cached execution. Division by zero gives inf, as in C."""
    return numba.njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)(function)


def jit_inline(function: Callable[..., Any]) -> Any:
    """As ``jit``, for small helpers that must vanish into the lane loop that calls them."""
    return numba.njit(nogil=True, error_model="numpy", boundscheck=False, inline="never", forceinline=True)(function)


@intrinsic
def bits_to_float(typingctx: Any, x: Any) -> Any:
    """float32 with the bits of an int32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return types.float32(types.int32), codegen


@intrinsic
def float_to_bits(typingctx: Any, x: Any) -> Any:
    """int32 with the bits of a float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.int32))

    return types.int32(types.float32), codegen


@intrinsic
def half_to_float(typingctx: Any, h: Any) -> Any:
    """float32 of IEEE half bits (uint16); a vcvtph2ps where the CPU has F16C."""
    from llvmlite import ir

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def float_to_half(typingctx: Any, x: Any) -> Any:
    """IEEE half bits (uint16) of a float32, rounded to nearest even; a vcvtps2ph where the CPU has F16C."""
    from llvmlite import ir

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen


@jit_inline
def nearest_int(x):  # type: ignore[no-untyped-def]
    """llama.cpp's rounding: half to even by adding 1.5 * 2**23 (``nearest_int`` in ggml-quants.c). int32."""
    return (float_to_bits(np.float32(x) + np.float32(12582912.0)) & np.int32(0x007FFFFF)) - np.int32(0x00400000)


@dataclass(frozen=True)
class Kernel:
    """Encode and decode of one type: pure functions of rows.

    Args:
        qtype: the type.
        encode_rows: ``f(src, code, importance, out)``, compiled. ``src`` uint8 [n, source row bytes] holds float rows
            whose type is ``code`` (0 F32, 1 F16, 2 BF16), ``importance`` float32 [width] or of length 0 for none,
            ``out`` uint8 [n, row_bytes].
        decode_rows: ``f(blocks, out)``, compiled: uint8 [n, row_bytes] -> float32 [n, width].
        uses_importance: whether importance changes the bytes.
        requires_importance: the C refuses to encode without it.
    """

    qtype: QType
    encode_rows: Callable[..., None]
    decode_rows: Callable[..., None]
    uses_importance: bool = False
    requires_importance: bool = False

    def encode(self, src: Bytes, source_type: QType, importance: F32_ARRAY | None, out: Bytes) -> None:
        """Encode float rows into ``out``, in place.

        Args:
            src: uint8 [n, bytes of a row in ``source_type``], C-contiguous.
            source_type: F32, F16 or BF16.
            importance: float32 [width], or None.
            out: uint8 [n, ``qtype.row_bytes(width)``], C-contiguous.
        """
        weights = _NONE if importance is None or not self.uses_importance else importance
        self.encode_rows(src, SOURCE_CODE[source_type.name], weights, out)

    def decode(self, blocks: Bytes, out: F32_ARRAY) -> None:
        """Decode uint8 [n, row_bytes] into float32 [n, width], in place."""
        self.decode_rows(blocks, out)


SOURCE_CODE = {"F32": 0, "F16": 1, "BF16": 2}
_NONE = np.zeros(0, np.float32)


@jit_inline
def load_weight(src, row, j, code):  # type: ignore[no-untyped-def]
    """Weight ``j`` of a raw row as float32; ``code`` as in ``SOURCE_CODE``. The hot loops use ``load_lanes``."""
    if code == 0:
        k = 4 * j
        bits = (
            np.int32(src[row, k])
            | (np.int32(src[row, k + 1]) << np.int32(8))
            | (np.int32(src[row, k + 2]) << np.int32(16))
            | (np.int32(src[row, k + 3]) << np.int32(24))
        )
        return bits_to_float(np.int32(bits))
    k = 2 * j
    half = np.uint16(src[row, k]) | (np.uint16(src[row, k + 1]) << np.uint16(8))
    if code == 1:
        return half_to_float(np.uint16(half))
    return bits_to_float(np.int32(half) << np.int32(16))
