"""F32, F16 and BF16: conversions between the plain float types, and the search for a weight that is not finite.

Copies and small arrays are numpy's work, so that they start without numba; ``convert.py`` has the large ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...formats.floats import from_f32, to_f32
from ...formats.ir import Bytes
from ...formats.qtypes import BY_NAME
from .contract import F32_ARRAY, SOURCE_CODE, Kernel, constant

_NAMES = {code: name for name, code in SOURCE_CODE.items()}
_WORDS: dict[str, Any] = {"F32": "<u4", "F16": "<u2", "BF16": "<u2"}
_EXPONENT = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
_CHUNK = 1 << 14  # weights numpy takes at a time, so that intermediate arrays stay in the cache
_LARGE = 1 << 16  # weights worth loading compiled code for


def first_nonfinite(src: Bytes, code: int) -> int:
    """The flat index of the first NaN or Inf in raw float rows, or -1.

    Args:
        src: uint8 [n, row bytes], C-contiguous, of the float type ``code`` (``SOURCE_CODE``).
    """
    name = _NAMES[code]
    words = src.reshape(-1).view(_WORDS[name])
    exponent = _EXPONENT[name]
    sign = 1 << (8 * words.itemsize - 1)
    # Positive bad ones are the largest signed integers, negative ones the largest unsigned: two passes without an
    # intermediate array, each one call, so that threads seldom meet at the GIL.
    signed = words.view(words.dtype.str.replace("u", "i"))
    if not words.size or (signed.max() < exponent and words.max() < sign | exponent):
        return -1
    return int(np.argmax((words & words.dtype.type(exponent)) == exponent))


def _convert(words: NDArray[Any], source: str, target: NDArray[Any], name: str) -> None:
    """Flat words of one float type into those of another."""
    done = 0
    if words.size >= _LARGE:
        from .convert import CONVERT
        from .simd import VEC

        CONVERT[name](constant(words.view(np.uint8)), SOURCE_CODE[source], target.view(np.uint8), words.size)
        done = words.size // VEC * VEC
    for start in range(done, words.size, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        values = to_f32(words[chunk].view(np.uint8), BY_NAME[source])
        target[chunk] = from_f32(values, BY_NAME[name]).view(target.dtype)


def _encoder(name: str) -> Callable[..., None]:
    def encode_rows(src: Bytes, code: int, importance: F32_ARRAY, out: Bytes) -> None:
        source = _NAMES[code]
        words, target = src.reshape(-1).view(_WORDS[source]), out.reshape(-1).view(_WORDS[name])
        if source == name:
            target[:] = words
        else:
            _convert(words, source, target, name)

    return encode_rows


def _decoder(name: str) -> Callable[..., None]:
    def decode_rows(blocks: Bytes, out: F32_ARRAY) -> None:
        words, target = blocks.reshape(-1).view(_WORDS[name]), out.reshape(-1).view(np.uint32)
        if name == "F32":
            target[:] = words
        else:
            _convert(words, name, target, "F32")

    return decode_rows


KERNELS = {name: Kernel(BY_NAME[name], _encoder(name), _decoder(name)) for name in SOURCE_CODE}
