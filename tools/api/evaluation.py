"""``evaluate``: a model's perplexity on a text, and how far its predictions are from a base model's."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, overload

from ...formats.errors import QuantmillError
from ...formats.progress import Progress, StepDone, WorkEnded, emit, note
from ...formats.storage.endings import ending
from .checks import refuse
from .hub import local_path
from .options import StrPath
from .running import DEFAULT_RUN, RunOptions, finish_run, on_device, open_text, open_weights, start_run

if TYPE_CHECKING:
    from ...imatrix.corpus import Corpus
    from ...imatrix.evaluate import BaseComparison, Evaluation, Record
    from ...imatrix.runner import Runner
    from ...imatrix.weights import Weights


@overload
def evaluate(
    model: StrPath,
    text: StrPath | None = None,
    *,
    base: StrPath,
    save_base: None = None,
    run: RunOptions = ...,
    progress: Progress | None = None,
) -> BaseComparison: ...


@overload
def evaluate(
    model: StrPath,
    text: StrPath | None = None,
    *,
    base: StrPath | None = None,
    save_base: StrPath | None = None,
    run: RunOptions = ...,
    progress: Progress | None = None,
) -> Evaluation: ...


def evaluate(
    model: StrPath,
    text: StrPath | None = None,
    *,
    base: StrPath | None = None,
    save_base: StrPath | None = None,
    run: RunOptions = DEFAULT_RUN,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model's perplexity on a text, and with a base the divergence of its predictions from the base's.

    The definitions are llama.cpp's (tools/perplexity): the second half of each chunk is judged. One block's weights are
    in memory at a time; activations that do not fit there go to a temporary folder.

    Args:
        model: a GGUF or GGML file of any type, or a Hugging Face folder.
        text: a UTF-8 file; None for the text that ships with the package.
        base: what to compare with: another model, or an ``.npz`` file that ``save_base`` made of one.
        save_base: write the model's predictions here, to be the ``base`` of later calls.
        run: which chunks of the text, and how they are computed.
        progress: told of each batch.

    Returns:
        the perplexity and its error; with a base a ``BaseComparison``, which also has the divergences.

    Raises:
        QuantmillError: a file cannot be read or belongs to another model, ``save_base`` exists, the text is too short,
            or the model gives NaN or Inf.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import RunOptions, evaluate, write_gguf
        >>> from quantmill.formats.examples import tiny_llama
        >>> with TemporaryDirectory() as folder:
        ...     model, text = Path(folder, "model.gguf"), Path(folder, "text.txt")
        ...     _ = write_gguf(model, tiny_llama())
        ...     _ = text.write_text("so it goes on and on, and so it went. " * 4)
        ...     found = evaluate(model, text, base=model, run=RunOptions(n_ctx=16))
        >>> found.tokens, found.kld_mean, found.top1  # a model against itself
        (63, 0.0, 1.0)
    """
    from ...imatrix.evaluate import Record

    if save_base is not None:
        if base is not None:
            raise QuantmillError("cannot be combined with a base", where="save_base", hint="leave one of them out")
        if (path := Path(save_base)).exists():
            raise QuantmillError("exists already", path=path, hint="give another name")
    why = "a part of the text would be judged, which compares with nothing"
    refuse({"run.skip_bad_chunks": run.skip_bad_chunks}, why)
    text_path = None if text is None else Path(text)
    record = Record()
    with on_device(run, progress) as on, TemporaryDirectory(prefix="quantmill-") as temporary:
        model = local_path(model, progress=progress)
        weights = open_weights(model, progress)
        weights.check_predicts()
        corpus = open_text(weights, text_path, on)
        folder = Path(temporary)
        if base is None:
            runner = finish_run(start_run(weights, corpus, folder, on), progress)
            _add_alone(runner, record, None if save_base is None else Path(save_base), progress)
        elif ending(base) == ".npz":
            _add_against_saved(finish_run(start_run(weights, corpus, folder, on), progress), Path(base), record)
        else:
            other = open_weights(Path(base), progress)
            other.check_predicts()
            _check_same_text(corpus, open_text(other, text_path, on), Path(base))
            _note_other_shape(weights, other, Path(base), progress)
            _add_against(model, weights, Path(base), other, corpus, folder, on, record, progress)
    emit(progress, WorkEnded())
    return record.report()


def _add_alone(runner: Runner, record: Record, save_base: Path | None, progress: Progress | None) -> None:
    from ...imatrix.base_predictions import BaseWriter

    writer = BaseWriter()
    for done, (_, logits, wanted) in enumerate(runner.logits(), 1):
        record.add(logits, wanted)
        if save_base is not None:
            writer.add(logits, wanted)
        emit(progress, StepDone(f"perplexity {record.perplexity():.4f}", done, runner.corpus.n_chunks))
    if save_base is not None:
        writer.write(save_base, runner.corpus.inputs, runner.weights.head.n_rows)


def _add_against(
    model: Path, weights: Weights, base: Path, base_weights: Weights, corpus: Corpus, folder: Path, run: RunOptions,
    record: Record, progress: Progress | None,
) -> None:  # fmt: skip
    ours, theirs = (
        finish_run(start_run(side, corpus, folder / name, run), progress)
        for side, name in ((weights, "model"), (base_weights, "base"))
    )
    pairs = zip(ours.logits(), theirs.logits(), strict=True)
    for done, ((_, logits, wanted), (_, base_logits, _)) in enumerate(pairs, 1):
        if logits.shape != base_logits.shape:
            problem = f"{base_logits.shape[1]} tokens in the vocabulary, {logits.shape[1]} in {model}'s"
            raise QuantmillError(problem, path=base, hint="it is another model")
        record.add_against(logits, base_logits, wanted)
        emit(progress, StepDone("predictions compared", done, corpus.n_chunks))


def _check_same_text(ours: Corpus, theirs: Corpus, base: Path) -> None:
    if ours.inputs.shape != theirs.inputs.shape or (ours.inputs != theirs.inputs).any():
        raise QuantmillError("it splits the text into other tokens", path=base, hint="the base is another model")


def _note_other_shape(ours: Weights, theirs: Weights, base: Path, progress: Progress | None) -> None:
    """Say if the base is not the model in other types. With the same tokens it can still be compared."""
    facts = [
        f"{side.model.arch}, {side.model.n_layers} layers, {side.embedding.width} wide" for side in (ours, theirs)
    ]  # fmt: skip
    if facts[0] != facts[1]:
        note(progress, f"warning: {base}: is another model ({facts[1]}; this one: {facts[0]})", important=True)


def _add_against_saved(runner: Runner, path: Path, record: Record) -> None:
    from ...imatrix.base_predictions import read_base

    saved = read_base(path)
    if saved.n_vocab != runner.weights.head.n_rows:
        raise QuantmillError(f"has {saved.n_vocab} tokens in its vocabulary", path=path, hint="it is another model's")
    corpus = runner.corpus
    n = corpus.n_chunks
    if saved.tokens.shape[1] != corpus.n_ctx or (saved.tokens[:n] != corpus.inputs[: len(saved.tokens)]).any():
        problem = "was made from another text, context size or first chunk"
        raise QuantmillError(problem, path=path, hint="make it again with --save-base")
    if len(saved.tokens) < n:
        raise QuantmillError(
            f"has only {len(saved.tokens)} of {n} chunks", path=path, hint=f"--chunks {len(saved.tokens)}"
        )
    for chunk, logits, wanted in runner.logits():
        saved.compare(record, chunk, logits, wanted)
