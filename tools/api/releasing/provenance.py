"""How the files of a release were made, for its manifest and its card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ....formats.storage.durable import sha256_of_file
from ..options import StrPath
from ..planning import DEFAULT_REFINE_WIDTH
from .manifest import EvaluationFacts, ImatrixFacts, Manifest, TextFacts
from .markdown import code, word
from .options import ReleaseOptions
from .targets import size_name
from .texts import text_path

if TYPE_CHECKING:
    from ....quantize.plan import Plan


def imatrix_facts(path: Path, plan: Plan, options: ReleaseOptions) -> ImatrixFacts:
    """What is known of the importance matrix of a release.

    Args:
        path: its file.
        plan: made with it.
        options: those of the release.
    """
    from ....formats.imatrix_file import read_imatrix

    fit, read = plan.importance_fit, read_imatrix(path)
    collected = options.collects
    facts = ImatrixFacts(
        path.name,
        sha256_of_file(path),
        TextFacts.of(text_path(options.text)) if collected else None,
        options.n_ctx if collected else read.chunk_size,
        chunks=read.chunk_count or None,
        datasets=tuple(Path(name).name for name in read.datasets),  # other folders are nobody's business
    )
    return facts if fit is None else replace(facts, matched=len(fit.matched), missed=fit.missed)


def provenance(manifest: Manifest, options: ReleaseOptions, folder: str) -> list[tuple[str, str]]:
    """How the files were made, as labels and texts."""
    lines = [("Program", f"quantmill {manifest.versions['quantmill']}, recipe set `{manifest.recipe_set}`")]
    imatrix, evaluation = manifest.imatrix, manifest.evaluation
    if imatrix is None:
        lines.append(("Importance matrix", "none"))
    else:
        lines.append(("Importance matrix", _of_imatrix(imatrix)))
        if imatrix.missed:
            total = (imatrix.matched or 0) + len(imatrix.missed)
            used = f"{imatrix.matched} of {total} entries; the model has no tensor of the others"
            lines.append(("Importance used", used))
    if manifest.refinement is not None:
        lines.append(("Refined", _refined(manifest.refinement.width, manifest)))
    if evaluation is not None:
        measured = f"on {_text(evaluation.text)}, {_judged(evaluation)}{_apart(imatrix, evaluation)}"
        lines.append(
            ("Measured", f"{measured}; the original's perplexity there is {evaluation.base['perplexity']:.3f}")
        )
    return [*lines, ("Command", code(_command(manifest, options, folder)))]


def _command(manifest: Manifest, options: ReleaseOptions, folder: str) -> str:
    """The command that made the release, with files by their names alone: their folders are nobody's business."""
    given: list[tuple[str, object]] = [
        ("--levels", ",".join(options.levels or ()) or None),
        ("--imatrix", _imatrix_word(options)),
        ("-f", _name(options.text)),
        ("-c", options.n_ctx if options.n_ctx != ReleaseOptions.n_ctx else None),
        ("--chunks", options.chunks),
        ("--evaluate", options.evaluate),
        ("--evaluation-text", _name(options.evaluation_text)),
        *(("--target-size", size_name(size)) for size in options.target_sizes),
        *(("--tensor-type", f"{pattern}={type}") for pattern, type in options.rules),
        ("--refine", options.refine),
        ("--refine-width", options.refine_width if options.refine_width != DEFAULT_REFINE_WIDTH else None),
        ("--original", options.original),
        *(("--gptq", bits) for bits in options.gptq),
        ("--awq", options.awq),
        *(("--compress", scheme) for scheme in options.compress),
        ("--group-size", options.group_size),
        (
            "--split-max-size",
            options.split_max_size if options.split_max_size != ReleaseOptions.split_max_size else None,
        ),
        ("--recipe-set", options.recipe_set if options.recipe_set != ReleaseOptions.recipe_set else None),
        ("--name", options.name),
    ]
    words = ["quantmill release", word(manifest.source_name), word(folder)]
    for name, value in given:
        if value is not None and value is not False:
            words.append(name if value is True else f"{name} {word(str(value))}")
    return " ".join(words)


def _imatrix_word(options: ReleaseOptions) -> str | None:
    if options.imatrix is None:
        return "none"
    return None if options.collects else _name(options.imatrix)


def _name(path: StrPath | None) -> str | None:
    return None if path is None else Path(path).name


def _refined(width: int, manifest: Manifest) -> str:
    line = f"codes are chosen so that the products of up to {width} columns are kept, not each weight alone"
    line += ", by second moments of the same text; types and sizes stay the same"
    if manifest.evaluation is not None:
        line += ". Plain files have them, too, without refining: they were made to be measured, and removed"
    return line


def _of_imatrix(imatrix: ImatrixFacts) -> str:
    if imatrix.text is not None:
        what = f"{code(imatrix.file)}, from {_text(imatrix.text)}"
    else:
        what = f"{code(imatrix.file)}, SHA-256 `{imatrix.sha256}`"
        if imatrix.datasets:
            what += f", from {', '.join(map(code, imatrix.datasets))}"
    chunks, size = imatrix.chunks, imatrix.n_ctx
    parts = [f"{chunks} chunks" if chunks else "chunks" if size else "", f"of {size} tokens" if size else ""]
    how = " ".join(filter(None, parts))
    return f"{what}, in {how}" if how else what


def _text(text: TextFacts) -> str:
    return f"{code(text.name)} (SHA-256 `{text.sha256}`)"


def _judged(evaluation: EvaluationFacts) -> str:
    n_ctx, first = evaluation.part.get("n_ctx"), evaluation.part.get("first_chunk")
    start = f" from chunk {first} on" if first else ""
    return f"{evaluation.base['tokens']:.0f} tokens judged in chunks of {n_ctx}{start}"


def _apart(imatrix: ImatrixFacts | None, evaluation: EvaluationFacts) -> str:
    """Whether importance was collected from what was judged, as far as that is known."""
    if imatrix is None or imatrix.text is None:
        return ""
    if imatrix.text.sha256 != evaluation.text.sha256:
        return ", another text than the calibration's"
    if (evaluation.part.get("first_chunk") or 0) >= (imatrix.chunks or 1):
        return ", apart from the calibration"
    return ", from which importance was collected, too: on other texts the files are worse"
