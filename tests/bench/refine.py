"""What error feedback gains: the same bytes with importance alone and with ``--refine``, on texts apart from the
calibration's. Run by hand:

    python tests/bench/refine.py MODEL -f calibration.txt --test docs.txt [--test code.txt] [--levels Q3_K_M,IQ2_XS]
        [--pure] [-c 512] [--chunks 96] [--test-chunks 24] [--from-chunk 0] [--json]

For each level and text: the mean KL divergence from MODEL with importance alone, with ``--refine``, and the change; the
change of its median and of its 99th percentile; perplexities. ``time`` is the processor time of the refined command
over the plain one's, both on one thread, each less what the same command takes to start (a ``--dry-run``).
``--pure`` puts every matrix of the layers into one type and leaves embeddings and output in F16.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-c", "from quantmill.tools.main import run; run()"]
LEVELS = "Q2_K,Q3_K_M,Q4_K_M,Q5_K_M,IQ2_XS,IQ3_XXS,IQ4_XS"
PURE = ("--pure", "--leave-output-tensor", "--token-embedding-type", "F16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("-f", "--file", type=Path, required=True)
    parser.add_argument("--test", type=Path, action="append", required=True)
    parser.add_argument("--levels", default=LEVELS)
    parser.add_argument("--pure", action="store_true")
    parser.add_argument("-c", "--ctx-size", default="512")
    parser.add_argument("--chunks", default="96", help="of the calibration text")
    parser.add_argument("--test-chunks", default="24")
    parser.add_argument("--from-chunk", default="0", help="of the test texts; the calibration's own are to be left out")
    parser.add_argument("--width", default="256")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = measure(args, Path(name))
    if args.json:
        print(json.dumps({"model": str(args.model), "rows": rows}))
        return
    print(f"{'level':9}{'text':>12}{'plain':>10}{'refined':>10}{'':>7}{'median':>8}{'p99':>7}{'ppl':>16}{'time':>6}")
    for row in rows:
        print(
            f"{row['level']:9}{row['text'][:11]:>12}{row['plain']:10.5f}{row['refined']:10.5f}{row['change']:+7.0%}"
            f"{row['median']:+8.0%}{row['p99']:+7.0%}{row['ppl_plain']:8.3f}{row['ppl_refined']:8.3f}{row['time']:6.1f}"
        )


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    source, imatrix = folder / "model-f16.gguf", folder / "imatrix.gguf"
    run("convert", args.model, source, "--outtype", "f16")
    window = ("-c", args.ctx_size)
    run("imatrix", "-m", source, "-f", args.file, *window, "--chunks", args.chunks, "--second-moments", "-o", imatrix)
    test = (*window, "--chunks", args.test_chunks, "--from-chunk", args.from_chunk)
    for text in args.test:
        run("evaluate", source, "-f", text, *test, "--save-base", folder / f"{text.name}.npz")
    rows = []
    for level in args.levels.split(","):
        files = {way: folder / f"{way}.gguf" for way in ("plain", "refined")}
        seconds = {}
        for way, file in files.items():
            words = ["quantize", source, file, level, "--imatrix", imatrix, "--threads", "1", *(PURE * args.pure)]
            words += ["--refine", "--refine-width", args.width] * (way == "refined")
            run(*words, "--force")  # compiles
            seconds[way] = processor_seconds(*words, "--force") - processor_seconds(*words, "--dry-run")
        sizes = [file.stat().st_size for file in files.values()]
        assert abs(sizes[0] - sizes[1]) < 4096, sizes
        for text in args.test:
            base = ("-f", text, *test, "--base", folder / f"{text.name}.npz", "--json")
            plain, refined = (json.loads(run("evaluate", file, *base)) for file in files.values())
            rows.append(row(level, text, plain, refined, seconds["refined"] / seconds["plain"]))
            print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def row(level: str, text: Path, plain: dict[str, Any], refined: dict[str, Any], ratio: float) -> dict[str, Any]:
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
        "time": ratio,
    }


def run(*words: object) -> str:
    """A command of ours, quietly; what it prints."""
    return subprocess.check_output([*COMMAND, *map(str, words), "--quiet"], text=True)


def processor_seconds(*words: object) -> float:
    process = subprocess.Popen([*COMMAND, *map(str, words), "--quiet"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
