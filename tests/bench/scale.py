"""Models of any size: seconds and memory of the commands on synthetic Llamas whose files are sparse. Run by hand:

    python tests/bench/scale.py [--sizes 0.1e9,1e9,10e9] [--filled] [--plan 100e9] [--dir DIR] [--json]

Three tables in one, the column ``what`` tells them apart:

- ``plan``: ``--dry-run`` of the largest model, as a Hugging Face folder and as a GGUF file.
- ``stream``: the same model's work, interrupted after ``--seconds``; the disk must have the output's room (a sparse
  file with a file system in it will do). Weights a second are those of the whole, so they are left out.
- the command itself on models of ``--sizes``, and on one whose embedding alone is 10 GB, in seconds for a billion
  weights. Start-up is taken out: what the same command takes on a model of one layer is subtracted, its seconds and
  its weights. Below 5 billion weights the fastest of three runs: when the first begins nothing is in the page cache,
  the others find what it can keep, as a second level does; a larger model finds nothing.
  ``user s/G`` and ``system s/G`` are the processor's time in the command and in the kernel on its behalf. ``disk s/G``
  is what it takes right after to do nothing else than read the source, then write as many bytes as the output has and
  sync them: small files vanish in caches, 10 GB do not, so that whatever only moves bytes (``f16``, ``Q8_0``) follows
  these two columns; the work itself is in ``user s/G``.

The weights are zeros, the kernels' fastest case: reading, writing and bookkeeping show, which must be in proportion to
the size. With ``--filled`` those of ``--sizes`` are normal and on the disk, 4 bytes each: what users have. ``peak MB``
is the process's own high-water mark (VmHWM).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from math import prod
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np

COMMAND = [sys.executable, "-c", "from quantmill.tools.main import run; run()"]
SHARD_BYTES = 5e9
HEAD = 128


def llama(weights: float, hidden: int = 2048, vocabulary: int | None = None) -> dict[str, Any]:
    """config.json of a Llama of about that many weights: as many layers as fit."""
    vocabulary = vocabulary or (32000 if weights >= 3e8 else 1024)
    feed_forward, kv = hidden * 11 // 4, hidden // 8
    layer = 2 * hidden * (hidden + kv) + 3 * hidden * feed_forward
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float16", "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": feed_forward, "vocab_size": vocabulary, "rms_norm_eps": 1e-5,
        "num_hidden_layers": max(1, round((weights - 2 * vocabulary * hidden) / layer)), "rope_theta": 10000.0,
        "num_attention_heads": hidden // HEAD, "num_key_value_heads": kv // HEAD, "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }  # fmt: skip


def shapes_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, feed_forward = config["hidden_size"], config["intermediate_size"]
    kv, vocabulary = config["num_key_value_heads"] * HEAD, config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for i in range(config["num_hidden_layers"]):
        stem = f"model.layers.{i}."
        shapes |= {f"{stem}{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
        shapes |= {f"{stem}self_attn.{name}_proj.weight": (hidden, hidden) for name in "qo"}
        shapes |= {f"{stem}self_attn.{name}_proj.weight": (kv, hidden) for name in "kv"}
        shapes |= {f"{stem}mlp.{name}_proj.weight": (feed_forward, hidden) for name in ("gate", "up")}
        shapes[f"{stem}mlp.down_proj.weight"] = (hidden, feed_forward)
    shapes["model.norm.weight"] = (hidden,)
    return shapes if config["tie_word_embeddings"] else shapes | {"lm_head.weight": (vocabulary, hidden)}


def write_checkpoint(folder: Path, config: dict[str, Any], dtype: str = "F16", filled: bool = False) -> int:
    """A Hugging Face folder in sparse shards of zeros, or of normal weights. Gives its number of weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    held = 0
    shapes = shapes_of(config)
    for name, shape in shapes.items():
        if shards[-1] and held + 2 * prod(shape) > SHARD_BYTES:
            shards.append({})
            held = 0
        shards[-1][name] = shape
        held += 2 * prod(shape)
    index = {}
    for i, shard in enumerate(shards):
        path = folder / f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        header, end = {}, 0
        for name, shape in shard.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end := end + 2 * prod(shape)]}
            index[name] = path.name
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)  # as safetensors does
        path.write_bytes(struct.pack("<Q", len(raw)) + raw)
        lengthen(path, 8 + len(raw) + end, filled)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return sum(map(prod, shapes.values()))


def write_gguf(path: Path, folder: Path, filled: bool = False) -> None:
    """The same model as one file, in F16."""
    from quantmill.formats.gguf.writer import TensorInfo, layout
    from quantmill.formats.hf.load import read_hf
    from quantmill.formats.qtypes import F16, F32

    model = read_hf(folder)
    infos = [TensorInfo(t.name, t.shape, F16 if len(t.shape) > 1 else F32) for t in model]
    place = layout(model.metadata, infos)
    path.write_bytes(place.header)
    lengthen(path, place.size, filled)


def lengthen(path: Path, size: int, filled: bool) -> None:
    """A file of that size: nothing follows, or normal weights in F16, whose pairs are finite in F32 too."""
    if filled:
        rng = np.random.default_rng(0)
        pool = (rng.standard_normal(1 << 25, np.float32) * np.float32(0.02)).astype(np.float16).tobytes()
        with path.open("ab", buffering=0) as file:
            while (left := size - file.tell()) > 0:
                start = 2 * int(rng.integers(0, 1 << 12))
                file.write(memoryview(pool)[start : start + left])
            os.fsync(file.fileno())
    os.truncate(path, size)


def measure(words: list[str], seconds: float | None = None) -> dict[str, Any]:
    """Run a command and watch its memory.

    Args:
        seconds: interrupt it then.
    """
    begun = monotonic()
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak, told = 0.0, False
    while process.poll() is None:
        peak = max(peak, _high_water_mark(process.pid))
        if seconds is not None and not told and monotonic() - begun > seconds:
            process.send_signal(signal.SIGTERM)
            told = True
        sleep(0.005)
    took = monotonic() - begun
    assert process.stderr is not None
    said = process.stderr.read().strip().splitlines()
    code, last = process.returncode, said[-1] if said else ""
    return {"seconds": took, "peak_mb": peak, "code": code, "said": last} | _children_cpu()


_cpu_before = {"user": 0.0, "system": 0.0}


def _children_cpu() -> dict[str, float]:
    """Processor seconds of the child that has just ended."""
    times = os.times()
    total = {"user": times.children_user, "system": times.children_system}
    used = {key: total[key] - _cpu_before[key] for key in total}
    _cpu_before.update(total)
    return used


def _high_water_mark(pid: int) -> float:
    """MB of a living process; 0 while it becomes another program (until then it is a copy of this one) or is gone."""
    try:
        if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:2] != [b"-c"]:
            return 0.0
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 * 1.024 for line in lines if line.startswith("VmHWM:")), 0.0)


class Model:
    """A synthetic model in both forms, in a folder of its own."""

    def __init__(self, folder: Path, config: dict[str, Any], filled: bool = False) -> None:
        self.folder = folder
        folder.mkdir()
        self.hf, self.gguf, self.out = folder / "hf", folder / "f16.gguf", folder / "out.gguf"
        self.weights = write_checkpoint(self.hf, config, filled=filled)
        write_gguf(self.gguf, self.hf, filled)

    def commands(self, level: str) -> dict[str, list[str]]:
        return {
            "convert to f16": ["convert", str(self.hf), str(self.out), "--outtype", "f16"],
            f"convert to {level}": ["convert", str(self.hf), str(self.out), "--outtype", level],
            f"quantize to {level}": ["quantize", str(self.gguf), str(self.out), level],
        }

    def row(
        self, what: str, words: list[str], seconds: float | None = None, start: dict[str, Any] | None = None,
        warm: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Run a command.

        Args:
            seconds: interrupt it then.
            start: the same command's row of a small model.
            warm: the source may be in the page cache.
        """
        if not warm:
            self._forget()
        found = measure(words, seconds)
        if found["code"] == 0 and start is not None:
            assert self.out.exists(), words
            billions = (self.weights - start["weights"]) / 1e9
            for key in ("seconds", "user", "system"):
                found[f"{key}_per_billion"] = (found[key] - start[key]) / billions
            found["disk_per_billion"] = self._floor(words) / self.weights * 1e9
        for path in self.folder.glob("*out.gguf*"):
            path.unlink()
        for path in self.folder.glob(".out.gguf*"):
            path.unlink()
        return {"what": what, "weights": self.weights, **found}

    def _floor(self, words: list[str]) -> float:
        """Seconds to read a command's source and to put as many bytes in its output's place, and nothing else."""
        n_bytes, block = self.out.stat().st_size, bytearray(1 << 20)
        self.out.unlink()
        self._forget()
        begun = monotonic()
        for path in [self.gguf] if str(self.gguf) in words else self.hf.glob("*.safetensors"):
            with path.open("rb", buffering=0) as file:
                while file.readinto(block):
                    pass
        block[:] = os.urandom(len(block))  # zeros may be stored as nothing
        with self.out.open("wb", buffering=0) as file:
            for start in range(0, n_bytes, len(block)):
                file.write(memoryview(block)[: n_bytes - start])
            os.fsync(file.fileno())
        return monotonic() - begun

    def _forget(self) -> None:
        """The source leaves the page cache, where only a small one would fit."""
        for path in (*self.hf.iterdir(), self.gguf):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0.1e9,1e9", help="of models worked through; the disk must hold them")
    parser.add_argument("--filled", action="store_true", help="those of --sizes hold normal weights")
    parser.add_argument("--levels", default="Q4_K_M")
    parser.add_argument("--only", help="commands whose names contain this")
    parser.add_argument("--plan", type=float, default=100e9, help="weights of the model that is planned; 0 for none")
    parser.add_argument("--stream", default="Q4_K_M", help="the level at which that model's work is begun")
    parser.add_argument("--seconds", type=float, default=0.0, help="and after how many it is interrupted; 0: not begun")
    parser.add_argument("--giant", action="store_true", help="also the model with a tensor of 10 GB")
    parser.add_argument("--dir", type=Path, help="where the files go (default: the temporary)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=args.dir) as place:
        folder = Path(place)
        if args.plan:
            rows += _large(Model(folder / "large", llama(args.plan, hidden=8192)), args.stream, args.seconds)
        least = Model(folder / "least", llama(1, vocabulary=256), args.filled)
        configs = [(f"{float(size):.3g}", llama(float(size))) for size in args.sizes.split(",") if size]
        if args.giant:
            configs.append(("10 GB tensor", llama(1, vocabulary=int(10e9 / 2 / 2048))))
        for label, config in configs:
            model = Model(folder / label, config, args.filled)
            times = 3 if model.weights < 5e9 else 1
            for level in args.levels.split(","):
                nothing = least.commands(level)
                for what, words in model.commands(level).items():
                    if args.only is None or args.only in what:
                        start = min((least.row(what, nothing[what]) for _ in range(3)), key=seconds_of)
                        name = f"{what}{', 10 GB tensor' if 'GB' in label else ''}"
                        runs = [model.row(name, words, None, start, warm=i > 0) for i in range(times)]
                        rows.append(min(runs, key=seconds_of))
            shutil.rmtree(model.folder)
    print(json.dumps(rows) if args.json else table(rows))


def seconds_of(row: dict[str, Any]) -> float:
    return float(row["seconds"])


def _large(model: Model, level: str, seconds: float) -> list[dict[str, Any]]:
    found = []
    for what, words in model.commands(level).items():
        found.append(model.row(f"plan: {what}", [*words, "--dry-run"]))
        if seconds:
            found.append(model.row(f"stream: {what}", words, seconds))
    return found


COLUMNS = (("seconds", "s/G"), ("user", "user s/G"), ("system", "system s/G"), ("disk", "disk s/G"))


def table(rows: list[dict[str, Any]]) -> str:
    heads = "".join(f"{title:>{len(title) + 2}}" for _, title in COLUMNS)
    lines = [f"{'what':36}{'weights':>10}{'seconds':>9}  {heads}{'peak MB':>9}"]
    for row in rows:
        per = "".join(
            f"{row[f'{key}_per_billion']:{len(title) + 2}.2f}" for key, title in COLUMNS if f"{key}_per_billion" in row
        )
        failed = "" if row["code"] in (0, 130) else f"  {row['said']}"
        begin = f"{row['what']:36}{row['weights'] / 1e9:>8.2f} G{row['seconds']:9.2f}  {per:{len(heads)}}"
        lines.append(f"{begin}{row['peak_mb']:9.0f}{failed}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
