"""Products in digits: near the floats', and the same numbers whatever the processor computes them with."""

from __future__ import annotations

import numpy as np
import pytest

from quantmill.quantize.refine.columns import Columns
from quantmill.quantize.refine.integers import add_whole, digits_of, matrix_units, new_error_digits, set_digits
from quantmill.quantize.refine.products import from_lanes, to_lanes

WIDTH = 640  # two panels and a half


def product(rows: np.ndarray, matrix: np.ndarray, units: bool, first: int = 0, last: int = 768) -> np.ndarray:
    """Ones, and the rows' products with columns 16 to 80 of the matrix, from the first column to the last."""
    lanes = to_lanes(rows)
    digits, errors = digits_of(matrix, units), new_error_digits(len(lanes) // WIDTH, WIDTH, units)
    for at in range(0, WIDTH, 256):
        set_digits(Columns(lanes, at, WIDTH), min(256, WIDTH - at), errors)
    out = np.ones((len(lanes) // WIDTH * 96, 16), np.float32)
    add_whole(digits, errors, first, last, 16, 80, Columns(out, 32, 96))
    whole = from_lanes(out, len(rows), 96)
    assert (whole[:, :32] == 1).all()
    return whole[:, 32:]


def values(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("n", [3, 20, 35])
def test_near_the_floats(n: int) -> None:
    """A row of zeros, panels and columns of other sizes: within 2**-13 of what the largest could add up to."""
    rows, matrix = values(0, n, WIDTH) * 0.02, values(1, WIDTH, 96) * np.exp(values(2, 96))
    rows[:, 256:512] *= 1e-6
    rows[1] = 0
    found = product(rows, matrix, False)
    exact = 1 + rows.astype(np.float64) @ matrix[:, 16:80]
    bound = np.abs(rows).max(axis=1)[:, None] * np.abs(matrix[:, 16:80]).max(axis=0) * np.sqrt(WIDTH) * 2**-13
    assert (np.abs(found - exact) <= bound + 1e-6).all()
    assert (found[1] == 1).all()
    part = product(rows, matrix, False, 256, 512)
    assert np.abs(part - 1 - rows[:, 256:512].astype(np.float64) @ matrix[256:512, 16:80]).max() < 1e-6


def test_digits_of_the_largest() -> None:
    """Every number at its limit: the sums just fit."""
    rows, matrix = np.ones((2, WIDTH), np.float32), np.full((WIDTH, 96), -2, np.float32)
    rows[1] = -1
    assert product(rows, matrix, False) == pytest.approx(np.array([[1 - 2 * WIDTH], [1 + 2 * WIDTH]]) + np.zeros(64))


@pytest.mark.skipif(not matrix_units(), reason="this processor has no matrix units")
def test_matrix_units_give_the_same_numbers() -> None:
    rows, matrix = values(0, 35, WIDTH), values(1, WIDTH, 96)
    assert (product(rows, matrix, True) == product(rows, matrix, False)).all()
