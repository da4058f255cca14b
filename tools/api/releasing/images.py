"""What is particular about releases of models that make images and videos: no text runs through them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ....formats.diffusion.layouts import BY_NAME
from ....formats.diffusion.read import LAYOUT
from ....formats.gguf.image_archs import is_image
from ....formats.progress import Progress, note
from ....quantize.image_recipes import IMAGE_SET
from ..checks import refuse
from .options import ReleaseOptions

if TYPE_CHECKING:
    from ....formats.ir import Model

_VIDEO = frozenset({"wan", "hyvid", "ltxv", "cosmos"})


def options_for(model: Model, options: ReleaseOptions, progress: Progress | None) -> ReleaseOptions:
    """The options of a release as the model can have them.

    Args:
        model: the model.
        options: what was asked for.
        progress: told that no importance is collected for an image model.

    Raises:
        PlanError: something needs a text that runs through an image model.
    """
    if not is_image(model.arch):
        return options
    refuse(
        {"--evaluate": options.evaluate, "--refine": options.refine, "--file": options.text is not None},
        "no text runs through a model that makes images",
    )
    if options.collects:
        note(progress, "no importance is collected: no text runs through a model that makes images")
        options = replace(options, imatrix=None)
    usual = options.recipe_set == ReleaseOptions.recipe_set
    return replace(options, recipe_set=IMAGE_SET if usual else options.recipe_set)


def image_task(model: Model) -> str:
    """The hub's pipeline tag of an image model.

    Example:
        >>> from pathlib import Path
        >>> from quantmill.formats.ir import Model
        >>> image_task(Model("wan", {}, (), Path("wan.gguf")))
        'text-to-video'
    """
    return "text-to-video" if model.arch in _VIDEO else "text-to-image"


def image_class(model: Model) -> str:
    """The class of diffusers that loads an image model's files; empty where none does."""
    layout = BY_NAME.get(str(model.get(LAYOUT)))
    return "" if layout is None or layout.folded else layout.classes[0]
