"""Hostile files: every reader ends with a ``FormatError`` or with what the file holds, soon and in little memory.

``damage.py`` says what is done to a file, ``readers.py`` what reads it, ``many.py`` runs many in a limited process,
``fuzz.py`` lets atheris search; what any of them found is under ``corpus`` and replayed here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attacks import readers, samples
from attacks.damage import damaged
from quantmill.formats.errors import FormatError

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
WHOLE = {
    "gguf": samples.gguf_files(),
    "ggml": samples.ggml_files(),
    "imatrix": st.one_of(samples.imatrix_files(), samples.dat_files()),
    "safetensors": samples.safetensors_files(),
}
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# 100,000 in all, of each reader as many as its time allows.
CASES = {
    "gguf": 46_000,
    "imatrix": 26_000,
    "ggml": 10_000,
    "safetensors": 10_000,
    "journal": 2_000,
    "tokenizer": 3_000,
    "weights": 3_000,
}


def saved(folder: Path, data: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


def refusal(read: Callable[[], None]) -> str | None:
    """What the reader says, None if it is content."""
    try:
        read()
    except FormatError as error:
        return str(error)
    return None


def many(reader: str, cases: int, seed: int) -> dict[str, float]:
    command = [sys.executable, str(HERE / "many.py"), reader, str(cases), str(seed)]
    env = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, f"{reader}, seed {seed}: {done.stderr[-3000:]}"
    counts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert counts.get("read", 0) + counts.get("refused", 0) == cases
    return counts


@pytest.mark.parametrize("reader", WHOLE)
def test_whole_files_are_read(reader: str, tmp_path: Path) -> None:
    """Else the rest would attack nothing."""

    @QUICK
    @given(data=WHOLE[reader])
    def read(data: bytes) -> None:
        readers.FILES[reader](saved(tmp_path, data))

    read()


@pytest.mark.parametrize("reader", WHOLE)
def test_damaged_files(reader: str, tmp_path: Path) -> None:
    @QUICK
    @given(data=WHOLE[reader], random=st.randoms(use_true_random=False))
    def attack(data: bytes, random: Random) -> None:
        path = saved(tmp_path, damaged(data, random))
        message = refusal(lambda: readers.FILES[reader](path))
        assert message is None or message.isprintable()

    attack()


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_once(path: Path) -> None:
    read = readers.FILES.get(path.parent.name) or readers.FOLDERS[path.parent.name]
    with pytest.raises(FormatError):
        read(path)


@pytest.mark.parametrize("reader", CASES)
def test_some_of_many(reader: str) -> None:
    counts = many(reader, 200, seed=1)
    assert counts["read"] > 20
    assert reader == "journal" or counts["refused"] > 20


@pytest.mark.slow
def test_a_hundred_thousand(record_property: pytest.FixtureRequest) -> None:
    """Two processes at a time, each with 64 MB (and Python's own 24) beyond what it has when it starts."""
    assert sum(CASES.values()) == 100_000
    with ThreadPoolExecutor(2) as pool:
        done = dict(zip(CASES, pool.map(lambda reader: many(reader, CASES[reader], seed=7), CASES), strict=True))
    for reader, counts in done.items():
        line = f"{reader}: {CASES[reader]} damaged files, {counts.get('refused', 0)} refused, {counts['read']} read"
        record_property("counts", f"{line}, {counts['seconds']} s")  # type: ignore[operator]
        print(line)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="no atheris for this Python")
@pytest.mark.parametrize("reader", ["gguf", "ggml", "imatrix"])
def test_the_harness_runs(reader: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(HERE / "fuzz.py"),
        reader,
        "-runs=300",
        "-seed=1",
        str(tmp_path / "found"),
        str(CORPUS / reader),
    ]
    (tmp_path / "found").mkdir()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 300 runs" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["found"]  # no crash-1234
