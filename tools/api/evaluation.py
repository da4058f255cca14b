"""``evaluate``: a model's perplexity on a text, and how far its predictions are from a base model's."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, overload

from ...formats.errors import QuantmillError
from ...formats.progress import Progress, StepDone, WorkEnded, emit
from ...formats.storage.endings import ending
from .checks import refuse
from .judging import check_same_tokens, judge_against, judge_against_saved, note_other_shape, open_judged, open_saved
from .options import StrPath
from .running import DEFAULT_RUN, RunOptions, finish_run, on_device, open_text, start_run

if TYPE_CHECKING:
    from ...imatrix.evaluate import BaseComparison, Evaluation, Record
    from ...imatrix.runner import Runner


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
    if save_base is not None:
        if base is not None:
            raise QuantmillError("cannot be combined with a base", where="save_base", hint="leave one of them out")
        if (path := Path(save_base)).exists():
            raise QuantmillError("exists already", path=path, hint="give another name")
    why = "a part of the text would be judged, which compares with nothing"
    refuse({"run.skip_bad_chunks": run.skip_bad_chunks}, why)
    text_path = None if text is None else Path(text)
    with on_device(run, progress) as on, TemporaryDirectory(prefix="quantmill-") as temporary:
        judged = open_judged(model, progress)
        corpus = open_text(judged.weights, text_path, on)
        folder = Path(temporary)
        if base is None:
            runner = finish_run(start_run(judged.weights, corpus, folder, on), progress)
            record = _alone(runner, None if save_base is None else Path(save_base), progress)
        elif ending(base) == ".npz":
            saved = open_saved(Path(base), [judged], corpus)
            record = judge_against_saved(judged, saved, corpus, folder, on, progress)
        else:
            other = open_judged(base, progress)
            check_same_tokens(judged, other, corpus, text_path, on)
            note_other_shape(judged, other, progress)
            (record,) = judge_against([judged], other, corpus, folder, on, progress)
    emit(progress, WorkEnded())
    return record.report()


def _alone(runner: Runner, save_base: Path | None, progress: Progress | None) -> Record:
    from ...imatrix.base_predictions import BaseWriter
    from ...imatrix.evaluate import Record

    record, writer = Record(), BaseWriter()
    for done, (_, logits, wanted) in enumerate(runner.logits(), 1):
        record.add(logits, wanted)
        if save_base is not None:
            writer.add(logits, wanted)
        emit(progress, StepDone(f"perplexity {record.perplexity():.4f}", done, runner.corpus.n_chunks))
    if save_base is not None:
        writer.write(save_base, runner.corpus.inputs, runner.weights.head.n_rows)
    return record
