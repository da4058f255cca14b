"""AutoRound's GGUF files beside ours: the same model, calibration tokens, types and bytes, judged by one judge.

    python tests/bench/rivals.py MODEL_DIR --peer PYTHON [--levels q2_k_s,q3_k_s,q4_k_s] [--iters 200] [-c 256]
        [--chunks 96] [--test-chunks 48] [--split test|heldout] [--pre llama-bpe] [--threads 1] [--out FOLDER] [--json]

PYTHON is one with auto-round 0.16.1, sentencepiece and torch, in an environment of its own. AutoRound tunes with
``enable_alg_ext``, its best for k-quants, in ``--iters`` steps: 200 is its default, 1000 its "best". A tensor of ours
then has the type that it has in AutoRound's file, so the bytes are the same, refined from the same tokens. ``--pre``
names the pre-tokenizer of a model whose tokenizer AutoRound's converter does not know; it goes into a copy of that
converter, which AutoRound takes from LLAMA_CPP_ROOT. Files that --out holds are judged as they are, and their costs are
not known.

For each file and text: bytes, mean KL divergence and its error, the change against AutoRound's with the error of the
difference by chunks, perplexity, and the processor seconds and peak memory of making it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from commands import Ran, open_model, run, run_process
from judge import Figures, Judge, change, check_length, mean
from texts import DOMAINS, MIXED, SPLITS, write_texts

from quantmill import read_gguf
from quantmill.tools.api.running import RunOptions, open_text, open_weights

PEER = """
import json, sys
import numpy as np, torch
source, tokens, out, level, iters, batch, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer
rows = torch.from_numpy(np.load(tokens))
model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
rounder = AutoRound(
    model, tokenizer=AutoTokenizer.from_pretrained(source), scheme="gguf:" + level, iters=int(iters), seed=42,
    nsamples=len(rows), seqlen=rows.shape[1], batch_size=int(batch), dataset=list(rows.split(int(batch))),
    enable_alg_ext=True, device_map="cpu",
)
rounder.quantize_and_save(out, format="gguf:" + level)
"""
FIND = "import pathlib, auto_round; print(pathlib.Path(auto_round.__file__).parent / 'export' / 'export_to_gguf')"
WIDE = ("--second-moments", "--moments-width", "1048576")  # more columns than any tensor has
BATCH = 8  # its default
WAYS = {
    "importance": ("--imatrix", "{imatrix}"),
    "refine": ("--imatrix", "{imatrix}", "--refine", "--refine-width", "1048576"),
    "refine -f": ("--refine", "-f", "{text}", "-c", "{ctx}", "--chunks", "{chunks}"),
}


@dataclass(frozen=True)
class Row:
    """A file on a text; ``_error`` is the standard error of the figure before it. None where a cost is not known."""

    level: str
    way: str
    text: str
    bytes: int
    kld: float
    kld_error: float
    change: float
    change_error: float
    perplexity: float
    seconds: float | None
    peak: int | None

    def line(self) -> str:
        """For the table."""
        cost = "" if self.seconds is None or self.peak is None else f"{self.seconds:9.0f}{self.peak / 1e6:8.0f}"
        return (
            f"{self.level:8}{self.way:12}{self.text:>6}{self.bytes / 1e6:9.2f}{self.kld:10.5f} ±{self.kld_error:8.5f}"
            f"{self.change:+8.1%} ±{self.change_error:6.1%}{self.perplexity:9.3f}{cost}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--levels", default="q2_k_s,q3_k_s,q4_k_s")
    parser.add_argument("--iters", type=int, default=200)
    parser.add_argument("-c", "--ctx-size", type=int, default=256)
    parser.add_argument("--chunks", type=int, default=96)
    parser.add_argument("--test-chunks", type=int, default=48)
    parser.add_argument("--split", choices=SPLITS[1:], default=SPLITS[1])
    parser.add_argument("--pre")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        if not args.json:
            print(
                f"{'level':8}{'way':12}{'text':>6}{'MB':>9}{'mean KLD':>10}{'':10}{'change':>8}{'':8}{'ppl':>9}", end=""
            )
            print(f"{'CPU s':>9}{'peak MB':>8}", flush=True)
        for row in measure(args, Path(name)):
            rows.append(row)
            if not args.json:
                print(row.line(), flush=True)
    if args.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}))


def measure(args: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """A row for each level, file and text."""
    texts, source = write_texts(folder).files, open_model(str(args.model), folder)
    text, tokens, imatrix = texts[MIXED, "calibration"], folder / "tokens.npy", folder / "imatrix.gguf"
    check_length(source, text, args.ctx_size, args.chunks)
    corpus = open_text(open_weights(source), text, RunOptions(args.ctx_size, args.chunks))
    np.save(tokens, corpus.inputs.astype(np.int64))
    window = ("-c", args.ctx_size, "--chunks", args.chunks)
    moments = run("imatrix", "-m", source, "-f", text, *window, *WIDE, "--no-ppl", "-o", imatrix)
    given = {"imatrix": imatrix, "text": text, "ctx": args.ctx_size, "chunks": args.chunks}
    judges = {
        domain: Judge.of(source, texts[domain, args.split], args.ctx_size, args.test_chunks, folder)
        for domain in DOMAINS
    }
    for level in args.levels.split(","):
        theirs, cost = auto_round(args, level, tokens, folder)
        first = {name: judge.figures(theirs) for name, judge in judges.items()}
        yield from rows_of(level, "AutoRound", theirs, cost, first, first)
        types = folder / "types.txt"
        matrices = (tensor for tensor in read_gguf(theirs) if len(tensor.shape) > 1)
        types.write_text("".join(f"^{tensor.name}$={tensor.qtype.name}\n" for tensor in matrices))
        for way, words in WAYS.items():
            out, how = folder / "ours.gguf", [word.format(**given) for word in words]
            took = run("quantize", source, out, level.upper(), "--tensor-type-file", types, *how, "--force",
                       "--threads", args.threads)  # fmt: skip
            if "--imatrix" in words:
                took = Ran("", took.seconds + moments.seconds, took.wall + moments.wall, max(took.peak, moments.peak))
            yield from rows_of(level, way, out, took, {name: one.figures(out) for name, one in judges.items()}, first)


def auto_round(args: argparse.Namespace, level: str, tokens: Path, folder: Path) -> tuple[Path, Ran | None]:
    """AutoRound's file of a level, and what making it took."""
    out = (args.out or folder) / level
    made = sorted(out.rglob("*.gguf"))
    if made:
        return made[0], None
    settings = {"HF_HUB_OFFLINE": "1"} | ({"LLAMA_CPP_ROOT": str(converter(args, folder))} if args.pre else {})
    words = [args.peer, "-c", PEER, args.model, tokens, out, level, args.iters, BATCH, args.threads]
    took = run_process(words, **settings)
    return sorted(out.rglob("*.gguf"))[0], took


def converter(args: argparse.Namespace, folder: Path) -> Path:
    """A copy of AutoRound's converter that takes the pre-tokenizer's name from ``--pre``."""
    root = folder / "converter"
    if not root.exists():
        shutil.copytree(Path(run_process([args.peer, "-c", FIND]).text.strip()) / "conversion", root / "conversion")
        with (root / "conversion" / "base.py").open("a") as file:
            file.write(f"\nTextModel.get_vocab_base_pre = lambda self, tokenizer: {args.pre!r}\n")
    return root


def rows_of(
    level: str, way: str, file: Path, cost: Ran | None, found: dict[str, Figures], first: dict[str, Figures]
) -> Iterator[Row]:
    """The rows of a file, one a text."""
    seconds, peak = (cost.seconds, cost.peak) if cost else (None, None)
    for name, figures in found.items():
        kld = (*mean(figures.kld), *change(first[name].kld, figures.kld))
        yield Row(level, way, name, file.stat().st_size, *kld, figures.perplexity, seconds, peak)


if __name__ == "__main__":
    main()
