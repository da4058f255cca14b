"""``--cluster local`` with one worker and with more, on a synthetic Llama in F16. Run by hand:

    python tests/bench/cluster.py [--weights 2e8] [--levels IQ2_XS,Q4_K_M] [--workers 1,2] [--repeats 3] [--json]

Each line is the median of several rounds; in a round every number of workers has its turn, so that a busy moment meets
all of them.

- ``start``: seconds until the first piece was done: processes, imports, the plan, and that piece.
- ``steady``: seconds from a tenth of the source to nine tenths of it.
- ``whole``: seconds from the call to the renamed file, without Ray's own start.
- ``speedup``: one worker's ``steady`` by this one's, of the same round.
- ``Mweights/s``: of the steady part.
- ``busy``: the share of the workers' time, from the first answer to the last, that chunks took. The rest is waiting,
  for messages and syncs.
- ``a CPU``: Mweights for each second of a processor that the workers had.

``speedup`` wants an idle machine. On a busy one ``busy`` and ``a CPU`` say what it would be there: two workers' product
of both, by one's, times two.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from quantize import tensor_shapes, write_imatrix, write_model
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.imatrix_file import read_imatrix
from quantmill.formats.progress import Event, RowsDone
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import Plan, PlanOptions, make_plan
from quantmill.quantize.warm import warm
from quantmill.tools.api.ray_pool import RayPool, connected, start_ray

STEADY = (0.1, 0.9)  # of the source's bytes


class Watched(RayPool):
    """A pool that notes what its workers' chunks take."""

    def run(self, start: Any, pieces: Any, done: Any, tick: Any = lambda: None) -> None:
        self.answers: list[tuple[float, float]] = []  # when, and the seconds that its chunks took
        self.cpu = 0.0  # seconds of the workers' processors in pieces

        def begin() -> Any:
            work = start()

            def timed(piece: Any) -> Any:
                before = process_time()
                return work(piece), process_time() - before

            return timed

        def noted(piece: Any, answer: Any) -> None:
            seconds, cpu = answer
            self.cpu += cpu
            self.answers.append((perf_counter(), sum(seconds)))
            done(piece, seconds)

        super().run(begin, pieces, noted, tick)

    def busy(self) -> float:
        """Of the time between the first answers and the last before the end."""
        middle = self.answers[self.n_workers : -2 * self.n_workers]
        return sum(seconds for _, seconds in middle[1:]) / (self.n_workers * (middle[-1][0] - middle[0][0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=float, default=2e8)
    parser.add_argument("--levels", default="IQ2_XS,Q4_K_M")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="where the files go: about 3 bytes a weight (default: the temporary)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    workers = [int(n) for n in args.workers.split(",")]
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        source, imatrix = Path(folder) / "model-f16.gguf", Path(folder) / "model.imatrix.dat"
        shapes = tensor_shapes(int(args.weights))
        write_model(source, shapes)
        write_imatrix(imatrix, shapes)
        start_ray("local", max(workers))
        load = os.getloadavg()[0]
        rows = [
            row for level in args.levels.split(",") for row in measure(level, source, imatrix, workers, args.repeats)
        ]
    if args.json:
        print(json.dumps({"weights": int(args.weights), "cpus": os.cpu_count(), "load": load, "rows": rows}))
        return
    print(f"{args.weights:.0e} weights, {os.cpu_count()} CPUs, load before {load:.2f}")
    heads = f"{'level':8}{'workers':>8}{'start':>8}{'steady':>8}{'whole':>8}{'Mweights/s':>12}"
    print(heads + f"{'speedup':>9}{'busy':>7}{'a CPU':>7}")
    for row in rows:
        print(
            f"{row['level']:8}{row['workers']:8}{row['start']:8.2f}{row['steady']:8.2f}{row['whole']:8.2f}"
            f"{row['rate']:12.1f}{row['speedup']:9.2f}{row['busy']:7.1%}{row['a_cpu']:7.1f}"
        )


def measure(level: str, source: Path, imatrix: Path, workers: list[int], repeats: int) -> list[dict[str, Any]]:
    """A row for each number of workers."""
    vectors = read_imatrix(imatrix).vectors()
    plan = make_plan(read_gguf(source), level, PlanOptions(importance=vectors))
    warm({step.type for step in plan.steps}, 2)
    rounds = [{n: run(plan, vectors, source.with_name("out.gguf"), n) for n in workers} for _ in range(repeats)]
    rows = []
    for n in workers:
        row = {key: median(turn[n][key] for turn in rounds) for key in rounds[0][n]}
        row["rate"] = plan.n_weights * (STEADY[1] - STEADY[0]) / row["steady"] / 1e6
        row["a_cpu"] = plan.n_weights / row.pop("cpu") / 1e6
        row["speedup"] = median(turn[workers[0]]["steady"] / turn[n]["steady"] for turn in rounds)
        rows.append({"level": level, "workers": n} | row)
    return rows


def run(plan: Plan, vectors: Any, out: Path, n: int) -> dict[str, float]:
    """Seconds of one run."""
    times: list[tuple[float, int]] = []
    done = 0
    begin = perf_counter()

    def progress(event: Event) -> None:
        nonlocal done
        if isinstance(event, RowsDone):
            done += event.nbytes
            times.append((perf_counter() - begin, done))

    with connected("local", n) as found:
        pool = Watched(found.n_workers, found.threads)
        execute(plan, out, pool=pool, progress=progress)
    whole = perf_counter() - begin
    out.unlink()
    first, last = (next(t for t, at in times if at >= share * plan.source_bytes) for share in STEADY)
    return {"start": times[0][0], "steady": last - first, "whole": whole, "busy": pool.busy(), "cpu": pool.cpu}


if __name__ == "__main__":
    main()
