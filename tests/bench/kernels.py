"""Our kernels against llama.cpp's C on one core: the same rows, alternating, the best of several rounds.

    python tests/bench/kernels.py [TYPE...] [--json] [--threads N] [--weights N] [--rounds N]

Prints Mweights/s of both and the ratio for each type, with and without importance, and the geometric mean over the
searched types (with importance, where the type takes one). The C runs in a process of its own (``oracles/ggml.py``).

What bounds ours now, by family:

- min-and-scale searches (Q2_K Q4_K Q5_K Q4_1 Q5_1): 38 tries of two passes, about 20 vector instructions a weight and
  try, all sums in registers: the two multipliers and two adders of the core.
- scale searches (Q3_K Q6_K Q4_0 Q5_0): the same with 19 tries of one pass; the transposes begin to show.
- unsearched (Q8_0 and the legacy types without importance): block by block without a transpose; the reductions to one
  extreme and the half-precision store.
- F16, BF16: numpy's conversion loops.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from math import exp, log
from pathlib import Path
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oracles.ggml import ggml_time
from quantmill.formats.qtypes import F32, qtype
from quantmill.quantize.kernels import ENCODABLE, kernel_for

WIDTH = 4096
UNSEARCHED = {"F32", "F16", "BF16", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0"}


def measure(name: str, weighted: bool, n_weights: int, rounds: int, threads: int) -> dict[str, object]:
    """Mweights/s of ours and the C."""
    kind, rng = qtype(name), np.random.default_rng(0)
    rows = rng.standard_normal((max(32, n_weights // WIDTH), WIDTH)).astype(np.float32)
    importance = rng.random(WIDTH).astype(np.float32) if weighted else None
    out = np.empty((len(rows), kind.row_bytes(WIDTH)), np.uint8)
    kernel, raw = kernel_for(kind), rows.view(np.uint8)
    chunks = [slice(a, a + len(rows) // threads) for a in range(0, len(rows), len(rows) // threads)]

    def encode(chunk: slice) -> None:
        kernel.encode(raw[chunk], F32, importance, out[chunk])

    encode(slice(0, 1))  # compile
    ours = theirs = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            theirs = min(theirs, ggml_time(name, rows, importance))
            start = perf_counter()
            list(pool.map(encode, chunks))
            ours = min(ours, perf_counter() - start)
    mega = rows.size / 1e6
    return {
        "type": name,
        "importance": weighted,
        "searched": name not in UNSEARCHED and (weighted or not kernel.uses_importance),
        "ours": mega / ours,
        "c": mega / theirs,
        "ratio": theirs / ours,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", default=sorted(ENCODABLE))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=1, help="of ours; the C always runs on one")
    parser.add_argument("--weights", type=int, default=1 << 20, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for name in options.types:
        kernel = kernel_for(qtype(name))
        for weighted in (False, True):
            if (kernel.requires_importance and not weighted) or (weighted and not kernel.uses_importance):
                continue
            rows.append(measure(name, weighted, options.weights, options.rounds, options.threads))
            if not options.json:
                print(
                    "{type:8} {0:10} ours {ours:8.1f}  C {c:8.1f}  ratio {ratio:6.2f}".format(
                        "importance" if weighted else "", **rows[-1]
                    ),
                    flush=True,
                )
    ratios = [float(str(row["ratio"])) for row in rows if row["searched"]] or [float("nan")]
    geomean = exp(sum(map(log, ratios)) / len(ratios))
    if options.json:
        print(json.dumps({"geomean": geomean, "min": min(ratios), "rows": rows}))
    else:
        print(f"searched types: geometric mean {geomean:.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
