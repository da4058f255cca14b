"""Our kernels against llama.cpp's C on one core: the same rows, alternating, the best of several rounds.

    python tests/bench/kernels.py [TYPE...] [--json] [--threads N] [--weights N] [--rounds N]

Prints Mweights/s of both and their ratio for each type, with importance and without it where each is allowed, and the
geometric mean and the least ratio of the searched types: Q2_K to Q6_K, Q4_0 to Q5_1 and all IQ, with importance. The C
is ``ggml_quantize_chunk`` of xllamacpp in a process of its own (``oracles/ggml.py``), which sleeps while ours runs. The
times are the threads' own, so that other work on the machine does not count against the longer side. ``--threads 2``
adds what two threads do beside one, by the clock, which wants an idle machine.

What bounds ours now, by family:

- min-and-scale searches (Q2_K Q4_K Q5_K Q4_1 Q5_1): up to 38 tries of two passes, about 20 vector instructions a weight
  and try, all sums in registers: the two multipliers and two adders of the core.
- scale searches (Q3_K Q6_K Q4_0 Q5_0): the same with 19 tries of one pass; the transposes begin to show.
- IQ4_NL, IQ4_XS: tries of a scale as above; a weight's nearest of the 16 uneven values is a handful of comparisons.
- lattice searches (IQ2 IQ3): rounding to the lattice is vector work, but a group that leaves the codebook is compared
  with each of its neighbours, tens of dot products of 8 or 4 gathered from tables of the L1 and L2.
- IQ1_S, IQ1_M: every pair of cuts of the sorted sub-block, some 500 scores of a few multiplications each; then the
  neighbours as in the lattice searches.
- unsearched (Q8_0, the legacy types without importance, TQ, MXFP4, NVFP4, Q1_0, Q2_0): block by block without a
  transpose; the reductions to one extreme and, for Q8_0 and Q4, reading the rows from memory.
- F16, BF16: memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from math import exp, log
from pathlib import Path
from statistics import median
from time import thread_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from steady import calls_per_second

from oracles.ggml import ggml_time
from quantmill.formats.qtypes import F32, qtype
from quantmill.quantize.kernels import ENCODABLE, kernel_for

WIDTH = 4096
REPEATS = 2  # in a row, so that neither side finds the other's data in the cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", default=sorted(ENCODABLE - {"F32"}), metavar="TYPE")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=1, help="show what so many of ours gain over one")
    parser.add_argument("--weights", type=int, default=1 << 20, help="a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for name, weighted in cases(options.types):
        row = measure(name, weighted, options.weights, options.rounds, options.threads)
        rows.append(row)
        if not options.json:
            importance = "importance" if weighted else ""
            print(
                f"{name:8} {importance:10} ours {row['ours']:8.1f}  C {row['c']:8.1f}  ratio {row['ratio']:6.2f}"
                + (f"  {options.threads} threads {row['scaling']:.2f} x one" if "scaling" in row else ""),
                flush=True,
            )
    ratios = [row["ratio"] for row in rows if row["importance"]] or [float("nan")]
    geomean = exp(sum(map(log, ratios)) / len(ratios))
    if options.json:
        print(json.dumps({"geomean": geomean, "min": min(ratios), "rows": rows}))
    else:
        print(f"searched types with importance: geometric mean {geomean:.2f}, least {min(ratios):.2f}")


def cases(types: list[str]) -> Iterator[tuple[str, bool]]:
    """Each type without importance if it may be, and with it if that changes the bytes: those are the searched ones."""
    for name in types:
        kernel = kernel_for(qtype(name))
        if not kernel.requires_importance:
            yield name, False
        if kernel.uses_importance and not kernel.own_search:  # the C does less: see refine_cost.py
            yield name, True


def measure(name: str, weighted: bool, n_weights: int, rounds: int, threads: int) -> dict[str, Any]:
    """A row of the table: Mweights/s of ours and the C, best of ``rounds``."""
    kind, rng = qtype(name), np.random.default_rng(0)
    rows = rng.standard_normal((max(32, n_weights // WIDTH), WIDTH), np.float32)
    importance = rng.random(WIDTH, np.float32) if weighted else None
    out = np.empty((len(rows), kind.row_bytes(WIDTH)), np.uint8)
    kernel, raw = kernel_for(kind), rows.view(np.uint8)
    encode = partial(kernel.encode, raw, F32, importance)
    kernel.encode(raw[:32], F32, importance, out[:32])  # compile, and touch what is loaded lazily
    ours = theirs = float("inf")
    for _ in range(rounds):
        theirs = min(theirs, ggml_time(name, rows, importance, REPEATS))
        for _ in range(REPEATS):
            start = thread_time()
            encode(out)
            ours = min(ours, thread_time() - start)
    mega = rows.size / 1e6
    row = {"type": name, "importance": weighted, "ours": mega / ours, "c": mega / theirs, "ratio": theirs / ours}
    if threads > 1:
        row["scaling"] = scaling(encode, out, threads, rounds)
    return row


def scaling(encode: Callable[..., None], like: NDArray[np.uint8], threads: int, rounds: int) -> float:
    """Calls a second of several threads by those of one, both by the clock: the median of alternate rounds."""

    def make(_: int) -> Callable[[], None]:
        return partial(encode, np.empty_like(like))  # no thread writes where another does

    return median(calls_per_second(make, threads) / calls_per_second(make, 1) for _ in range(rounds))


if __name__ == "__main__":
    main()
