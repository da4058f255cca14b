"""What NVFP4 and MXFP4 are worth: their KL divergence without importance, with it and with ``--refine``, beside other
4-bit levels, at their sizes. Run by hand:

    python tests/bench/fp4.py MODEL [--levels NVFP4,MXFP4,Q4_K_M,IQ4_XS,Q4_0] [--pure] [-c 512] [--chunks 48]
        [--test-chunks 16] [-f calibration.txt --test docs.txt --test code.txt] [--json]

For each level and way: the file's size, the mean KL divergence from MODEL on each text, and its change against the
level without importance. Texts are those of ``refine.py``; ``--pure`` is too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from refine import PURE, run, write_texts

LEVELS = "NVFP4,MXFP4,Q4_K_M,IQ4_XS,Q4_0"
WAYS = ("plain", "importance", "refined")


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
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if not args.file:
            args.file, code = write_texts(Path(name))
            args.test = args.test or [args.file, code]
        rows = measure(args, Path(name))
    if args.json:
        print(json.dumps({"model": str(args.model), "rows": rows}))


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    source, imatrix, out = folder / "model-f16.gguf", folder / "imatrix.gguf", folder / "out.gguf"
    run("convert", args.model, source, "--outtype", "f16")
    window = ("-c", args.ctx_size)
    run("imatrix", "-m", source, "-f", args.file, *window, "--chunks", args.chunks, "--second-moments", "-o", imatrix)
    test = (*window, "--chunks", args.test_chunks, "--from-chunk", args.chunks)
    for text in args.test:
        run("evaluate", source, "-f", text, *test, "--save-base", folder / f"{text.name}.npz")
    rows: list[dict[str, Any]] = []
    for level in args.levels.split(","):
        first: dict[str, float] = {}
        for way in WAYS:
            words = ["quantize", source, out, level, "--threads", "1", *(PURE * args.pure)]
            words += ["--imatrix", imatrix] * (way != "plain") + ["--refine"] * (way == "refined")
            run(*words, "--force")
            kld = {}
            for text in args.test:
                base = ("-f", text, *test, "--base", folder / f"{text.name}.npz", "--json")
                kld[text.name] = float(json.loads(run("evaluate", out, *base))["kld_mean"])
            first = first or kld
            row = {"level": level, "way": way, "bytes": out.stat().st_size, "kld": kld}
            rows.append(row | {"change": {name: value / first[name] - 1 for name, value in kld.items()}})
            if not args.json:
                numbers = "".join(f"{value:10.5f} {rows[-1]['change'][name]:+5.0%}" for name, value in kld.items())
                print(f"{level:9}{way:11}{row['bytes'] / 1e6:8.2f} MB{numbers}", flush=True)
    return rows


if __name__ == "__main__":
    main()
