"""The contract of every kernel. This module does not import numba: the plain float types need only numpy.

The bytes are ``ggml_quantize_chunk``'s on x86-64 Linux, where the C leaves no choice. Where it does:

- Order of equal keys. IQ1_S and IQ1_M sort a sub-block's weights with ``qsort`` by value alone; equal weights (and
  zeros of both signs) keep their order in the row, as glibc's merge sort has it. With a C library whose ``qsort`` is
  not stable, llama.cpp's own bytes may differ there. The neighbour lists of the lattice types are sorted with ``qsort``
  too, but by distance and then index, so no keys are equal.
- NaN and Inf are not encoded. ``quantize`` looks at every weight first and stops at one (``floats.first_nonfinite``),
  where llama.cpp notices afterwards, in the blocks (``ggml_validate_row_data``), or aborts in a lattice search. A
  kernel called with one gives bytes without meaning and does not crash. F16 and BF16 pass them on, a NaN made quiet.
  Importance is checked in the plan: negative and non-finite values are errors there.
- Overflow. A scale beyond 65504 becomes an infinite half in both; llama.cpp refuses the file, ``quantize`` names the
  weight. Weights near 1e14 overflow the distances of the lattice searches: the C aborts, ours takes the first
  neighbour.
- Float to int out of range: undefined in C. It happens when the largest weight of a block is so small that 1/scale is
  infinite (below 2**-128 or so), and we do what the C compiled for x86-64 does: Q4_0 to Q5_1 and Q2_0 convert to
  INT_MIN, of which the low bits remain (``legacy.as_int8``, ``bits.py``), TQ1_0 and TQ2_0 make the weight zero
  (``tq.py``), MXFP4 wraps a negative exponent to a byte (``fp4.py``).
- ``nearest_int`` beyond 2**22, which an assertion forbids in debug builds: the same bits of the float as in the C.
- ``log2f`` in MXFP4 is glibc's; ``fp4.py`` tells how its rounding is met without calling it.

Importance that is all zero is no error: the searches divide zero by zero or find nothing better than what they start
from, and do as the C does, tested for every type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...formats.ir import Bytes
from ...formats.qtypes import QType

F32_ARRAY = NDArray[np.float32]


@dataclass(frozen=True)
class Kernel:
    """Encode and decode of one type: pure functions of rows, safe to call from several threads.

    Args:
        qtype: the type.
        encode_rows: ``f(src, code, importance, out)``, compiled. ``src`` uint8 [n, source row bytes] holds float rows
            whose type is ``code`` (0 F32, 1 F16, 2 BF16), ``importance`` float32 [width] or of length 0 for none,
            ``out`` uint8 [n, row_bytes]. All C-contiguous; ``src`` and ``importance`` are read-only arrays, so that
            mapped files and fresh arrays share one compiled form.
        decode_rows: ``f(blocks, out)``, compiled: read-only uint8 [n, row_bytes] -> float32 [n, width].
        uses_importance: whether importance changes the bytes.
        own_search: the C ignores importance, and with it the bytes are those of quantmill's own search (MXFP4, NVFP4);
            a plan gives importance to such a type only where llama.cpp defines no bytes.
        requires_importance: the C refuses to encode without it.
        shows_nonfinite: a NaN or Inf among the weights makes its block's scale one, so that looking at the scales,
            a fraction of the bytes, is looking at the weights.
    """

    qtype: QType
    encode_rows: Callable[..., None]
    decode_rows: Callable[..., None]
    uses_importance: bool = False
    own_search: bool = False
    requires_importance: bool = False
    shows_nonfinite: bool = False

    def encode(self, src: Bytes, source_type: QType, importance: F32_ARRAY | None, out: Bytes) -> None:
        """Encode float rows into ``out``, in place.

        Args:
            src: uint8 [n, bytes of a row in ``source_type``].
            source_type: F32, F16 or BF16.
            importance: float32 [width], or None.
            out: uint8 [n, ``qtype.row_bytes(width)``], C-contiguous.
        """
        weights = _NONE if importance is None or not self.uses_importance else importance
        assert out.flags.c_contiguous
        assert len(src) == len(out), (src.shape, out.shape)
        self.encode_rows(constant(src), SOURCE_CODE[source_type.name], constant(weights), np.asarray(out))

    def decode(self, blocks: Bytes, out: F32_ARRAY) -> None:
        """Decode uint8 [n, row_bytes] into C-contiguous float32 [n, width], in place."""
        assert out.flags.c_contiguous
        assert len(blocks) == len(out), (blocks.shape, out.shape)
        self.decode_rows(constant(blocks), np.asarray(out))


SOURCE_CODE = {"F32": 0, "F16": 1, "BF16": 2}
_NONE = np.zeros(0, np.float32)


def constant(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only, aligned, contiguous view (or copy), whatever it was: numba compiles for one array type only."""
    plain = np.asarray(array)
    if not (plain.flags.c_contiguous and plain.flags.aligned):
        plain = np.require(plain, requirements=["C", "A"])
    view = plain.view()
    view.flags.writeable = False
    return view
