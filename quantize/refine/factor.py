"""The damped second moments H of a layer's inputs, and the factor of H, as error feedback needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..kernels.contract import F32_ARRAY
from .products import SQUARE, cholesky, pack

DAMPING = 0.05  # of the mean of H's diagonal, added to it
_RAISE = 10.0  # times the damping, while H is not positive definite
_LARGEST = 1e3


@dataclass(frozen=True)
class Block:
    """A diagonal block of the second moments: ``width`` columns from ``first`` on.

    With H = M M^T, M upper triangular: once columns before j have errors E (weight minus value), the best value of
    column j is near w_j + sum_{i<j} E_i M_ij / M_jj, and what its own error e costs is (e M_jj)^2.

    Args:
        moments: H, packed (see ``products.pack``).
        factor: M with each column divided by its diagonal entry, packed.
        turned: M's transpose, each row times its diagonal entry, packed.
        near_moments, near_factor: float32 [width / SQUARE, SQUARE, SQUARE], the squares on the diagonals of H and of
            the divided M.
        octets: float32 [width / SQUARE, SQUARE, 8], the inverses of H's diagonal octets, one below the other.
        diagonal: float32 [width], M's.
        importance: float32 [width], the diagonal of H, not damped.
        curvature: float32 [width], the diagonal of H, damped.
        damping: what was added to the diagonal, as a fraction of its mean.
    """

    first: int
    width: int
    moments: F32_ARRAY
    factor: F32_ARRAY
    turned: F32_ARRAY
    near_moments: F32_ARRAY
    near_factor: F32_ARRAY
    octets: F32_ARRAY
    diagonal: F32_ARRAY
    importance: F32_ARRAY
    curvature: F32_ARRAY
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
    near, divided = squares(damped, SQUARE), factor / diagonal
    return Block(
        first, len(h), pack(damped), pack(divided), pack(factor.T * diagonal[:, None]), near.astype(np.float32),
        squares(divided, SQUARE).astype(np.float32), np.linalg.inv(squares(damped, 8)).reshape((*near.shape[:2], 8))
        .astype(np.float32), diagonal.astype(np.float32), importance, np.diag(damped).astype(np.float32), damping,
    )  # fmt: skip


def squares(matrix: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return the squares [columns / n, n, n] on a matrix's diagonal."""
    parts = len(matrix) // n
    return np.ascontiguousarray(matrix.reshape(parts, n, parts, n)[np.arange(parts), :, np.arange(parts)])
