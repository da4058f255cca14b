"""Integer grids: W = (code - zero) * scale by groups of columns, as GPTQ, AWQ and compressed-tensors store weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...ir import Bytes, Role, Tensor
from ...qtypes import F32, QType
from ..tables.packed_tensors import BLOCK, Q4_0, Q4_1, Q5_0, Q8_0
from .ggml_blocks import encode_q4_1, encode_steps

SCAN_VALUES = 1 << 20  # scales looked at together when the type is chosen


@dataclass(frozen=True)
class IntegerGrid:
    """A weight [out, in] on an integer grid.

    Args:
        name: of the weight in the checkpoint, such as ``model.layers.0.mlp.up_proj.weight``.
        source: the file and tensor, for messages.
        shape: (out, in).
        bits: bits of a code.
        groups: int32 [in], the group of each column.
        n_groups: the number of groups.
        codes: ``codes(a, b)`` returns uint8 [b-a, in].
        zeros: ``zeros(a, b)`` returns int16 [b-a, n_groups].
        scales: ``scales(a, b)`` returns float32 [b-a, n_groups].
        half_scales: whether the file stores the scales as halves.
    """

    name: str
    source: str
    shape: tuple[int, int]
    bits: int
    groups: NDArray[np.int32]
    n_groups: int
    codes: Callable[[int, int], NDArray[np.uint8]]
    zeros: Callable[[int, int], NDArray[np.int16]]
    scales: Callable[[int, int], NDArray[np.float32]]
    half_scales: bool

    def tensor(self) -> tuple[Tensor, str]:
        """The weight in a GGML type that holds it exactly, else decoded to F32 as it is read; and the reason if
        decoded.
        """
        type, reason = self.exact_type()
        read = self._floats if type is None else self._q4_1 if type is Q4_1 else self._steps_as(type)
        return Tensor(self.name, Role.OTHER, None, self.shape, type or F32, read, self.source), reason

    def exact_type(self) -> tuple[QType | None, str]:
        """The smallest type whose blocks hold exactly these weights, else None and the reason.

        Reads the zeros, and the scales if they matter.
        """
        if self.block_groups is None:
            natural = (np.diff(self.groups) >= 0).all()
            return None, f"groups that no block of {BLOCK} fits" if natural else "act-order"
        low, high = self._span()
        centred = low == -(1 << (self.bits - 1)) and high == -low - 1
        mins = self.bits <= 4
        if not (centred and self.half_scales):
            for a, b in self._chunks():
                scales = self.scales(a, b)
                mins = mins and _are_halves(-self.zeros(a, b) * scales)
                if not _are_halves(scales):
                    return None, "scales that are not halves"
        candidates = ((Q4_0, low >= -8 and high <= 7), (Q4_1, mins), (Q5_0, low >= -16 and high <= 15))
        for type, fits in (*candidates, (Q8_0, low >= -128 and high <= 127)):
            if fits:
                return type, ""
        return None, f"zeros that no block of {self.bits} bits holds"

    def _span(self) -> tuple[int, int]:
        """The least and the greatest value of code minus zero that the zeros allow."""
        zeros = [(int(part.min()), int(part.max())) for part in (self.zeros(a, b) for a, b in self._chunks())]
        return -max(high for _, high in zeros), (1 << self.bits) - 1 - min(low for low, _ in zeros)

    def _chunks(self) -> Iterator[tuple[int, int]]:
        step = max(1, SCAN_VALUES // self.n_groups)
        for a in range(0, self.shape[0], step):
            yield a, min(a + step, self.shape[0])

    @cached_property
    def block_groups(self) -> NDArray[np.int32] | None:
        """The group of each block of 32 columns; None if a block would span several groups."""
        if self.shape[1] % BLOCK:
            return None
        blocks = self.groups.reshape(-1, BLOCK)
        return np.ascontiguousarray(blocks[:, 0]) if (blocks == blocks[:, :1]).all() else None

    def _checked_scales(self, a: int, b: int) -> NDArray[np.float32]:
        scales = self.scales(a, b)
        finite = np.isfinite(scales)
        if not finite.all():
            row, group = (int(i) for i in np.argwhere(~finite)[0])
            problem = f"the scale of row {a + row}, group {group} is {scales[row, group]}"
            raise FormatError(problem, where=self.source, hint="the checkpoint is damaged: get it again")
        return scales

    def _steps(self, a: int, b: int) -> NDArray[np.int16]:
        return self.codes(a, b).astype(np.int16) - np.take(self.zeros(a, b), self.groups, axis=1)

    def _floats(self, a: int, b: int) -> Bytes:
        scales = np.take(self._checked_scales(a, b), self.groups, axis=1)
        np.multiply(self._steps(a, b), scales, out=scales)
        return scales.view(np.uint8)

    def _steps_as(self, type: QType) -> Callable[[int, int], Bytes]:
        block_groups = self.block_groups
        assert block_groups is not None

        def read(a: int, b: int) -> Bytes:
            return encode_steps(type, self._steps(a, b), self._checked_scales(a, b)[:, block_groups])

        return read

    def _q4_1(self, a: int, b: int) -> Bytes:
        scales = self._checked_scales(a, b)
        mins = -self.zeros(a, b) * scales
        return encode_q4_1(self.codes(a, b), scales[:, self.block_groups], mins[:, self.block_groups])


def _are_halves(values: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float16).astype(np.float32) == values).all())
