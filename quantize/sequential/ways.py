"""Ways to encode a matrix, and what they need of its inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ...formats.errors import PlanError
from ...formats.qtypes import QType
from ..kernels.contract import F32_ARRAY
from ..refine import REFINED
from ..refine.factor import DAMPING, Block, make_blocks
from .sums import Sums
from .targets import ridge_factor

NARROW = 256  # columns of a narrow block: a super-block of the k-quants
_MORE = 4.0  # times the damping


@dataclass(frozen=True)
class Way:
    """One way to encode.

    Args:
        ridge: the damping with which weights are moved first, see ``targets.py``; 0 for where they are.
        width: columns that repair each other's errors; 0 for the plain encoder, with importance.
        damping: see ``make_blocks``.
    """

    ridge: float
    width: int
    damping: float = 0.0


PLAIN = Way(0, 0)


def ways(columns: int, kind: QType, width: int | None, ridge: float) -> list[Way]:
    """The ways that are tried beside the plain one, the simplest first.

    Args:
        columns: of the matrix.
        kind: the type.
        width: the only width of blocks to try; None for the widest and the narrowest.
        ridge: the damping with which weights may be moved; 0 where they are not to be.
    """
    ridges = [0.0, ridge] if ridge else [0.0]
    if kind.name not in REFINED:
        return [Way(one, 0) for one in ridges if one]
    widths = {min(columns, NARROW), columns} if width is None else {min(columns, width)}
    return [Way(one, size, DAMPING) for one in ridges for size in sorted(widths)]


def dampings(way: Way) -> list[Way]:
    """The same way with more damping, which serves where the moments are uncertain; none for the plain one."""
    return [replace(way, damping=_MORE * way.damping)] if way.width else []


class Known:
    """What is known of an input, with what is made of it once for all tensors that multiply it.

    Args:
        sums: the sums over its tokens.
        name: a tensor that multiplies it, for messages.
    """

    def __init__(self, sums: Sums, name: str) -> None:
        self.sums, self.name = sums, name
        self._blocks: dict[tuple[int, float], list[Block]] = {}
        self._factors: dict[float, torch.Tensor | None] = {}

    @cached_property
    def mean(self) -> torch.Tensor:
        """H by token, float32 [width, width]."""
        return self.sums.mean()

    @cached_property
    def importance(self) -> F32_ARRAY:
        """The importance of each column, float32 [width]; ones where no token came."""
        diagonal = self.mean.diagonal().numpy().copy()
        return diagonal if diagonal.any() else np.ones_like(diagonal)

    def factor(self, ridge: float) -> torch.Tensor | None:
        """See ``ridge_factor``."""
        if ridge not in self._factors:
            self._factors[ridge] = ridge_factor(self.mean, ridge)
        return self._factors[ridge]

    def blocks(self, width: int, damping: float) -> list[Block]:
        """H in factored blocks of so many columns, its damping raised where tokens are few.

        Raises:
            PlanError: it has no factor.
        """
        found = self._blocks.get((width, damping))
        if found is None:
            means = self.mean.double().numpy()
            parts = [means[a : a + width, a : a + width] for a in range(0, len(means), width)]
            seen = max(1, self.sums.tokens)
            try:
                found = make_blocks(parts, damping * max(1.0, width / seen))
            except ValueError as error:
                problem = f"{error}, from {seen} tokens for {width} columns"
                raise PlanError(problem, where=self.name, hint="give more text, or a smaller --refine-width") from error
            self._blocks[width, damping] = found
        return found
