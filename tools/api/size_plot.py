"""A picture of files: the size of each against its KL divergence from the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from ...formats.errors import visible

if TYPE_CHECKING:
    from .comparison import ModelComparison

PlotFormat = Literal["png", "svg"]
_SERIES = (("IQ", "o", "#b5541c"), ("Q", "s", "#1c5fb5"), ("", "^", "#555555"))
_NO_DATE: dict[str, dict[str, str | None]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


@dataclass(frozen=True)
class Point:
    """A file in the picture.

    Args:
        nbytes: its size.
        kld: its mean KL divergence, nats.
        label: what stands at the point.
        level: such as ``IQ3_M``; its first letters choose the marker.
        error: of ``kld``; 0 for no bar.
        theirs: whether it is of another set, which is drawn hollow.
    """

    nbytes: int
    kld: float
    label: str
    level: str
    error: float = 0.0
    theirs: bool = False


def draw_sizes(points: Sequence[Point], title: str, file: Path | BinaryIO, format: PlotFormat) -> None:
    """Draw points. There are no dates in the picture, so that its bytes repeat.

    Args:
        points: at least one.
        title: above the picture, such as the model's name.
        file: where it goes.
        format: of the file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    unit, scale = ("GB", 1e9) if max(point.nbytes for point in points) >= 1e9 else ("MB", 1e6)
    with matplotlib.rc_context({"svg.hashsalt": "quantmill"}):
        figure, axes = pyplot.subplots(figsize=(9, 5.5), dpi=120, layout="constrained")
        for (family, marker, color), theirs in product(_SERIES, (False, True)):
            mine = [point for point in points if (_family(point.level), point.theirs) == (family, theirs)]
            places = [point.nbytes / scale for point in mine], [point.kld for point in mine]
            inside = "none" if theirs else color
            axes.scatter(*places, marker=marker, facecolors=inside, edgecolors=color, s=36, zorder=3)
            if any(point.error for point in mine):
                errors = [point.error for point in mine]
                axes.errorbar(*places, yerr=errors, fmt="none", color=color, linewidth=1, capsize=3)
        for number, point in enumerate(sorted(points, key=lambda point: (point.nbytes, point.kld, point.label))):
            axes.annotate(
                point.label, (point.nbytes / scale, point.kld), textcoords="offset points",
                xytext=(0, 9 if number % 2 == 0 else -15), ha="center", fontsize=8, parse_math=False,
            )  # fmt: skip
        if all(point.kld > 0 for point in points):
            axes.set_yscale("log")
        axes.set_xlabel(f"size ({unit})")
        axes.set_ylabel("mean KL divergence from the original")
        axes.set_title(visible(title), parse_math=False)
        axes.grid(True, which="both", color="#dddddd", linewidth=0.6, zorder=0)
        axes.margins(x=0.08, y=0.12)
        figure.savefig(file, format=format, metadata=_NO_DATE[format])
        pyplot.close(figure)


def plot_comparison(found: ModelComparison, path: Path) -> None:
    """Write the picture of a comparison, an SVG or a PNG by its suffix, in the place of any that is there.

    Raises:
        OutputError: the file cannot be written.
    """
    from ...formats.storage.durable import replacing
    from ...formats.storage.endings import ending

    points = [
        Point(
            model.size.nbytes,
            model.figures.kld_mean,
            visible(model.path.stem if model.path.is_file() else model.path.name),
            _level(model.path.name),
            model.figures.kld_mean_error,
        )
        for model in found.models
    ]
    with replacing(path) as file:
        draw_sizes(points, found.base.name, file, "svg" if ending(path) == ".svg" else "png")


def _level(name: str) -> str:
    """The part of a file's name that is a level, such as ``IQ3_M``; empty where there is none."""
    parts = name.upper().replace("-", ".").split(".")
    return next(
        (part for part in reversed(parts) if part.startswith(("IQ", "Q")) and part.strip("IQ")[:1].isdigit()), ""
    )


def _family(level: str) -> str:
    return "IQ" if level.startswith("IQ") else "Q" if level.startswith("Q") else ""
