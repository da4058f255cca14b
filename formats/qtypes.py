"""The GGML tensor types: one row for each, with its id, block size and the named fields of its block.

Bytes per block, bits per weight and row sizes are derived from them. Source of ids and layouts:
``ggml.h`` and ``ggml-common.h`` of llama.cpp (the sources in the llama-cpp-python 0.3.36 sdist).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .errors import QuantmillError

QK_K = 256  # weights in a super-block


@dataclass(frozen=True)
class QType:
    """A tensor type.

    Args:
        name: as llama.cpp writes it, such as ``Q4_K``.
        id: its number in GGUF files.
        block_size: weights in a block.
        fields: of a block, in file order: (name, little-endian numpy dtype, count).

    Example:
        >>> from quantmill.formats.qtypes import qtype
        >>> q4_k = qtype("Q4_K")
        >>> q4_k.block_size, q4_k.block_bytes, q4_k.bpw, q4_k.row_bytes(4096)
        (256, 144, 4.5, 2304)
        >>> q4_k.block.names
        ('d', 'dmin', 'scales', 'qs')
    """

    name: str
    id: int
    block_size: int
    fields: tuple[tuple[str, str, int], ...]

    @cached_property
    def block(self) -> np.dtype[np.void]:
        """The block as a structured numpy dtype, so that code says ``blocks["dmin"]``, not ``raw[:, 2:4]``."""
        return np.dtype([(n, t) if count == 1 else (n, t, (count,)) for n, t, count in self.fields])

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return int(self.block.itemsize)

    @property
    def bpw(self) -> float:
        """Bits per weight."""
        return self.block_bytes * 8 / self.block_size

    @property
    def is_quantized(self) -> bool:
        """Whether a block holds several weights."""
        return self.block_size > 1

    @property
    def is_float(self) -> bool:
        """Whether it is one of F32, F16 and BF16, which kernels read as their source."""
        return self.name in ("F32", "F16", "BF16")

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of ``width`` weights, which must be a multiple of the block size."""
        assert width % self.block_size == 0, (self.name, width)
        return width // self.block_size * self.block_bytes

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Callable[[str], QType], tuple[str]]:
        """Unpickle to the row of the table, since types are compared with ``is``."""
        return qtype, (self.name,)


_ROWS = (
    QType("F32", 0, 1, (("x", "<f4", 1),)),
    QType("F16", 1, 1, (("x", "<f2", 1),)),
    QType("Q4_0", 2, 32, (("d", "<f2", 1), ("qs", "u1", 16))),
    QType("Q4_1", 3, 32, (("d", "<f2", 1), ("m", "<f2", 1), ("qs", "u1", 16))),
    QType("Q5_0", 6, 32, (("d", "<f2", 1), ("qh", "u1", 4), ("qs", "u1", 16))),
    QType("Q5_1", 7, 32, (("d", "<f2", 1), ("m", "<f2", 1), ("qh", "u1", 4), ("qs", "u1", 16))),
    QType("Q8_0", 8, 32, (("d", "<f2", 1), ("qs", "i1", 32))),
    QType("Q8_1", 9, 32, (("d", "<f2", 1), ("s", "<f2", 1), ("qs", "i1", 32))),
    QType("Q2_K", 10, 256, (("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2", 1), ("dmin", "<f2", 1))),
    QType("Q3_K", 11, 256, (("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2", 1))),
    QType("Q4_K", 12, 256, (("d", "<f2", 1), ("dmin", "<f2", 1), ("scales", "u1", 12), ("qs", "u1", 128))),
    QType(
        "Q5_K",
        13,
        256,
        (("d", "<f2", 1), ("dmin", "<f2", 1), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)),
    ),
    QType("Q6_K", 14, 256, (("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2", 1))),
    QType("Q8_K", 15, 256, (("d", "<f4", 1), ("qs", "i1", 256), ("bsums", "<i2", 16))),
    QType("IQ2_XXS", 16, 256, (("d", "<f2", 1), ("qs", "<u2", 32))),
    QType("IQ2_XS", 17, 256, (("d", "<f2", 1), ("qs", "<u2", 32), ("scales", "u1", 8))),
    QType("IQ3_XXS", 18, 256, (("d", "<f2", 1), ("qs", "u1", 64), ("gas", "<u4", 8))),
    QType("IQ1_S", 19, 256, (("d", "<f2", 1), ("qs", "u1", 32), ("qh", "<u2", 8))),
    QType("IQ4_NL", 20, 32, (("d", "<f2", 1), ("qs", "u1", 16))),
    QType(
        "IQ3_S",
        21,
        256,
        (("d", "<f2", 1), ("qs", "u1", 64), ("qh", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)),
    ),
    QType("IQ2_S", 22, 256, (("d", "<f2", 1), ("qs", "u1", 64), ("qh", "u1", 8), ("scales", "u1", 8))),
    QType("IQ4_XS", 23, 256, (("d", "<f2", 1), ("scales_h", "<u2", 1), ("scales_l", "u1", 4), ("qs", "u1", 128))),
    QType("I8", 24, 1, (("x", "i1", 1),)),
    QType("I16", 25, 1, (("x", "<i2", 1),)),
    QType("I32", 26, 1, (("x", "<i4", 1),)),
    QType("I64", 27, 1, (("x", "<i8", 1),)),
    QType("F64", 28, 1, (("x", "<f8", 1),)),
    # The super-block scale is spread over the top nibbles of the four u16 scales.
    QType("IQ1_M", 29, 256, (("qs", "u1", 32), ("qh", "u1", 16), ("scales", "<u2", 4))),
    QType("BF16", 30, 1, (("x", "<u2", 1),)),
    QType("TQ1_0", 34, 256, (("qs", "u1", 48), ("qh", "u1", 4), ("d", "<f2", 1))),
    QType("TQ2_0", 35, 256, (("qs", "u1", 64), ("d", "<f2", 1))),
    QType("MXFP4", 39, 32, (("e", "u1", 1), ("qs", "u1", 16))),
    QType("NVFP4", 40, 64, (("d", "u1", 4), ("qs", "u1", 32))),
    QType("Q1_0", 41, 128, (("d", "<f2", 1), ("qs", "u1", 16))),
    QType("Q2_0", 42, 64, (("d", "<f2", 1), ("qs", "u1", 16))),
)

BY_NAME = {row.name: row for row in _ROWS}
BY_ID = {row.id: row for row in _ROWS}

F32, F16, BF16 = BY_NAME["F32"], BY_NAME["F16"], BY_NAME["BF16"]


def qtype(name: str) -> QType:
    """Look up a tensor type by its name, in upper or lower case.

    Raises:
        QuantmillError: there is no such type; the message names the nearest.

    Example:
        >>> from quantmill.formats.qtypes import qtype
        >>> qtype("q8_0").id
        8
    """
    row = BY_NAME.get(name.upper())
    if row is None:
        from difflib import get_close_matches

        near = get_close_matches(name.upper(), BY_NAME, n=1)
        raise QuantmillError(
            f"unknown tensor type {name!r}", hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(BY_NAME)}"
        )
    return row
