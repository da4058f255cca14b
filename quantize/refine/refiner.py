"""Refine the steps of a plan: second moments are read and factored once for all tensors that share them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...formats.errors import PlanError
from ...formats.ir import Bytes
from ...formats.moments_file import Moments
from ...formats.qtypes import QType
from ...formats.storage.source import file_stamps
from ..kernels.contract import F32_ARRAY
from .factor import DAMPING, Block, make_blocks
from .rows import encode_refined

# Columns that repair each other's errors, at most. More cost more, and are not better where outlier channels and few
# inputs make the wide moments uncertain: SmolLM2-135M in Q4_0, calibrated on 12,288 tokens, ends at 0.56 of the plain
# encoder's KL divergence with 256 and at 0.71 with 1024.
WIDTH = 256
_KEPT = 3  # factored inputs: attention's, its output's and the feed-forward's come in turns


@dataclass(frozen=True)
class Refiner:
    """Encodes tensors with error feedback; may be called from several threads.

    Args:
        moments: the second moments of what enters the model's matrices.
        width: columns in a block, a multiple of 256; the file's blocks are divided if they are wider.
        damping: see ``make_blocks``; it is raised where a matrix saw fewer inputs than a block has columns.
        passes: passes of coordinate descent; None for the type's usual number.
    """

    moments: Moments
    width: int = WIDTH
    damping: float = DAMPING
    passes: int | None = None
    _factored: _Factored = field(default_factory=lambda: _Factored(_KEPT), init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[Refiner], tuple[Moments, int, float, int | None]]:
        return Refiner, (self.moments, self.width, self.damping, self.passes)

    @property
    def identity(self) -> str:
        """Everything that the bytes depend on, as text."""
        files = file_stamps([self.moments.path]) if self.moments.path is not None else ""
        return f"{files} {self.width} {self.damping} {self.passes}"

    def encode(self, name: str, matrix: int, rows: F32_ARRAY, kind: QType, out: Bytes) -> F32_ARRAY:
        """Encode rows of a tensor's matrix; see ``encode_refined``.

        Args:
            name: the tensor's name.
            matrix: the index of the matrix in a stack, 0 without one.
            rows: float32 [n, width].
            kind: the type to encode in.
            out: uint8 [n, row bytes], written.

        Returns:
            float32 [n], the loss of each row.
        """
        return encode_refined(rows, kind, self.blocks(name, matrix), out, self.passes)

    def loss(self, name: str, matrix: int, rows: F32_ARRAY, kind: QType) -> float:
        """Return a row's mean loss, a sum of squared errors weighed by the columns' importance, whose mean is 1."""
        lost = self.encode(name, matrix, rows, kind, np.empty((len(rows), kind.row_bytes(rows.shape[1])), np.uint8))
        importance = np.concatenate([block.importance for block in self.blocks(name, matrix)])
        return float(lost.mean(dtype=np.float64) / max(float(importance.mean()), 1e-30))

    def blocks(self, name: str, matrix: int) -> list[Block]:
        """Return the factored second moments of a matrix's inputs.

        Raises:
            FormatError: a moment is not finite.
            PlanError: they cannot be second moments.
        """
        key = (self.moments.holder(name) or name, matrix)
        return self._factored.get(key, lambda: self._make(name, matrix))

    def _make(self, name: str, matrix: int) -> list[Block]:
        means = [part for block in self.moments.blocks(name, matrix) for part in _parts(block, self.width)]
        seen = max(1, self.moments.count(name, matrix))
        try:
            return make_blocks(means, self.damping * max(1.0, len(means[0]) / seen))
        except ValueError as error:
            problem = f"{error}, from {seen} tokens for {len(means[0])} columns"
            hint = "collect them on more text: imatrix --second-moments with a longer text, or more --chunks"
            raise PlanError(problem, path=self.moments.path, where=name, hint=hint) from error


def _parts(block: NDArray[np.float64], width: int) -> list[NDArray[np.float64]]:
    """Divide a block of moments into diagonal parts of ``width`` columns."""
    return [block[a : a + width, a : a + width] for a in range(0, len(block), width)]


class _Factored:
    """Keeps the last few results by key; a caller who asks for one that is being made waits for it."""

    def __init__(self, kept: int) -> None:
        self._kept, self._lock = kept, threading.Lock()
        self._made: OrderedDict[object, tuple[threading.Lock, list[list[Block]]]] = OrderedDict()

    def get(self, key: object, make: Callable[[], list[Block]]) -> list[Block]:
        with self._lock:
            lock, made = self._made.setdefault(key, (threading.Lock(), []))
            self._made.move_to_end(key)
            while len(self._made) > self._kept:
                self._made.popitem(last=False)
        with lock:
            if not made:
                made.append(make())
        return made[0]
