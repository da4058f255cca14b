"""Error feedback for the steps of a plan: second moments read and factored once for all that share them."""

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
    """Called from several threads.

    Args:
        moments: of the model's inputs.
        width: columns in a block, a multiple of 256; narrower than the file's blocks, if need be.
        damping: see ``make_blocks``. Multiplied where a matrix saw fewer inputs than a block has columns.
        passes: of coordinate descent; None for as many as the type's time allows.
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
        """What the bytes depend on."""
        files = file_stamps([self.moments.path]) if self.moments.path is not None else ""
        return f"{files} {self.width} {self.damping} {self.passes}"

    def encode(self, name: str, matrix: int, rows: F32_ARRAY, kind: QType, out: Bytes) -> F32_ARRAY:
        """Rows float32 [n, width] of a tensor's matrix into ``out`` uint8 [n, row bytes]; see ``encode_refined``."""
        return encode_refined(rows, kind, self.blocks(name, matrix), out, self.passes)

    def loss(self, name: str, matrix: int, rows: F32_ARRAY, kind: QType) -> float:
        """What a row loses, in the mean, as a sum of squared errors: columns weighed by their importance, whose mean
        is 1."""
        lost = self.encode(name, matrix, rows, kind, np.empty((len(rows), kind.row_bytes(rows.shape[1])), np.uint8))
        importance = np.concatenate([block.importance for block in self.blocks(name, matrix)])
        return float(lost.mean(dtype=np.float64) / max(float(importance.mean()), 1e-30))

    def blocks(self, name: str, matrix: int) -> list[Block]:
        """Factored second moments of a matrix's inputs.

        Raises:
            FormatError: a moment is not finite. PlanError: they are no second moments at all.
        """
        key = (self.moments.holder(name) or name, matrix)
        return self._factored.get(key, lambda: self._make(name, matrix))

    def _make(self, name: str, matrix: int) -> list[Block]:
        means = [part for block in self.moments.blocks(name, matrix) for part in _parts(block, self.width)]
        seen = max(1, self.moments.count(name, matrix))
        try:
            return make_blocks(means, self.damping * max(1.0, len(means[0]) / seen))
        except ValueError as error:
            raise PlanError(str(error), path=self.moments.path, where=name, hint="make a new imatrix") from error


def _parts(block: NDArray[np.float64], width: int) -> list[NDArray[np.float64]]:
    """Diagonal parts of ``width`` columns."""
    return [block[a : a + width, a : a + width] for a in range(0, len(block), width)]


class _Factored:
    """The last few results by key; who asks for one that is being made waits for it."""

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
