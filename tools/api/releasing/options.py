"""The options of a release."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..options import StrPath

AUTO = "auto"


@dataclass(frozen=True)
class ReleaseOptions:
    """What a release holds.

    Args:
        levels: the levels, such as ``["Q4_K_M", "Q8_0"]``; None for all that are usually published.
        imatrix: the file of an importance matrix; ``"auto"`` to collect one from ``text``; None for none.
        text: the text to collect importance from; None for the one that ships with the package.
        n_ctx: tokens in a chunk of the texts.
        chunks: how many chunks of each text to use, at most; None for all.
        evaluate: measure the perplexity and the KL divergence of every file.
        evaluation_text: the text to measure on. None for the text that ships with the package; if importance is
            collected from that too, a quarter is kept for the evaluation.
        name: what the files' names begin with; None for the model's name.
        base_model: the original's repository, for the model card.
        quantized_by: who made the release, for the model card.
        recipe_set: the recipe set that the levels are of.

    Example:
        >>> from quantmill import ReleaseOptions
        >>> ReleaseOptions(levels=["Q4_K_M", "Q8_0"], imatrix=None).n_ctx
        512
    """

    levels: Sequence[str] | None = None
    imatrix: StrPath | None = AUTO
    text: StrPath | None = None
    n_ctx: int = 512
    chunks: int | None = None
    evaluate: bool = False
    evaluation_text: StrPath | None = None
    name: str | None = None
    base_model: str | None = None
    quantized_by: str | None = None
    recipe_set: str = "current"
