"""Models whose predictions of a text are judged against a base's: what ``evaluate`` and ``compare_models`` share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
    from ...imatrix.runner import Runner
    from ...imatrix.weights import Weights

_VOCABULARY = re.compile(r"(quantmill\.)?tokenizer\.(?!chat_template)")  # keys of how a text is split


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
    if _same_vocabulary(ours, theirs):
        return
    other = open_text(theirs.weights, text, run)
    if corpus.inputs.shape != other.inputs.shape or (corpus.inputs != other.inputs).any():
        problem = f"it splits the text into other tokens than {ours.path}"
        raise QuantmillError(problem, path=theirs.path, hint="it is another model")


def _same_vocabulary(ours: Judged, theirs: Judged) -> bool:
    """Whether all that decides how a text is split is the same, so that it need not be split again."""
    import numpy as np

    one, two = (
        {key: np.asarray(value.data) for key, value in side.weights.model.metadata.items() if _VOCABULARY.match(key)}
        for side in (ours, theirs)
    )
    return bool(one) and one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)


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
) -> Iterator[Record]:
    """Run models and their base, and compare their predictions chunk by chunk.

    The base's blocks run once. Models go together as far as the activations of all fit in memory, so that the base's
    output matrix runs once for those; larger ones go one after the other, beside the base's activations.

    Args:
        folder: for the activations that do not fit in memory.

    Yields:
        what was found of each model, in their order.
    """
    together = max(1, _fitting(base, corpus, run) - 1)
    share = min(together, len(models)) + 1
    of_base = finish_run(start_run(base.weights, corpus, folder / "base", run, share=share), progress)
    for first in range(0, len(models), together):
        runners = [
            finish_run(start_run(side.weights, corpus, folder / str(number), run, share=share), progress)
            for number, side in enumerate(models[first : first + together])
        ]
        yield from _compared(runners, of_base, progress)
        for runner in runners:
            runner.activations.close()


def _fitting(base: Judged, corpus: Corpus, run: RunOptions) -> int:
    """The activations of how many models fit in memory together."""
    from ...imatrix.activations import SPILL
    from ...imatrix.runner import DTYPES

    nbytes = corpus.n_chunks * corpus.n_ctx * base.weights.hidden_width * DTYPES[run.dtype].itemsize
    return SPILL // max(1, nbytes)


def _compared(runners: Sequence[Runner], base: Runner, progress: Progress | None) -> list[Record]:
    from ...imatrix.evaluate import Record

    records = [Record() for _ in runners]
    chunks = zip(*(runner.logits() for runner in (*runners, base)), strict=True)
    for done, (*found, (_, base_logits, wanted)) in enumerate(chunks, 1):
        for record, (_, logits, _) in zip(records, found, strict=True):
            record.add_against(logits, base_logits, wanted)
        emit(progress, StepDone("predictions compared", done, base.corpus.n_chunks))
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
