"""The model card's picture: the size of each file against its KL divergence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..size_plot import Point, draw_sizes
from .card import File


def plot_sizes(files: Sequence[File], title: str, path: Path) -> None:
    """Write a PNG with a point for each file that was measured. It has no dates in it, so that its bytes repeat.

    Args:
        files: the release's files.
        title: above the picture, such as the model's name.
        path: the PNG to write.
    """
    points = [Point(file.n_bytes, file.kld_mean, file.level, file.level) for file in files if file.kld_mean is not None]
    draw_sizes(points, title, path, "png")
