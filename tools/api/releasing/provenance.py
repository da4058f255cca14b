"""How the files of a release were made, for its manifest and its card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ....formats.storage.durable import sha256_of_file
from ..planning import DEFAULT_REFINE_WIDTH
from .manifest import EvaluationFacts, ImatrixFacts, Manifest, TextFacts
from .markdown import code, word
from .targets import size_name
from .texts import text_path

if TYPE_CHECKING:
    from ....quantize.plan import Plan
    from .options import ReleaseOptions


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
        measured = f"on {_text(evaluation.text)}, {_judged(evaluation)}, apart from the calibration"
        lines.append(
            ("Measured", f"{measured}; the original's perplexity there is {evaluation.base['perplexity']:.3f}")
        )
    words = ["quantmill release", word(manifest.source_name), word(folder)]
    words += ["--imatrix none"] if imatrix is None else []
    words += ["--evaluate"] if options.evaluate else []
    words += [f"--levels {','.join(options.levels)}"] if options.levels else []
    words += [f"--target-size {size_name(size)}" for size in options.target_sizes]
    words += [f"--tensor-type {word(f'{pattern}={type}')}" for pattern, type in options.rules]
    words += ["--refine"] if options.refine else []
    words += [f"--refine-width {options.refine_width}"] if options.refine_width != DEFAULT_REFINE_WIDTH else []
    words += ["--original"] if options.original else []
    return [*lines, ("Command", code(" ".join(words)))]


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
