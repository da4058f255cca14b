"""Rows that try a kernel: ordinary weights and the corners where a search degenerates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = dict[str, NDArray[np.float32]]


def row_sets(k: int, n: int = 37, seed: int = 0) -> Rows:
    """Named float32 [rows, k]. 37 rows of several blocks fill no whole number of lanes."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal
    outlier = 0.01 * normal((n, k))
    outlier[:, 7] = 50
    outlier[3:, 200 % k] = -500
    sets = {
        "normal": normal((n, k)),
        "heavy": rng.standard_t(2, (n, k)),
        "constant": np.ones((5, k)) * np.array([1, -1, 0.3, -2.7, 100])[:, None],
        "zero": np.zeros((3, k)),
        "zeros_of_both_signs": np.where(rng.random((5, k)) < 0.5, 0.0, -0.0),
        "subnormal": normal((n, k)) * 1e-41,
        "near_subnormal": normal((n, k)) * 1e-38,
        "tiny": normal((n, k)) * 1e-30,
        "below_epsilon": normal((n, k)) * 1e-16,
        "outlier": outlier,
        "mixed_rows": normal((n, k)) * 10.0 ** rng.integers(-8, 4, (n, 1)),
        "mixed": normal((n, k)) * 10.0 ** rng.integers(-8, 4, (n, k)),
        "mixed_blocks": normal((n, k)) * np.repeat(10.0 ** rng.integers(-6, 3, (n, k // 16)), 16, 1),
        "positive": np.abs(normal((n, k))) + 1,
        "negative": -np.abs(normal((n, k))) - 1,
        "grid": rng.integers(-8, 8, (n, k)) * 0.125,
        "sparse": np.where(rng.random((n, k)) < 0.95, 0, normal((n, k))),
    }
    return {name: rows.astype(np.float32) for name, rows in sets.items()}


def importances(k: int, seed: int = 1) -> dict[str, NDArray[np.float32]]:
    """Named importance float32 [k]."""
    rng = np.random.default_rng(seed)
    sets = {
        "uniform": rng.random(k),
        "spiky": np.exp(4 * rng.standard_normal(k)),
        "sparse": np.where(rng.random(k) < 0.5, 0, rng.random(k)),
        "zero": np.zeros(k),
    }
    return {name: weights.astype(np.float32) for name, weights in sets.items()}
