"""The options of a release."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ....formats.errors import PlanError
from ....quantize.patterns import TypeRule
from ..checks import refuse
from ..options import StrPath
from ..planning import DEFAULT_REFINE_WIDTH
from .checkpoints import NEED_TEXT
from .front_matter import check_identifiers
from .manifest import source_files
from .published import read_published

if TYPE_CHECKING:
    from ....formats.qtypes import QType
    from ....quantize.plan_options import PlanOptions

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
        language: languages of the model, for the model card, in place of what the original's card says; such as ``en``.
        license: the license, likewise, by the hub's identifier, such as ``apache-2.0``.
        compare: a table of files of other sets, which the model card shows beside these; see ``docs/commands.md``.
        recipe_set: the recipe set that the levels are of.
        tensor_types: (pattern, type) pairs that come before the recipes of all levels; see ``PlanOptions``.
        target_sizes: sizes in bytes, for each of which a file is made that loses least; see ``SizeTarget``.
        refine: let later weights correct the errors of earlier ones, by second moments of the text; with ``evaluate``
            each refined file is measured beside one of the same types that is not refined.
        refine_width: how many columns correct each other, at most; a multiple of 256.
        original: add the weights as they are, in a file of their own.
        gptq: add GPTQ checkpoints of so many bits each; like the following, in folders of their own.
        awq: add an AWQ checkpoint.
        compress: add checkpoints in these schemes of compressed-tensors; see ``compress``.
        group_size: of GPTQ, AWQ and whole numbers of compressed-tensors; None for the largest of 128, 64 and 32 that
            divides the widths of all layers.
        split_max_size: the most bytes of a file; larger models are written as shards. The hub takes 50 GB.

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
    language: Sequence[str] = ()
    license: str | None = None
    compare: StrPath | None = None
    recipe_set: str = "current"
    tensor_types: Sequence[tuple[str, str | QType] | TypeRule] = ()
    target_sizes: Sequence[int] = ()
    refine: bool = False
    refine_width: int = DEFAULT_REFINE_WIDTH
    original: bool = False
    gptq: Sequence[int] = ()
    awq: bool = False
    compress: Sequence[str] = ()
    group_size: int | None = None
    split_max_size: int = 50_000_000_000

    @property
    def collects(self) -> bool:
        """Whether importance is collected for the release."""
        return self.imatrix == AUTO

    @property
    def reads_text(self) -> bool:
        """Whether a text decides what the release holds."""
        return self.collects or bool(self.gptq) or self.awq or any(name.lower() in NEED_TEXT for name in self.compress)

    @property
    def plan_options(self) -> PlanOptions:
        """The options of every level's plan, without importance."""
        from ....quantize.plan_options import PlanOptions

        return PlanOptions(recipe_set=self.recipe_set, tensor_types=self.tensor_types)

    @property
    def rules(self) -> tuple[tuple[str, str], ...]:
        """The tensor types as pairs of texts."""
        pairs = [(one.pattern, one.type) if isinstance(one, TypeRule) else one for one in self.tensor_types]
        return tuple((pattern, str(type)) for pattern, type in pairs)

    def check(self) -> None:
        """Raise ``PlanError`` for options that would have no effect, and ``FormatError`` for a table that is none."""
        if self.refine and self.imatrix is None:
            raise PlanError("needs importance", where="--refine", hint="leave out --imatrix none")
        _check_width(self.refine, self.refine_width)
        check_identifiers(self.license, self.language)
        if self.compare is not None:
            read_published(Path(self.compare))
        if not self.reads_text:
            why = "no importance is collected" if self.imatrix is None else "importance is a file's"
            refuse({"--file": self.text is not None}, why)
        if not self.evaluate:
            refuse({"--evaluation-text": self.evaluation_text is not None}, "nothing is measured without --evaluate")
            if not self.reads_text:
                size = self.n_ctx != ReleaseOptions.n_ctx
                refuse({"--ctx-size": size, "--chunks": self.chunks is not None}, "no text is read")

    def key(self, model: Path, levels: Sequence[str]) -> dict[str, object]:
        """The settings that decide what a release holds, as JSON has them.

        Args:
            model: the model's file or folder.
            levels: the levels, each once.
        """
        texts = {name: None if path is None else str(path) for name, path in (
            ("imatrix", self.imatrix), ("text", self.text), ("evaluation_text", self.evaluation_text),
        )}  # fmt: skip
        source = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in source_files(model)]
        numbers = {"n_ctx": self.n_ctx, "chunks": self.chunks, "evaluate": self.evaluate}
        members = {
            "tensor_types": [list(rule) for rule in self.rules], "target_sizes": list(self.target_sizes),
            "refine": self.refine, "refine_width": self.refine_width,
            "gptq": list(self.gptq), "awq": self.awq, "compress": list(self.compress), "group_size": self.group_size,
            "original": self.original, "split_max_size": self.split_max_size,
        }  # fmt: skip
        names = {"recipe_set": self.recipe_set, "name": self.name}
        return {"model": source, "levels": list(levels), **texts, **numbers, **names, **members}


def _check_width(refine: bool, width: int) -> None:
    if width != DEFAULT_REFINE_WIDTH:
        refuse({"--refine-width": not refine}, "nothing is refined without --refine")
    if width % DEFAULT_REFINE_WIDTH or width < 1:
        raise PlanError(f"{width} is not a multiple of {DEFAULT_REFINE_WIDTH}", where="--refine-width")
