"""What a weight should become, and what it costs not to.

A layer's output in the original is W x, in the changed model V y; where hidden states are added to it, they differ too,
by r. Of all V the one that brings W x + r nearest is W + D H^-1 (see ``sums.py``), found with some damping, for D is
measured on few tokens. The idea of asymmetric calibration is GPTAQ's (arXiv:2504.02692); r is added to it here.
"""

from __future__ import annotations

import torch

# Fractions of the mean of H's diagonal that are tried as damping: the fewer the tokens, the more serves best.
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)


def ridge_factor(moments: torch.Tensor, ridge: float) -> torch.Tensor | None:
    """Factor H with some damping, for ``retarget``.

    Args:
        moments: float32 [width, width], H by token.
        ridge: the fraction of the mean of H's diagonal that is added to it.

    Returns:
        float64 [width, width], lower triangular; None where H has no factor, or there was no input.
    """
    mean = float(moments.diagonal().mean())
    if not mean > 0:
        return None
    damped = moments.double()
    damped.diagonal().add_(ridge * mean)
    factor, failed = torch.linalg.cholesky_ex(damped)
    return None if failed else factor


def retarget(weights: torch.Tensor, drift: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move weights towards what repairs the errors that come with their inputs.

    Args:
        weights: float32 [rows, width], W.
        drift: float32 [rows, width], D by token.
        factor: from ``ridge_factor``.

    Returns:
        float32 [rows, width].

    Example:
        >>> retarget(torch.ones(1, 2), torch.tensor([[1.0, 0.0]]), ridge_factor(torch.eye(2), ridge=0.0))
        tensor([[2., 1.]])
    """
    return weights + torch.cholesky_solve(drift.double().T, factor).T.float()


def losses(change: torch.Tensor, drift: torch.Tensor | None, moments: torch.Tensor) -> torch.Tensor:
    """What each row of a changed weight costs by token, less what W itself costs.

    Args:
        change: float32 [rows, width], V - W.
        drift: as above, or None for none.
        moments: as above.

    Returns:
        float64 [rows], the mean of (W x + r - V y)^2 less that of (W x + r - W y)^2.
    """
    cost = ((change @ moments).double() * change).sum(1)
    return cost if drift is None else cost - 2 * (change.double() * drift).sum(1)
