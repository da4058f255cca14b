"""What error feedback costs: ``quantize --refine`` beside the plain encoder with importance, the same rows, one core.
Run by hand:

    python tests/bench/refine_cost.py [--types Q4_K,IQ2_XS] [--widths 256,1536,4096] [--model FILE --tensor NAME]
        [--repeats 5] [--json]

For each type and number of columns that repair each other: nanoseconds of processor time for a weight of either, the
least of several alternating runs, their ratio, what is left of the quadratic loss, and that loss beside the one before
refining worked in panels (tests/quantize/goldens/refine_losses.json). Rows are normal, or those of a tensor of a
safetensors file; inputs are columns that go together. The moments' factors are made before: a model makes them once for
all tensors that read the same inputs; the line above a table says how long they took.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import process_time, thread_time
from typing import Any

import numpy as np

from quantmill.formats.qtypes import F32, qtype
from quantmill.quantize.kernels import kernel_for
from quantmill.quantize.refine import REFINED
from quantmill.quantize.refine.factor import Block, make_blocks
from quantmill.quantize.refine.rows import encode_refined

BEFORE = Path(__file__).parents[1] / "quantize" / "goldens" / "refine_losses.json"
WEIGHTS = 1 << 18  # of normal rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=",".join(sorted(REFINED)))
    parser.add_argument("--widths", default="256,1536,4096")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tensor")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    before = json.loads(BEFORE.read_text())["losses"] if BEFORE.exists() else {}
    tables = []
    for name, weights in cases(args):
        known = before.get(name, {})
        moments = inputs(weights.shape[1])
        start = process_time()
        blocks = make_blocks([moments])
        factored = process_time() - start
        say = sys.stderr if args.json else sys.stdout
        print(f"{name}: {len(weights)} x {weights.shape[1]}, factors made in {factored:.2f} s", file=say)
        if not args.json:
            print(f"{'type':9}{'plain':>8}{'refined':>9}{'times':>7}{'loss':>9}{'before':>9}{'change':>8}")
        rows = []
        for kind in args.types.split(","):
            row = measure(kind, weights, blocks, moments, args.repeats) | {"before": known.get(kind)}
            rows.append(row)
            if not args.json:
                print(as_line(row), flush=True)
        tables.append({"case": name, "width": weights.shape[1], "factors": factored, "rows": rows})
    if args.json:
        print(json.dumps({"tables": tables}))


def as_line(row: dict[str, Any]) -> str:
    line = f"{row['type']:9}{row['plain']:8.1f}{row['refined']:9.1f}{row['times']:7.1f}{row['loss']:9.4f}"
    if row["before"] is None:
        return line
    return line + f"{row['before']:9.4f}{row['loss'] / row['before'] - 1:+8.1%}"


def cases(args: argparse.Namespace) -> list[tuple[str, np.ndarray]]:
    """Return the name and the rows of each table."""
    if args.model:
        return [(args.tensor, tensor_rows(args.model, args.tensor))]
    widths = [int(width) for width in args.widths.split(",")]
    return [(str(width), normal_rows(max(32, WEIGHTS // width), width)) for width in widths]


def normal_rows(n: int, width: int) -> np.ndarray:
    return (np.random.default_rng(1).standard_normal((n, width)) * 0.02).astype(np.float32)


def tensor_rows(path: Path, name: str) -> np.ndarray:
    """Return a F16 tensor of a safetensors file as float32."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8:start])[name]
    a, b = (start + offset for offset in entry["data_offsets"])
    return np.frombuffer(raw[a:b], {"F16": "<f2", "F32": "<f4"}[entry["dtype"]]).reshape(entry["shape"]).astype("<f4")


def inputs(width: int) -> np.ndarray:
    """Return the second moments float64 [width, width] of normal inputs whose columns go together."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2 * width, width // 4)) @ rng.standard_normal((width // 4, width))
    x += rng.standard_normal(x.shape) * 0.5
    moments: np.ndarray = x.T @ x / len(x)
    return moments


def measure(name: str, weights: np.ndarray, blocks: list[Block], moments: np.ndarray, repeats: int) -> dict[str, Any]:
    kind = qtype(name)
    kernel, importance = kernel_for(kind), np.concatenate([block.importance for block in blocks])
    plain, refined = (np.empty((len(weights), kind.row_bytes(weights.shape[1])), np.uint8) for _ in range(2))
    few = np.ascontiguousarray(weights[:1])
    encode_refined(few, kind, blocks, refined[:1])  # compiles
    seconds: list[tuple[float, float]] = []
    for _ in range(repeats):
        start = thread_time()
        kernel.encode(weights.view(np.uint8), F32, importance, plain)
        middle = thread_time()
        encode_refined(weights, kind, blocks, refined)
        seconds.append((middle - start, thread_time() - middle))
    one, other = (min(column) for column in zip(*seconds, strict=True))
    nanoseconds = 1e9 / weights.size
    lost = [loss(weights, name, encoded, moments) for encoded in (refined, plain)]
    return {"type": name, "plain": one * nanoseconds, "refined": other * nanoseconds, "times": other / one,
            "loss": lost[0] / lost[1]}  # fmt: skip


def loss(weights: np.ndarray, name: str, encoded: np.ndarray, moments: np.ndarray) -> float:
    """Return the sum of the squared errors of the rows' products."""
    values = np.empty_like(weights)
    kernel_for(qtype(name)).decode(encoded, values)
    errors = (weights - values).astype(np.float64)
    return float(((errors @ moments) * errors).sum())


if __name__ == "__main__":
    main()
