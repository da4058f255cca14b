"""The contract of every kernel. It needs no numba: the plain float types are numpy's work."""

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
    view = np.require(np.asarray(array), requirements=["C", "A"]).view()
    view.flags.writeable = False
    return view
