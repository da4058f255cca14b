"""The whole ``quantize`` command on a synthetic Llama in F16, beside what it cannot beat. Run by hand:

    python tests/bench/quantize.py [--weights 1e9] [--levels Q4_K_M,Q8_0] [--threads 2] [--repeats 5] [--json]

For each level the median of several rounds, and of the ratios within a round:

- ``command``: the process from start to end, its compiled kernels cached, reading, encoding and writing.
- ``cp``: a copy of the source file, the floor of anything that reads and writes through the page cache.
- ``kernels``: the plan's kernels alone, on chunks already in memory, on as many threads. The command's distance
  from it is what reading, checking, writing and starting Python cost beyond what threads hide.

- ``cpu``: the command's processor time, user and system, divided by the threads; beside ``kernels`` it means something
  on a busy machine too.

All values are seconds, but for ``peak_mb``, the most memory the process held.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import gguf
import numpy as np
from steady import SECONDS, calls_per_second

HIDDEN, FEED_FORWARD, KV, HEAD = 2048, 5632, 256, 64  # TinyLlama's shapes: everything is a multiple of 256
LAYER = {
    "attn_q": (HIDDEN, HIDDEN),
    "attn_k": (KV, HIDDEN),
    "attn_v": (KV, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN),
    "ffn_gate": (FEED_FORWARD, HIDDEN),
    "ffn_up": (FEED_FORWARD, HIDDEN),
    "ffn_down": (HIDDEN, FEED_FORWARD),
}
# Python keeps its compiled modules, as in a user's shell.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
COMMAND = [sys.executable, "-c", "from quantmill.tools.main import run; run()", "quantize"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=float, default=1e9)
    parser.add_argument("--levels", default="Q4_K_M,Q8_0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="where the files go: about 5 bytes a weight (default: the temporary)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        source, imatrix = Path(folder) / "model-f16.gguf", Path(folder) / "model.imatrix.dat"
        shapes = tensor_shapes(int(args.weights))
        write_model(source, shapes)
        write_imatrix(imatrix, shapes)
        rows = [measure(level, source, imatrix, args.threads, args.repeats) for level in args.levels.split(",")]
    if args.json:
        print(json.dumps({"weights": int(args.weights), "threads": args.threads, "rows": rows}))
        return
    heads = f"{'level':8}{'command':>9}{'cp':>8}{'/cp':>7}{'kernels':>9}{'/kernels':>9}"
    print(heads + f"{'cpu':>8}{'Mweights/s':>12}{'peak MB':>9}")
    for row in rows:
        print(
            f"{row['level']:8}{row['command']:9.2f}{row['cp']:8.2f}{row['to_cp']:7.2f}"
            f"{row['kernels']:9.2f}{row['to_kernels']:9.2f}"
            f"{row['cpu']:8.2f}{row['rate']:12.1f}{row['peak_mb']:9.0f}"
        )


def tensor_shapes(weights: int) -> dict[str, tuple[int, ...]]:
    """Names and numpy shapes of a Llama of about ``weights`` weights: as many layers as fit beside the embeddings."""
    vocabulary = 32000 if weights >= 3e8 else 1024
    each = sum(rows * width for rows, width in LAYER.values())
    layers = max(1, round((weights - 2 * vocabulary * HIDDEN) / each))
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, HIDDEN)}
    for i in range(layers):
        shapes[f"blk.{i}.attn_norm.weight"] = (HIDDEN,)
        shapes[f"blk.{i}.ffn_norm.weight"] = (HIDDEN,)
        shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in LAYER.items()}
    return shapes | {"output_norm.weight": (HIDDEN,), "output.weight": (vocabulary, HIDDEN)}


def write_model(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Normal weights in F16 with some heavier rows, from a pool entered at random places; norms in F32."""
    rng = np.random.default_rng(0)
    pool = rng.standard_normal(1 << 23, np.float32)
    pool[:: 1 << 12] *= 8
    pool = (pool * np.float32(0.02)).astype(np.float16)
    writer = gguf.GGUFWriter(path, "llama")
    layers = sum(name.endswith("attn_q.weight") for name in shapes)
    writer.add_block_count(layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HIDDEN // HEAD)
    writer.add_head_count_kv(KV // HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(shapes["token_embd.weight"][0])
    for name, shape in shapes.items():
        dtype = np.dtype(np.float16 if len(shape) > 1 else np.float32)
        writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for shape in shapes.values():
        if len(shape) == 1:
            writer.write_tensor_data(np.ones(shape, np.float32))
            continue
        n = int(np.prod(shape))
        tensor = np.empty(n, np.float16)
        for start in range(0, n, 1 << 20):
            end = min(start + (1 << 20), n)
            at = int(rng.integers(0, len(pool) - (end - start)))
            tensor[start:end] = pool[at : at + end - start]
        writer.write_tensor_data(tensor.reshape(shape))
    writer.close()


def write_imatrix(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Importance for every matrix but the embeddings, in llama.cpp's older format."""
    rng = np.random.default_rng(1)
    named = {n: s[-1] for n, s in shapes.items() if len(s) > 1 and n != "token_embd.weight"}
    with path.open("wb") as file:
        file.write(struct.pack("<i", len(named)))
        for name, width in named.items():
            values = (rng.standard_normal(width) ** 2 + 0.01).astype("<f4")
            file.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, width) + values.tobytes())
        file.write(struct.pack("<ii", 1, 4) + b"none")


def measure(level: str, source: Path, imatrix: Path, threads: int, repeats: int) -> dict[str, Any]:
    """One row of the table."""
    options = [level, "--imatrix", str(imatrix)]
    plan = json.loads(
        subprocess.check_output([*COMMAND, str(source), *options, "--dry-run", "--json"], env=ENVIRONMENT)
    )
    kernel_seconds(plan, 1, 0.0)  # fills the cache of compiled kernels
    output, copy = source.with_name("out.gguf"), source.with_name("copy.gguf")
    words = [*COMMAND, str(source), str(output), *options, "--threads", str(threads), "--force", "--quiet"]
    subprocess.run(words, env=ENVIRONMENT, check=True)  # the first one finds nothing compiled
    runs: list[dict[str, float]] = []
    for _ in range(repeats):
        run = {"kernels": kernel_seconds(plan, threads)}
        output.unlink()
        start = perf_counter()
        process = subprocess.Popen(words, env=ENVIRONMENT)
        _, status, usage = os.wait4(process.pid, 0)
        run["command"] = perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"quantize ended with {process.returncode}"
        run["cpu"] = (usage.ru_utime + usage.ru_stime) / threads
        run["peak"] = usage.ru_maxrss
        start = perf_counter()
        subprocess.run(["cp", source, copy], check=True)
        run["cp"] = perf_counter() - start
        copy.unlink()
        run["to_cp"], run["to_kernels"] = run["command"] / run["cp"], run["command"] / run["kernels"]
        runs.append(run)
    row = {key: median(run[key] for run in runs) for key in runs[0]}
    weights = sum(int(np.prod(tensor["shape"])) for tensor in plan["tensors"])
    row["rate"] = weights / row["command"] / 1e6
    row["peak_mb"] = row.pop("peak") / (1024 if sys.platform == "linux" else 1 << 20)
    return {"level": level} | row


def kernel_seconds(plan: dict[str, Any], threads: int, seconds: float = SECONDS) -> float:
    """What the plan's encoders take with nothing to read or write: each kind of step runs for a while, on as many
    threads at a time as the command has, so that both meet the same clock and the same neighbours."""
    weights: dict[tuple[str, bool, int], int] = {}
    for tensor in plan["tensors"]:
        if tensor["from"] != tensor["to"]:
            key = (tensor["to"], tensor["importance"], tensor["shape"][-1])
            weights[key] = weights.get(key, 0) + int(np.prod(tensor["shape"]))
    return sum(n / kernel_rate(*key, threads, seconds) for key, n in weights.items())


def kernel_rate(name: str, weighted: bool, width: int, threads: int, seconds: float) -> float:
    """Weights a second of all threads together, each with a chunk of its own."""
    from quantmill.formats.qtypes import F16, qtype
    from quantmill.quantize.kernels import kernel_for

    kind, kernel, n_rows = qtype(name), kernel_for(qtype(name)), max(1, (1 << 18) // width)

    def make(i: int) -> Callable[[], None]:
        rng = np.random.default_rng(i)
        rows = (rng.standard_normal((n_rows, width)) * 0.02).astype(np.float16).view(np.uint8)
        importance = (rng.standard_normal(width) ** 2).astype(np.float32) if weighted else None
        out = np.empty((n_rows, kind.row_bytes(width)), np.uint8)
        return lambda: kernel.encode(rows, F16, importance, out)

    return calls_per_second(make, threads, seconds) * n_rows * width


if __name__ == "__main__":
    main()
