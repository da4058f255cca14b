"""What error feedback gains: the same bytes with importance alone and with ``--refine``. Run by hand:

    python tests/bench/refine.py MODEL [--levels Q3_K_M,IQ2_XS] [--pure] [-c 512] [--chunks 48] [--test-chunks 16]
        [-f calibration.txt --test docs.txt --test code.txt] [--json]

For each level and text: the mean KL divergence from MODEL with importance alone, with ``--refine``, and the change; the
change of its median and of its 99th percentile; perplexities. ``--pure`` puts every matrix of the layers into one type
and leaves embeddings and output in F16.

Without texts of one's own it calibrates on the first chunks of the language reference that Python's ``help()`` shows
(``pydoc_data.topics``), and tests on chunks after those and on the source of Python's library.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

COMMAND = [sys.executable, "-c", "from quantmill.tools.main import run; run()"]
LEVELS = "Q2_K,Q3_K_M,Q4_K_M,Q5_K_M,IQ2_XS,IQ3_XXS,IQ4_XS"
PURE = ("--pure", "--leave-output-tensor", "--token-embedding-type", "F16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("-f", "--file", type=Path)
    parser.add_argument("--test", type=Path, action="append", default=[])
    parser.add_argument("--levels", default=LEVELS)
    parser.add_argument("--pure", action="store_true")
    parser.add_argument("-c", "--ctx-size", default="512")
    parser.add_argument("--chunks", default="48", help="of the calibration text")
    parser.add_argument("--test-chunks", default="16")
    parser.add_argument("--from-chunk", help="of the test texts (default: after as many as calibrate)")
    parser.add_argument("--width", default="256")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if not args.file:
            args.file, code = write_texts(Path(name))
            args.test = args.test or [args.file, code]
        rows = measure(args, Path(name))
    if args.json:
        print(json.dumps({"model": str(args.model), "rows": rows}))
        return
    print(f"{'level':9}{'text':>12}{'plain':>10}{'refined':>10}{'':>7}{'median':>8}{'p99':>7}{'ppl':>16}")
    for row in rows:
        print(
            f"{row['level']:9}{row['text'][:11]:>12}{row['plain']:10.5f}{row['refined']:10.5f}{row['change']:+7.0%}"
            f"{row['median']:+8.0%}{row['p99']:+7.0%}{row['ppl_plain']:8.3f}{row['ppl_refined']:8.3f}"
        )


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    source, imatrix = folder / "model-f16.gguf", folder / "imatrix.gguf"
    run("convert", args.model, source, "--outtype", "f16")
    window = ("-c", args.ctx_size)
    run("imatrix", "-m", source, "-f", args.file, *window, "--chunks", args.chunks, "--second-moments", "-o", imatrix)
    test = (*window, "--chunks", args.test_chunks, "--from-chunk", args.from_chunk or args.chunks)
    for text in args.test:
        run("evaluate", source, "-f", text, *test, "--save-base", folder / f"{text.name}.npz")
    rows = []
    for level in args.levels.split(","):
        files = {way: folder / f"{way}.gguf" for way in ("plain", "refined")}
        for way, file in files.items():
            words = ["quantize", source, file, level, "--imatrix", imatrix, "--threads", "1", *(PURE * args.pure)]
            words += ["--refine", "--refine-width", args.width] * (way == "refined")
            run(*words, "--force")
        sizes = [file.stat().st_size for file in files.values()]
        assert abs(sizes[0] - sizes[1]) < 4096, sizes
        for text in args.test:
            base = ("-f", text, *test, "--base", folder / f"{text.name}.npz", "--json")
            plain, refined = (json.loads(run("evaluate", file, *base)) for file in files.values())
            rows.append(row(level, text, plain, refined))
            print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def row(level: str, text: Path, plain: dict[str, Any], refined: dict[str, Any]) -> dict[str, Any]:
    def change(key: str) -> float:
        return float(refined[key] / plain[key] - 1)

    return {
        "level": level,
        "text": text.name,
        "plain": plain["kld_mean"],
        "refined": refined["kld_mean"],
        "change": change("kld_mean"),
        "median": change("kld_median"),
        "p99": change("kld_p99"),
        "ppl_plain": plain["perplexity"],
        "ppl_refined": refined["perplexity"],
    }


def run(*words: object) -> str:
    """A command of ours, quietly; what it prints."""
    return subprocess.check_output([*COMMAND, *map(str, words), "--quiet"], text=True)


def write_texts(folder: Path) -> tuple[Path, Path]:
    """Documentation, and code."""
    docs, code = folder / "docs.txt", folder / "code.txt"
    docs.write_text("\n\n".join(topics[name] for name in sorted(topics)), "utf-8")
    sources = sorted(Path(json.__file__).parents[1].glob("[a-h]*.py"))
    code.write_text("\n\n".join(path.read_text("utf-8") for path in sources), "utf-8")
    return docs, code


if __name__ == "__main__":
    main()
