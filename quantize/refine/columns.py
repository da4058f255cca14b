"""What the compiled walks take: rows of a weight over a block of columns, as named tuples of arrays in the lane form.

In the lane form (``products.to_lanes``) rows are lanes: an array has a line of ``VEC`` rows for each column, a group of
``VEC`` rows after the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .products import SQUARE, new_lanes

PANEL = 256  # columns that are refined together while the others wait
OCTET = 8  # columns whose errors meet one after the other; a square's other columns get them together


class Columns(NamedTuple):
    """Columns of rows, from one column on.

    Args:
        values: float32 [groups * width, VEC].
        at: the first column that is meant.
        width: how many columns ``values`` has.
    """

    values: Any
    at: int
    width: int


class Lanes(NamedTuple):
    """The state of rows over a block of columns; each array is float32 [groups * width, VEC].

    Args:
        weights: the weights.
        errors: weight minus value.
        left: what remained of the compensated weight, minus the value, when its code was chosen.
        gradient: errors times H, true in the panel that is being swept.
        width: how many columns the block has.
        lost: float32 [groups * VEC], the loss of each row so far.
    """

    weights: Any
    errors: Any
    left: Any
    gradient: Any
    width: int
    lost: Any


class Metric(NamedTuple):
    """The quadratic loss over a panel of columns.

    Args:
        moments: its matrix, packed (see ``products.pack``).
        sums: float32 [width / SQUARE, 2, SQUARE], of each square on its diagonal the sums over the upper and the lower
            half of its rows.
        inverses: float32 [width, OCTET], the inverses of its diagonal octets, one below the other.
        curvature, inverse_curvature: float32 [width], its diagonal, and one over it.
    """

    moments: Any
    sums: Any
    inverses: Any
    curvature: Any
    inverse_curvature: Any


class Scratch(NamedTuple):
    """Room for a square of one group.

    Args:
        moves: float32 [SQUARE, VEC], how far each error has moved.
        steps: float32 [OCTET, VEC], how far each error of an octet moves.
        values, product: float32 [SQUARE, VEC], the values in units of the scale, and their product with the square.
        moved: int32 [SQUARE + 1], how many columns moved in any lane, and which.
        few: int32 [OCTET + 1], likewise of an octet.
        lost: float32 [1, VEC], the loss so far.
    """

    moves: Any
    steps: Any
    values: Any
    product: Any
    moved: Any
    few: Any
    lost: Any


def new_scratch() -> Scratch:
    """Return scratch for a walk."""
    moves, steps, values, product, lost = (new_lanes(n) for n in (SQUARE, OCTET, SQUARE, SQUARE, 1))
    moved, few = np.zeros(SQUARE + 1, np.int32), np.zeros(OCTET + 1, np.int32)
    return Scratch(moves, steps, values, product, moved, few, lost)
