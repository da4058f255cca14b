"""The model card's picture: the size of each file against its KL divergence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ....formats.errors import visible
from .card import File


def plot_sizes(files: Sequence[File], title: str, path: Path) -> None:
    """Write a PNG with a point for each file that was measured. It has no dates in it, so that its bytes repeat.

    Args:
        files: the release's files.
        title: above the picture, such as the model's name.
        path: the PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    unit, scale = ("GB", 1e9) if max(file.n_bytes for file in files) >= 1e9 else ("MB", 1e6)
    points = [(file.n_bytes / scale, file.kld_mean, file.level) for file in files if file.kld_mean is not None]
    figure, axes = pyplot.subplots(figsize=(9, 5.5), dpi=120, layout="constrained")
    for family, marker, color in (("IQ", "o", "#b5541c"), ("Q", "s", "#1c5fb5"), ("", "^", "#555555")):
        mine = [point for point in points if _family(point[2]) == family]
        axes.scatter([p[0] for p in mine], [p[1] for p in mine], marker=marker, color=color, s=36, zorder=3)
    for place, (size, kld, level) in enumerate(sorted(points)):
        above = place % 2 == 0
        axes.annotate(
            level, (size, kld), textcoords="offset points", xytext=(0, 9 if above else -15), ha="center", fontsize=8
        )
    if all(point[1] > 0 for point in points):
        axes.set_yscale("log")
    axes.set_xlabel(f"size ({unit})")
    axes.set_ylabel("mean KL divergence from the original")
    axes.set_title(visible(title), parse_math=False)
    axes.grid(True, which="both", color="#dddddd", linewidth=0.6, zorder=0)
    axes.margins(x=0.08, y=0.12)
    figure.savefig(path, format="png", metadata={"Software": None})
    pyplot.close(figure)


def _family(level: str) -> str:
    return "IQ" if level.startswith("IQ") else "Q" if level.startswith("Q") else ""
