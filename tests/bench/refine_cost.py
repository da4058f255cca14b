"""What error feedback costs: ``quantize --refine`` beside the plain encoder with importance, the same rows, one core.
Run by hand:

    python tests/bench/refine_cost.py [--types Q4_K,IQ2_XS] [--width 2048] [--rows 1024] [--repeats 9] [--json]

For each type: Mweights/s of either, the most of several alternating runs, their ratio, and what is left of the
quadratic loss. Rows are normal; inputs are columns that go together. The moments' factors are made before: a model
makes them once for all tensors that read the same inputs.
"""

from __future__ import annotations

import argparse
import json
from time import thread_time
from typing import Any

import numpy as np

from quantmill.formats.qtypes import F32, qtype
from quantmill.quantize.kernels import kernel_for
from quantmill.quantize.refine import REFINED
from quantmill.quantize.refine.factor import Block, make_blocks
from quantmill.quantize.refine.refiner import WIDTH
from quantmill.quantize.refine.rows import encode_refined


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=",".join(sorted(REFINED)))
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    moments = inputs(rng, args.width)
    blocks = make_blocks(moments)
    weights = (rng.standard_normal((args.rows, args.width)) * 0.02).astype(np.float32)
    rows = [measure(name, weights, blocks, moments, args.repeats) for name in args.types.split(",")]
    if args.json:
        print(json.dumps({"rows": rows}))
        return
    print(f"{'type':9}{'plain':>8}{'refined':>9}{'times':>7}{'loss':>7}")
    for row in rows:
        print(f"{row['type']:9}{row['plain']:8.1f}{row['refined']:9.1f}{row['times']:7.1f}{row['loss']:7.2f}")


def inputs(rng: np.random.Generator, width: int) -> list[np.ndarray]:
    x = rng.standard_normal((4 * width, width // 4)) @ rng.standard_normal((width // 4, width))
    x += rng.standard_normal(x.shape) * 0.5
    return [x[:, a : a + WIDTH].T @ x[:, a : a + WIDTH] / len(x) for a in range(0, width, WIDTH)]


def measure(
    name: str, weights: np.ndarray, blocks: list[Block], moments: list[np.ndarray], repeats: int
) -> dict[str, Any]:
    kind = qtype(name)
    kernel, importance = kernel_for(kind), np.concatenate([block.importance for block in blocks])
    plain, refined = (np.empty((len(weights), kind.row_bytes(weights.shape[1])), np.uint8) for _ in range(2))
    seconds: list[tuple[float, float]] = []
    for _ in range(repeats + 1):
        start = thread_time()
        kernel.encode(weights.view(np.uint8), F32, importance, plain)
        middle = thread_time()
        encode_refined(weights, kind, blocks, refined)
        seconds.append((middle - start, thread_time() - middle))
    one, other = (min(column) for column in zip(*seconds[1:], strict=True))  # the first one compiles
    million = weights.size / 1e6
    lost = [loss(weights, name, encoded, moments) for encoded in (refined, plain)]
    return {"type": name, "plain": million / one, "refined": million / other, "times": other / one,
            "loss": lost[0] / lost[1]}  # fmt: skip


def loss(weights: np.ndarray, name: str, encoded: np.ndarray, moments: list[np.ndarray]) -> float:
    values = np.empty_like(weights)
    kernel_for(qtype(name)).decode(encoded, values)
    errors = weights - values
    parts = (errors[:, i * WIDTH : (i + 1) * WIDTH] for i in range(len(moments)))
    return float(sum(((e @ h) * e).sum() for e, h in zip(parts, moments, strict=True)))


if __name__ == "__main__":
    main()
