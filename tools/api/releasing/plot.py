"""The model card's picture: the size of each file against its KL divergence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ....formats.errors import visible
from ..size_plot import Point, draw_sizes
from .card import File
from .published import PublishedFile


def plot_sizes(files: Sequence[File], others: Sequence[PublishedFile], title: str, path: Path) -> bool:
    """Write a PNG with a point for each file that was measured. It has no dates in it, so that its bytes repeat.

    Args:
        files: the release's files, labelled with their levels.
        others: files of other sets, in their own colour and labelled with their names.
        title: above the picture, such as the model's name.
        path: the PNG to write.

    Returns:
        whether there was anything to draw.
    """
    points = [
        Point(
            file.n_bytes, file.figures["kld_mean"], label, file.level, file.figures.get("kld_mean_error", 0.0), theirs
        )
        for listed, theirs in ((files, False), (others, True))
        for file in listed
        if "kld_mean" in file.figures
        for label in [visible(file.name) if theirs else file.level]
    ]
    if points:
        draw_sizes(points, title, path, "png")
    return bool(points)
