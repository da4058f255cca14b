"""``quantmill evaluate``: perplexity, and how far a model's predictions are from its base's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from ..formats.errors import QuantmillError
from ..formats.progress import StepDone

if TYPE_CHECKING:
    from ..imatrix.runner import Runner


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-f", "--file", "text", type=click.Path(path_type=Path), help="The text. Default: one that ships with us."
)
@click.option(
    "--base", type=click.Path(path_type=Path), help="What to compare with: GGUF, folder, or a --save-base file."
)
@click.option("--save-base", type=click.Path(path_type=Path), help="Keep MODEL's predictions, to be a --base later.")
@click.option("-c", "--ctx-size", "n_ctx", type=click.IntRange(min=4), default=512, show_default=True)
@click.option("--chunks", type=click.IntRange(min=-1), default=-1, help="At most so many; -1, the default, for all.")
@click.option("--from-chunk", type=click.IntRange(min=0), default=0, help="The first chunk to use.")
@click.option("-b", "--batch", type=click.IntRange(min=0), default=0, help="Chunks at a time; 0 chooses.")
@click.option("--parse-special", is_flag=True, help="Control tokens in the text are meant, not their letters.")
@click.option(
    "--dtype", type=click.Choice(["f32", "bf16"]), default="f32", show_default=True, help="Of the arithmetic."
)
@click.option("--device", default="cpu", show_default=True, help="A torch device: cpu, cuda, cuda:1.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(model: Path, text: Path | None, base: Path | None, **options: Any) -> None:
    """Measure MODEL on a text: perplexity, and against --base the KL divergence of its predictions.

    The figures are llama.cpp's: the second half of each window counts. No file of logits is needed: both models run
    layer by layer, one after the other.

    \b
    Example: quantmill evaluate model.Q4_K_M.gguf -f test.txt --base model-f16.gguf
             quantmill evaluate model-f16.gguf -f test.txt --save-base base.npz
    """
    with TemporaryDirectory(prefix="quantmill-") as folder:
        figures = evaluate(model, text, base, options, Path(folder))
    figures = {"model": str(model), "base": str(base) if base else None, **figures}
    if options["as_json"]:
        click.echo(json.dumps(figures))
    else:
        _print(figures)


def evaluate(
    model: Path, text: Path | None, base: Path | None, options: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """The figures of ``imatrix.evaluate.summarize``. Activations that do not fit in memory go to ``folder``."""
    from ..imatrix.base_file import BaseWriter
    from ..imatrix.evaluate import Record
    from .library.running import Ticker, open_text, open_weights, start_run

    save_base: Path | None = options.get("save_base")
    if save_base is not None and save_base.exists():
        raise QuantmillError("exists already", path=save_base, hint="give another name")
    ticker = Ticker(options.get("quiet", False))
    weights = open_weights(model)
    corpus = open_text(weights, text, options["n_ctx"], options)
    record = Record()
    if base is not None and base.suffix == ".npz":
        _against_saved(_finished(start_run(weights, corpus, folder, options), ticker), base, record)
    elif base is not None:
        other = open_weights(base)
        _check_same_text(corpus, open_text(other, text, options["n_ctx"], options), base)
        runs = [
            _finished(start_run(side, corpus, folder / str(i), options), ticker)
            for i, side in enumerate((weights, other))
        ]
        for (_, ours, wanted), (_, theirs, _) in zip(runs[0].logits(), runs[1].logits(), strict=True):
            if ours.shape != theirs.shape:
                problem = f"{theirs.shape[1]} tokens in the vocabulary, {ours.shape[1]} in {model}'s"
                raise QuantmillError(problem, path=base, hint="another model")
            record.add_against(ours, theirs, wanted)
    else:
        run = _finished(start_run(weights, corpus, folder, options), ticker)
        writer = BaseWriter()
        for done, (_, logits, wanted) in enumerate(run.logits(), 1):
            record.add(logits, wanted)
            if save_base is not None:
                writer.add(logits, wanted)
            ticker(StepDone(f"perplexity {record.perplexity():.4f}", done, corpus.n_chunks))
        if save_base is not None:
            writer.write(save_base, corpus.inputs, weights.head.n_rows)
    ticker.end()
    return record.report()


def _finished(run: Runner, ticker: Any) -> Runner:
    run.embed()
    ticker.start(run)
    run.finish(progress=ticker)
    ticker.end()
    return run


def _check_same_text(ours: Any, theirs: Any, base: Path) -> None:
    if ours.inputs.shape != theirs.inputs.shape or (ours.inputs != theirs.inputs).any():
        raise QuantmillError("it splits the text into other tokens", path=base, hint="the base is another model")


def _against_saved(run: Runner, path: Path, record: Any) -> None:
    from ..imatrix.base_file import read_base

    saved = read_base(path)
    if saved.n_vocab != run.weights.head.n_rows:
        raise QuantmillError(f"has {saved.n_vocab} tokens in its vocabulary", path=path, hint="another model's")
    n = run.corpus.n_chunks
    if saved.tokens.shape[1] != run.corpus.n_ctx or (saved.tokens[:n] != run.corpus.inputs[: len(saved.tokens)]).any():
        problem = "was made from another text, context size or first chunk"
        raise QuantmillError(problem, path=path, hint="make it again with --save-base")
    if len(saved.tokens) < n:
        raise QuantmillError(
            f"has only {len(saved.tokens)} of {n} chunks", path=path, hint=f"--chunks {len(saved.tokens)}"
        )
    for chunk, logits, wanted in run.logits():
        saved.compare(record, chunk, logits, wanted)


_LINES = (
    ("perplexity", "perplexity", 1.0, ".4f"),
    ("base_perplexity", "  of the base", 1.0, ".4f"),
    ("log_ppl_ratio", "ln(PPL / PPL base)", 1.0, ".6f"),
    ("kld_mean", "mean KLD", 1.0, ".6f"),
    ("kld_median", "median KLD", 1.0, ".6f"),
    ("kld_p90", "90 % KLD", 1.0, ".6f"),
    ("kld_p99", "99 % KLD", 1.0, ".6f"),
    ("kld_p999", "99.9 % KLD", 1.0, ".6f"),
    ("kld_max", "maximum KLD", 1.0, ".6f"),
    ("dp_mean", "mean Δp (%)", 100.0, ".3f"),
    ("dp_rms", "RMS Δp (%)", 100.0, ".3f"),
    ("top1", "same top token (%)", 100.0, ".3f"),
)


def _print(figures: Mapping[str, Any]) -> None:
    for key, label, scale, form in _LINES:
        if key in figures:
            error = figures.get(f"{key}_error")
            tail = "" if error is None else f" ± {error * scale:{form}}"
            click.echo(f"{label:<20}{figures[key] * scale:>12{form}}{tail}")
    click.echo(f"{'tokens judged':<20}{figures['tokens']:>12}")
