"""Sums over tokens of what enters a matrix in a model and in what the model becomes.

With x the original's input, y the changed model's and r the original's hidden states less the changed one's, the sums
are H = sum y y^T and, for W's new target, D = sum (W (x - y) + r) y^T. D is kept as sum (x - y) y^T where that is
smaller, and multiplied by W when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch

_PANEL = 256  # rows of a product that one thread computes; nothing above the diagonal's panels is computed

EachPanel = Callable[[Callable[[int], None], Iterable[int]], object]


class Pair(Protocol):
    """One batch of what enters some tensors in both models; see ``imatrix.paired_run.Pair``."""

    @property
    def changed(self) -> torch.Tensor: ...

    @property
    def original(self) -> torch.Tensor | None: ...

    @property
    def residuals(self) -> Mapping[str, torch.Tensor]: ...


class Sums:
    """The sums of one input.

    Args:
        width: its columns.
        each: calls a function for each panel of rows, on several threads.
        weights: float32 [rows, width] of each tensor that multiplies it, by name, to add W (x - y) y^T row by row,
            which is smaller where there are few rows; None to add (x - y) y^T.

    Attributes:
        tokens: how many were added.
        moments: float32 [width, width], H; only what is on and below the diagonal is meant.
        paired: whether both models saw the same tokens, so that there is a drift.
    """

    def __init__(self, width: int, each: EachPanel, weights: Mapping[str, torch.Tensor] | None = None) -> None:
        self.width, self._each, self._weights, self.tokens = width, each, weights, 0
        self.moments = torch.zeros(width, width)
        self._cross: torch.Tensor | None = None
        self._products: dict[str, torch.Tensor] = {}
        self.paired = False

    def add(self, pair: Pair) -> None:
        """Add a batch."""
        y = pair.changed.contiguous()
        self.tokens += len(y)
        self._add(self.moments, y, y, lower=True)
        if pair.original is None:
            return
        self.paired = True
        gone = pair.original - y
        for name, weight in (self._weights or {}).items():
            self._add_product(name, gone @ weight.T, y)
        for name, residual in pair.residuals.items():
            self._add_product(name, residual, y)
        if self._weights is None:
            if self._cross is None:
                self._cross = torch.zeros(self.width, self.width)
            self._add(self._cross, gone, y)

    def _add_product(self, name: str, errors: torch.Tensor, y: torch.Tensor) -> None:
        if name not in self._products:
            self._products[name] = torch.zeros(errors.shape[1], self.width)
        self._add(self._products[name], errors, y)

    def _add(self, total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, lower: bool = False) -> None:
        """Add left^T right."""

        def panel(a: int) -> None:
            b = min(a + _PANEL, len(total))
            end = b if lower else total.shape[1]
            total[a:b, :end] += left[:, a:b].T @ right[:, :end]

        self._each(panel, range(0, len(total), _PANEL))

    def merge(self, other: Sums, tokens: int) -> None:
        """Add another's moments as if it had seen so many tokens."""
        self.moments += other.moments * (tokens / max(1, other.tokens))
        self.tokens += tokens

    def absorb(self, other: Sums) -> None:
        """Add all of another's sums, of other tokens of the same input."""
        self.merge(other, other.tokens)
        self.paired = self.paired or other.paired
        if other._cross is not None:
            self._cross = other._cross if self._cross is None else self._cross + other._cross
        for name, product in other._products.items():
            mine = self._products.get(name)
            self._products[name] = product if mine is None else mine + product

    def mean(self) -> torch.Tensor:
        """H by token: symmetric float32 [width, width]."""
        lower = torch.tril(self.moments)
        return (lower + torch.tril(lower, -1).T) / max(1, self.tokens)

    def drift(self, name: str, rows: slice, weights: torch.Tensor) -> torch.Tensor | None:
        """D of some rows of a tensor, by token.

        Args:
            name: the tensor's.
            rows: which.
            weights: float32 [rows, width], theirs.

        Returns:
            float32 [rows, width]; None where the models saw different tokens.
        """
        if not self.paired:
            return None
        parts = [] if self._cross is None else [weights @ self._cross]
        if name in self._products:
            parts.append(self._products[name][rows])
        return torch.stack(parts).sum(0) / self.tokens
