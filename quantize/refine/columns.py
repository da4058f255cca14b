"""What the compiled walks take: rows of a weight over a block of columns, as named tuples of arrays in the lane form.

In the lane form (``products.to_lanes``) rows are lanes: an array has a line of ``VEC`` rows for each column, a group of
``VEC`` rows after the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple


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
        gradient: errors times H, true after feedback.
        width: how many columns the block has.
    """

    weights: Any
    errors: Any
    left: Any
    gradient: Any
    width: int


class Moves(NamedTuple):
    """How far the columns of a square moved.

    Args:
        values: float32 [groups * n, VEC], how far each of ``n`` columns moved.
        moved: int32 [groups, n + 1], how many columns of the group moved at all, and which.
    """

    values: Any
    moved: Any
