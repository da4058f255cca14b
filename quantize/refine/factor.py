"""The damped second moments H of a layer's inputs, and the factor of H, as error feedback needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..kernels.contract import F32_ARRAY
from .columns import OCTET, PANEL, Metric
from .integers import Digits, digits_of, matrix_units
from .products import SQUARE, cholesky, gram, pack

DAMPING = 0.05  # of the mean of H's diagonal, added to it
_RAISE = 10.0  # times the damping, while H is not positive definite
_LARGEST = 1e3


@dataclass(frozen=True)
class Panel:
    """Columns of a block that are refined together while the others wait: ``width`` from column ``first`` on.

    Args:
        first, width: the columns, multiples of ``SQUARE``.
        ahead: the loss over them where all later columns of the block repair what they can: H's part less what the
            later ones take (the Schur complement), which is the factor's part times its transpose.
        joint: the loss over them where no other column moves: H's part.
        turned: the factor's part, transposed, each row times its diagonal entry, packed.
    """

    first: int
    width: int
    ahead: Metric
    joint: Metric
    turned: F32_ARRAY


@dataclass(frozen=True)
class Others:
    """What the panels of a block get from each other, in digits.

    Args:
        moments: H.
        factor: the divided M, zero in the panels themselves.
    """

    moments: Digits
    factor: Digits


@dataclass(frozen=True)
class Block:
    """A diagonal block of the second moments: ``width`` columns from ``first`` on.

    With H = M M^T, M upper triangular: once columns before j have errors E (weight minus value), the best value of
    column j is near w_j + sum_{i<j} E_i M_ij / M_jj, and what its own error e costs is (e M_jj)^2.

    Args:
        factor: M with each column divided by its diagonal entry, packed (see ``products.pack``).
        others: what its panels get from each other; None where there is one.
        panels: its columns in panels of ``PANEL``; the last may be narrower.
        diagonal: float32 [width], M's.
        importance: float32 [width], the diagonal of H, not damped.
        damping: what was added to the diagonal, as a fraction of its mean.
    """

    first: int
    width: int
    factor: F32_ARRAY
    others: Others | None
    panels: tuple[Panel, ...]
    diagonal: F32_ARRAY
    importance: F32_ARRAY
    damping: float

    @property
    def end(self) -> int:
        return self.first + self.width


def make_blocks(moments: Sequence[NDArray[np.float64]], damping: float = DAMPING) -> list[Block]:
    """Factor the second moments of one matrix's inputs into blocks, in column order.

    Args:
        moments: the means of x x^T, symmetric float64 [b, b], b a multiple of ``SQUARE``.
        damping: the fraction of the diagonal's mean to add to it; raised tenfold for a block until it has a factor.

    Raises:
        ValueError: the matrices cannot be second moments.
    """
    blocks, first = [], 0
    for h in moments:
        blocks.append(_block(first, h, damping))
        first += len(h)
    return blocks


def _block(first: int, h: NDArray[np.float64], damping: float) -> Block:
    assert len(h) % SQUARE == 0
    importance = np.diag(h).astype(np.float32)
    mean = float(np.diag(h).mean())
    if not mean > 0:  # no input ever: every column alike, and no feedback
        h, mean, importance = np.eye(len(h)), 1.0, np.ones(len(h), np.float32)
    while True:
        damped = h + np.eye(len(h)) * (damping * mean)
        upper = np.ascontiguousarray(damped[::-1, ::-1])
        if cholesky(upper):
            break
        damping = max(damping, 1e-3) * _RAISE
        if damping > _LARGEST:
            raise ValueError("the second moments are far from positive definite")
    factor = np.triu(upper)[::-1, ::-1].T
    diagonal = np.diag(factor).copy()
    panels = tuple(_panel(damped, factor, at, min(at + PANEL, len(h))) for at in range(0, len(h), PANEL))
    divided = factor / diagonal
    others = _others(damped, divided) if len(panels) > 1 else None
    return Block(first, len(h), pack(divided), others, panels, diagonal.astype(np.float32), importance, damping)


def _others(h: NDArray[np.float64], divided: NDArray[np.float64]) -> Others:
    far = divided.astype(np.float32)
    for at in range(0, len(h), PANEL):
        far[at : at + PANEL, at : at + PANEL] = 0
    return Others(*(digits_of(matrix, matrix_units()) for matrix in (h.astype(np.float32), far)))


def _panel(h: NDArray[np.float64], factor: NDArray[np.float64], start: int, end: int) -> Panel:
    m = np.ascontiguousarray(factor[start:end, start:end])
    joint = metric_of(np.ascontiguousarray(h[start:end, start:end]))
    ahead = joint if end == len(h) else metric_of(gram(m))
    return Panel(start, end - start, ahead, joint, pack(m.T * np.diag(m)[:, None]))


def metric_of(h: NDArray[np.float64]) -> Metric:
    """Return the quadratic loss of a symmetric matrix, a multiple of ``SQUARE`` wide."""
    n, curvature = len(h), np.diag(h).astype(np.float32)
    sums = squares(h, SQUARE).reshape(n // SQUARE, 2, SQUARE // 2, SQUARE).sum(axis=2).astype(np.float32)
    inverses = np.linalg.inv(squares(h, OCTET)).reshape(n, OCTET).astype(np.float32)
    return Metric(pack(h), sums, inverses, curvature, np.float32(1) / curvature)


def squares(matrix: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return the squares [columns / n, n, n] on a matrix's diagonal."""
    parts = len(matrix) // n
    return np.ascontiguousarray(matrix.reshape(parts, n, parts, n)[np.arange(parts), :, np.arange(parts)])
