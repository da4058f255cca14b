"""``convert`` of a synthetic FLUX.1 in BF16 to a level, in one pass: time and memory. Run by hand:

    python tests/bench/image.py [--double 19] [--single 38] [--level Q4_K_S] [--threads 2] [--zeros] [--dir DIR]
                                  [--json]

19 double and 38 single blocks are FLUX.1-dev, 11.9 billion weights. Weights are random; with ``--zeros`` they are holes
in the file, which takes no disk. ``peak_mb`` is the most memory the process held, Python and its libraries included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from math import prod
from pathlib import Path
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from oracles.image_models import Shapes, flux

PIECE = 1 << 24  # weights written at a time
RUN = """
import sys
from quantmill.tools.main import run
sys.argv = ["quantmill", "convert", *sys.argv[1:]]
try:
    run()
finally:
    print(open("/proc/self/status").read())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--double", type=int, default=19)
    parser.add_argument("--single", type=int, default=38)
    parser.add_argument("--level", default="Q4_K_S")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--zeros", action="store_true")
    parser.add_argument("--dir", type=Path, help="where the files go (default: the temporary folder)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    shapes = flux(3072, args.double, args.single)
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        source = Path(folder) / "flux1.safetensors"
        write(source, shapes, zeros=args.zeros)
        row = measure(source, args.level, args.threads)
    row |= {"level": args.level, "weights": sum(prod(shape) for shape in shapes.values())}
    if args.json:
        print(json.dumps(row))
        return
    print(f"{'level':8}{'weights':>10}{'seconds':>9}{'Mweights/s':>12}{'peak MB':>9}{'GB':>7}")
    rate = row["weights"] / row["seconds"] / 1e6
    print(
        f"{args.level:8}{row['weights'] / 1e9:9.2f}e9{row['seconds']:8.1f}{rate:12.1f}{row['peak_mb']:9.0f}"
        f"{row['bytes'] / 1e9:7.2f}"
    )


def write(path: Path, shapes: Shapes, *, zeros: bool) -> None:
    """Write a BF16 safetensors file of random weights, or one that is a hole."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    # The upper halves of floats of a normal distribution, again and again at other places.
    values = np.random.default_rng(0).standard_normal(PIECE, np.float32) * np.float32(0.02)
    piece = (values.view(np.uint32) >> 16).astype("<u2")
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        start, left = file.tell(), end
        while left and not zeros:
            n = min(left, piece.nbytes)
            file.write(piece[: n // 2].data)
            left -= n
        file.truncate(start + end)


def measure(source: Path, level: str, threads: int) -> dict[str, float]:
    """Seconds of the whole command, megabytes of memory at most, bytes of the file."""
    out = source.with_name("out.gguf")
    words = [str(source), str(out), "--outtype", level, "--threads", str(threads), "--quiet"]
    begin = perf_counter()
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True, check=True)
    seconds = perf_counter() - begin
    peak = int(done.stdout.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    return {"seconds": seconds, "peak_mb": peak, "bytes": out.stat().st_size}


if __name__ == "__main__":
    main()
