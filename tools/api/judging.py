"""Models whose predictions of a text are judged against a base's: what ``evaluate`` and ``compare_models`` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.errors import QuantmillError
from ...formats.progress import Progress, StepDone, emit, note
from .hub import local_path
from .options import StrPath
from .running import RunOptions, finish_run, open_text, open_weights, start_run

if TYPE_CHECKING:
    from ...imatrix.base_predictions import SavedBase
    from ...imatrix.corpus import Corpus
    from ...imatrix.evaluate import Record
    from ...imatrix.weights import Weights


@dataclass(frozen=True)
class Judged:
    """A model that predicts tokens, opened to be run.

    Args:
        path: of its file or folder on this machine.
        weights: the model.
    """

    path: Path
    weights: Weights


def open_judged(model: StrPath, progress: Progress | None) -> Judged:
    """Open a model.

    Raises:
        UnknownArchitecture: it predicts no tokens. FormatError: it cannot be read.
    """
    path = local_path(model, progress=progress)
    weights = open_weights(path, progress)
    weights.check_predicts()
    return Judged(path, weights)


def check_same_tokens(ours: Judged, theirs: Judged, corpus: Corpus, text: Path | None, run: RunOptions) -> None:
    """Check before a weight is read that two models' predictions can be compared.

    Args:
        ours: a model.
        theirs: the model that is named where they differ.
        corpus: the text in the tokens of ``ours``.
        text, run: of which the corpus was made.

    Raises:
        QuantmillError: they have other vocabularies, or split the text into other tokens.
    """
    sizes = [side.weights.head.n_rows for side in (ours, theirs)]
    if sizes[0] != sizes[1]:
        problem = f"{sizes[1]} tokens in the vocabulary, {sizes[0]} in {ours.path}'s"
        raise QuantmillError(problem, path=theirs.path, hint="it is another model")
    other = open_text(theirs.weights, text, run)
    if corpus.inputs.shape != other.inputs.shape or (corpus.inputs != other.inputs).any():
        problem = f"it splits the text into other tokens than {ours.path}"
        raise QuantmillError(problem, path=theirs.path, hint="it is another model")


def note_other_shape(ours: Judged, theirs: Judged, progress: Progress | None) -> None:
    """Say if one is not the other in other types. With the same tokens they can still be compared."""
    facts = [
        f"{side.model.arch}, {side.model.n_layers} layers, {side.embedding.width} wide"
        for side in (ours.weights, theirs.weights)
    ]
    if facts[0] != facts[1]:
        note(
            progress,
            f"warning: {theirs.path}: is another model ({facts[1]}; {ours.path.name}: {facts[0]})",
            important=True,
        )


def judge_against(
    models: Sequence[Judged], base: Judged, corpus: Corpus, folder: Path, run: RunOptions, progress: Progress | None
) -> list[Record]:
    """Run models and their base, one after the other, and compare their predictions chunk by chunk.

    The base runs once. Activations of all are kept until then, in memory as far as one model's may be there.

    Args:
        folder: for the activations that do not fit in memory.
    """
    from ...imatrix.evaluate import Record

    sides = [*models, base]
    runners = [
        finish_run(start_run(side.weights, corpus, folder / str(number), run, share=len(sides)), progress)
        for number, side in enumerate(sides)
    ]
    records = [Record() for _ in models]
    chunks = zip(*(runner.logits() for runner in runners), strict=True)
    for done, (*found, (_, base_logits, wanted)) in enumerate(chunks, 1):
        for record, (_, logits, _) in zip(records, found, strict=True):
            record.add_against(logits, base_logits, wanted)
        emit(progress, StepDone("predictions compared", done, corpus.n_chunks))
    return records


def open_saved(path: Path, models: Sequence[Judged], corpus: Corpus) -> SavedBase:
    """Read a base's saved predictions.

    Raises:
        FormatError: it is no such file. QuantmillError: it is of another text or vocabulary.
    """
    from ...imatrix.base_predictions import read_base

    saved = read_base(path)
    n = corpus.n_chunks
    if any(saved.n_vocab != side.weights.head.n_rows for side in models):
        raise QuantmillError(f"has {saved.n_vocab} tokens in its vocabulary", path=path, hint="it is another model's")
    if saved.tokens.shape[1] != corpus.n_ctx or (saved.tokens[:n] != corpus.inputs[: len(saved.tokens)]).any():
        problem = "was made from another text, context size or first chunk"
        raise QuantmillError(problem, path=path, hint="make it again with --save-base")
    if len(saved.tokens) < n:
        hint = f"--chunks {len(saved.tokens)}"
        raise QuantmillError(f"has only {len(saved.tokens)} of {n} chunks", path=path, hint=hint)
    return saved


def judge_against_saved(
    model: Judged, saved: SavedBase, corpus: Corpus, folder: Path, run: RunOptions, progress: Progress | None
) -> Record:
    """Run a model and compare its predictions with those that a base's file holds."""
    from ...imatrix.evaluate import Record

    record = Record()
    for chunk, logits, wanted in finish_run(start_run(model.weights, corpus, folder, run), progress).logits():
        saved.compare(record, chunk, logits, wanted)
    return record
