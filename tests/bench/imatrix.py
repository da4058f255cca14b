"""Tokens a second of the importance runner on SmolLM2-135M F16: float32 and bfloat16, collecting and not.

    python tests/bench/imatrix.py [--chunks 20] [--ctx 512] [--rounds 3] [--dtype f32 ...]

The blocks only, as llama-imatrix --no-ppl counts them (its time includes the output matrix, which it cannot leave out).
Collecting and not take turns; the best of the rounds counts. bfloat16 is fast only on processors with units for it
(AMX, AVX512-BF16); elsewhere it is slower than float32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from texts import write_texts

from quantmill.imatrix.collect import Collector
from quantmill.imatrix.runner import DTYPES
from quantmill.tools.api.running import RunOptions, open_text, open_weights, start_run
from quantmill.tools.demo import smollm2_gguf


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", nargs="*", choices=list(DTYPES), default=list(DTYPES))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = write_texts(Path(folder)).files["docs", "calibration"]
        weights = open_weights(smollm2_gguf())
        corpus = open_text(weights, text, RunOptions(args.ctx, args.chunks))
        tokens = corpus.n_chunks * corpus.n_ctx
        for dtype in args.dtype:
            best = {True: float("inf"), False: float("inf")}
            for _ in range(args.rounds):
                for collecting in best:
                    run = start_run(weights, corpus, Path(folder), RunOptions(dtype=dtype))
                    start = perf_counter()
                    run.embed()
                    run.finish(Collector() if collecting else None)
                    best[collecting] = min(best[collecting], perf_counter() - start)
            for collecting, seconds in best.items():
                what = "collecting" if collecting else "not collecting"
                print(f"{dtype:<5}{what:<15}{tokens / seconds:>9.0f} tokens/s{seconds:>8.2f} s for {tokens} tokens")
            print(f"{dtype:<5}collecting costs {best[True] / best[False] - 1:.1%}")


if __name__ == "__main__":
    main()
