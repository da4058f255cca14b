"""The same input and options give the same bytes: a matrix of ways to one file, each compared by its SHA-256.

``tests/imatrix`` and ``tests/test_cluster.py`` show the same of importance matrices, ``tests/kills`` of runs
that were killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from oracles.tiny import save_tiny_llama
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.imatrix_file import read_imatrix
from quantmill.formats.progress import Event, Note, RowsDone
from quantmill.quantize.execute import Job, execute, execute_all
from quantmill.quantize.plan import Plan, PlanOptions, make_plan
from quantmill.tools.main import load_command

LEVELS = ("Q4_K_M", "IQ2_XS", "Q8_0")  # a mix of searched types, one of lattices, one without a search


@dataclass(frozen=True)
class Source:
    """One model in every form, and its importance."""

    checkpoint: Path
    sharded_checkpoint: Path
    file: Path
    shard: Path
    imatrix: Path

    def plan(self, level: str) -> Plan:
        """As the command plans it."""
        imatrix = read_imatrix(self.imatrix)
        vectors, origin = imatrix.vectors(), imatrix.provenance(self.imatrix)
        return make_plan(read_gguf(self.file), level, PlanOptions(importance=vectors, extra_metadata=origin))


def run(*words: object) -> None:
    done = CliRunner().invoke(load_command(str(words[0])), [*map(str, words[1:]), "--quiet"], catch_exceptions=False)
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("source")
    checkpoint = save_tiny_llama(folder / "model", layers=2, hidden=256)
    in_halves(checkpoint, checkpoint, 1)
    sharded = save_tiny_llama(folder / "sharded" / "model", layers=2, hidden=256)
    in_halves(checkpoint, sharded, 3)
    file = folder / "model-f16.gguf"
    run("convert", checkpoint, file, "--outtype", "f16")
    run("split", file, folder / "shards", "--max-tensors", 7)
    run("imatrix", "-m", file, "-o", folder / "imatrix.gguf", "-c", 64, "--chunks", 2, "--no-ppl", "--process-output")
    return Source(checkpoint, sharded, file, next(folder.glob("shards-00002-*")), folder / "imatrix.gguf")


def in_halves(source: Path, folder: Path, shards: int) -> None:
    """A checkpoint's weights as float16, which both ways to a file read exactly."""
    from safetensors.numpy import load_file, save_file

    weights = {name: array.astype(np.float16) for name, array in load_file(source / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    names = (
        ["model.safetensors"]
        if shards == 1
        else [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    )
    index = {name: names[i % shards] for i, name in enumerate(sorted(weights))}
    for file in names:
        part = {name: weights[name] for name in index if index[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))


def by_command(source: Source, level: str, out: Path, *more: object, model: Path | None = None) -> None:
    run("quantize", model or source.file, out, level, "--imatrix", source.imatrix, *more)


def in_one_pass(source: Source, level: str, out: Path, checkpoint: str = "checkpoint") -> None:
    run("convert", getattr(source, checkpoint), out, "--outtype", level, "--imatrix", source.imatrix)


def from_shards(source: Source, level: str, out: Path) -> None:
    by_command(source, level, out, model=source.shard)


def in_chunks(source: Source, level: str, out: Path, weights: int) -> None:
    plan = source.plan(level)
    execute(plan, out, chunk_weights=weights, threads=2)


def resumed(source: Source, level: str, out: Path) -> None:
    """Stopped twice, with other threads and chunks each time."""
    plan = source.plan(level)
    for threads, weights, limit in ((1, 3000, 300_000), (3, 10_000, 900_000)):
        done = 0

        def stop(event: Event, limit: int = limit) -> None:
            nonlocal done
            done += event.nbytes if isinstance(event, RowsDone) else 0
            if done > limit:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            execute(plan, out, chunk_weights=weights, threads=threads, progress=stop)
    events: list[Event] = []
    execute(plan, out, progress=events.append)
    said = [event.text for event in events if isinstance(event, Note)]
    assert "going on where an earlier run stopped" in said[0]


def among_others(source: Source, level: str, out: Path) -> None:
    """One of several files that are made from one reading."""
    plans = {one: source.plan(one) for one in LEVELS}
    paths = {one: out if one == level else out.with_name(f"other-{one}") for one in LEVELS}
    jobs = [Job(plan, paths[one]) for one, plan in plans.items()]
    execute_all(jobs, threads=2)


def on_another_cpu(source: Source, level: str, out: Path) -> None:
    """Kernels compiled anew for a processor without AVX-512; the name alone would leave the features of this one."""
    environment = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "-avx512f"}
    environment |= {"NUMBA_CACHE_DIR": str(out.parent / "cache")}
    words = ["quantize", str(source.file), str(out), level, "--imatrix", str(source.imatrix), "--quiet"]
    code = "from quantmill.tools.main import run; run()"
    subprocess.run([sys.executable, "-c", code, *words], env=os.environ | environment, check=True)


WAYS: dict[str, Callable[[Source, str, Path], None]] = {
    "2 threads": lambda *a: by_command(*a, "--threads", 2),
    "7 threads": lambda *a: by_command(*a, "--threads", 7),
    "a row at a time": partial(in_chunks, weights=1),
    "chunks of 5000 weights": partial(in_chunks, weights=5000),
    "one pass": in_one_pass,
    "one pass from a sharded checkpoint": partial(in_one_pass, checkpoint="sharded_checkpoint"),
    "from shards": from_shards,
    "resumed": resumed,
    "among other levels": among_others,
}
ON_A_CLUSTER: dict[str, Callable[[Source, str, Path], None]] = {
    "a cluster of 1": lambda *a: by_command(*a, "--cluster", "local", "--workers", 1),
    "a cluster of 3": lambda *a: by_command(*a, "--cluster", "local", "--workers", 3),
}


@pytest.fixture(scope="module")
def expected(source: Source, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of what one thread makes of the file."""
    folder = tmp_path_factory.mktemp("expected")
    for level in LEVELS:
        by_command(source, level, folder / level, "--threads", 1)
    return {level: digest(folder / level) for level in LEVELS}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check(way: Callable[[Source, str, Path], None], source: Source, level: str, out: Path, expected: str) -> None:
    way(source, level, out)
    assert digest(out) == expected


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("way", WAYS)
def test_on_one_machine(way: str, level: str, source: Source, tmp_path: Path, expected: dict[str, str]) -> None:
    check(WAYS[way], source, level, tmp_path / "o.gguf", expected[level])


def test_levels_differ(expected: dict[str, str]) -> None:
    assert len(set(expected.values())) == len(LEVELS)


@pytest.mark.slow
@pytest.mark.parametrize("way", ON_A_CLUSTER)
def test_on_a_cluster(way: str, source: Source, tmp_path: Path, expected: dict[str, str], ray_of_three: None) -> None:
    for level in LEVELS[:2]:
        check(ON_A_CLUSTER[way], source, level, tmp_path / f"{level}.gguf", expected[level])


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_on_another_cpu(level: str, source: Source, tmp_path: Path, expected: dict[str, str]) -> None:
    check(on_another_cpu, source, level, tmp_path / "o.gguf", expected[level])
