"""Choosing types so that a file of a given size loses least.

The loss of a choice is the sum over tensors of ``importance-weighted error x sensitivity``, which is the KL divergence
to second order (``imatrix/sensitivity.py``). Sizes and losses add up, so this is a knapsack problem, which dynamic
programming over the bytes solves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...formats.errors import PlanError
from ...formats.qtypes import QType
from ...formats.storage.output import human_bytes

_STATES = 1 << 16  # steps in which bytes are counted; the bytes that rounding leaves over are spent afterwards


@dataclass(frozen=True)
class Option:
    """A type that a tensor could have.

    Args:
        type: the type.
        nbytes: bytes of the tensor in the file, including padding.
        loss: in nats per token.
    """

    type: QType
    nbytes: int
    loss: float


def allocate(tensors: Sequence[Sequence[Option]], limit: int) -> list[Option]:
    """Pick one option for each tensor, so that the sum of losses is least within ``limit`` bytes.

    This is exact but for the step in which bytes are counted; the bytes left over are spent greedily. The same input
    gives the same choice.

    Args:
        tensors: each tensor's options.
        limit: bytes for all tensors together.

    Raises:
        PlanError: even the smallest options take more.
    """
    rows = [_frontier(options) for options in tensors]
    least = sum(options[0].nbytes for options in rows)
    if least > limit:
        raise PlanError(f"the smallest choice takes {human_bytes(least)}, more than {human_bytes(limit)}")
    picked = _dynamic(rows, limit)
    _spend(rows, picked, limit)
    return [options[i] for options, i in zip(rows, picked, strict=True)]


def _frontier(options: Sequence[Option]) -> list[Option]:
    """The options sorted by size, without those that lose as much as a smaller one."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.nbytes, o.loss)):
        if not kept or option.loss < kept[-1].loss:
            kept.append(option)
    return kept


def _dynamic(rows: Sequence[Sequence[Option]], limit: int) -> list[int]:
    """The index of the best option of each tensor, with sizes rounded up to steps."""
    spare = limit - sum(options[0].nbytes for options in rows)
    step = max(1, spare // _STATES)
    n = spare // step + 1
    best = np.zeros(n)
    taken: list[NDArray[np.uint8]] = []
    for options in rows:
        choices = np.zeros(n, np.uint8)
        new = best + options[0].loss
        for i, option in enumerate(options[1:], 1):
            extra = -(-(option.nbytes - options[0].nbytes) // step)
            if extra >= n:
                break
            candidate = best[: n - extra] + option.loss
            better = candidate < new[extra:]
            new[extra:][better] = candidate[better]
            choices[extra:][better] = i
        taken.append(choices)
        best = new
    at, picked = n - 1, []
    for options, choices in zip(reversed(rows), reversed(taken), strict=True):
        i = int(choices[at])
        picked.append(i)
        at -= -(-(options[i].nbytes - options[0].nbytes) // step)
    return picked[::-1]


def _spend(rows: Sequence[Sequence[Option]], picked: list[int], limit: int) -> None:
    """Spend the bytes that are left, one after the other, on the upgrade that saves most loss per byte."""
    left = limit - sum(options[i].nbytes for options, i in zip(rows, picked, strict=True))
    while True:
        found = [
            ((options[i].loss - better.loss) / (better.nbytes - options[i].nbytes), -number, j)
            for number, (options, i) in enumerate(zip(rows, picked, strict=True))
            for j, better in enumerate(options)
            if j > i and better.nbytes - options[i].nbytes <= left
        ]
        if not found:
            return
        _, number, j = max(found)
        left -= rows[-number][j].nbytes - rows[-number][picked[-number]].nbytes
        picked[-number] = j
