"""Work that was cut off is taken up: no row twice, the same bytes, nothing of another plan's."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantmill.formats.errors import OutputError, WeightError
from quantmill.formats.ir import Bytes, Model, Tensor
from quantmill.formats.progress import Event, Note, RowsDone
from quantmill.quantize.execute import Job, execute, execute_all
from quantmill.quantize.plan import make_plan


class Interrupt:
    """Stops a run as Ctrl-C does, after some chunks."""

    def __init__(self, chunks: int) -> None:
        self.left = chunks
        self.said: list[str] = []

    def __call__(self, event: Event) -> None:
        self.said += [event.text] if isinstance(event, Note) else []
        self.left -= isinstance(event, RowsDone)
        if self.left < 0:
            raise KeyboardInterrupt


def watched(model: Model, seen: list[tuple[str, int]]) -> Model:
    """The model, noting each row that is read."""

    def watch(tensor: Tensor) -> Tensor:
        def read(a: int, b: int) -> Bytes:
            seen.extend((tensor.name, row) for row in range(a, b))
            return tensor.read(a, b)

        return replace(tensor, read=read)

    return replace(model, tensors=tuple(watch(tensor) for tensor in model))


def interrupted(model: Model, level: str, path: Path, chunks: int = 6, **options: Any) -> list[str]:
    """What the run said."""
    options = {"threads": 1, "chunk_weights": 4096} | options
    stop = Interrupt(chunks)
    with pytest.raises(KeyboardInterrupt):
        execute(make_plan(model, level), path, progress=stop, **options)
    return stop.said


def whole(model: Model, level: str, path: Path) -> bytes:
    execute(make_plan(model, level), path, threads=1)
    return path.read_bytes()


@pytest.mark.parametrize("threads", [1, 3])
def test_no_row_is_read_twice(tiny: Model, tmp_path: Path, threads: int) -> None:
    expected = whole(tiny, "Q4_K_M", tmp_path / "expected")
    folder, seen = tmp_path / "new", []
    folder.mkdir()
    path, source = folder / "o.gguf", watched(tiny, seen)
    before = threading.active_count()
    said = interrupted(source, "Q4_K_M", path, threads=threads)
    assert threading.active_count() == before
    assert sorted(file.name for file in folder.iterdir()) == [".o.gguf.journal", ".o.gguf.part"]
    first = list(seen)
    events: list[Event] = []
    execute(make_plan(source, "Q4_K_M"), path, threads=threads, chunk_weights=4096, progress=events.append)
    said += [event.text for event in events if isinstance(event, Note)]
    assert path.read_bytes() == expected
    assert [file.name for file in folder.iterdir()] == ["o.gguf"]
    every = {(t.name, row) for t in tiny for row in range(t.n_rows)}
    assert set(seen) == every
    # The chunk that the interrupt fell on may come again, one for each thread.
    assert len(seen) - len(every) <= threads * 4096 // 256
    assert 0 < len(first) < len(every)
    assert [line.split(": ")[1].split(" ")[0] for line in said] == ["what", "going"]


def test_other_chunks_fit_too(tiny: Model, tmp_path: Path) -> None:
    expected = whole(tiny, "Q5_K_M", tmp_path / "expected")
    for chunk in (300, 5000, None):
        interrupted(tiny, "Q5_K_M", tmp_path / "o.gguf", chunks=9)
        execute(make_plan(tiny, "Q5_K_M"), tmp_path / "o.gguf", threads=2, chunk_weights=chunk, force=True)
        assert (tmp_path / "o.gguf").read_bytes() == expected
        (tmp_path / "o.gguf").unlink()


def test_another_plan_begins_anew(tiny: Model, tmp_path: Path, tensor: Callable[..., Tensor]) -> None:
    """Another level; and the same level of weights that changed, whose header is the same."""
    path = tmp_path / "o.gguf"
    for model, level in ((tiny, "Q6_K"), (replace(tiny, path=tmp_path / "source.gguf"), "Q4_K_M")):
        interrupted(tiny, "Q4_K_M", path)
        if model is not tiny:
            model.path.write_bytes(b"another file")
        seen: list[tuple[str, int]] = []
        execute(make_plan(watched(model, seen), level), path)
        assert len(seen) == sum(t.n_rows for t in tiny)
        assert path.read_bytes() == whole(tiny, level, tmp_path / "expected")
        for file in (path, tmp_path / "expected"):
            file.unlink()


def test_restart_begins_anew(tiny: Model, tmp_path: Path) -> None:
    interrupted(tiny, "Q4_K_M", tmp_path / "o.gguf")
    seen: list[tuple[str, int]] = []
    execute(make_plan(watched(tiny, seen), "Q4_K_M"), tmp_path / "o.gguf", restart=True)
    assert len(seen) == sum(t.n_rows for t in tiny)


def test_the_second_of_two_runs_is_told(tiny: Model, tmp_path: Path) -> None:
    with (tmp_path / ".o.gguf.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match=r"o.gguf: is being written by another run"):
            execute(make_plan(tiny, "Q4_K_M"), tmp_path / "o.gguf")
    execute(make_plan(tiny, "Q4_K_M"), tmp_path / "o.gguf")


def test_an_error_of_the_input_leaves_nothing(tiny: Model, tensor: Callable[..., Tensor], tmp_path: Path) -> None:
    import numpy as np

    bad = [tensor(t.name, np.full(t.shape, np.nan, "f2")) if "1.ffn_up" in t.name else t for t in tiny]
    with pytest.raises(WeightError):
        execute(make_plan(replace(tiny, tensors=tuple(bad)), "Q4_K_M"), tmp_path / "o.gguf")
    assert list(tmp_path.iterdir()) == []


def test_many_files_from_one_reading(tiny: Model, tmp_path: Path) -> None:
    levels = ("Q4_K_M", "Q8_0", "F16", "Q2_K")
    expected = {
        level: whole(tiny, level, tmp_path / "expected")
        for level in levels
        if not (tmp_path / "expected").unlink(missing_ok=True)
    }
    seen: list[tuple[str, int]] = []
    source = watched(tiny, seen)
    jobs = [Job(make_plan(source, level), tmp_path / f"{level}.gguf") for level in levels]
    with pytest.raises(KeyboardInterrupt):
        execute_all(jobs, threads=2, chunk_weights=4096, progress=Interrupt(10))
    assert not list(tmp_path.glob("*.gguf"))
    execute_all(jobs, threads=2, chunk_weights=4096)
    assert {level: (tmp_path / f"{level}.gguf").read_bytes() for level in levels} == expected
    assert len(seen) - sum(t.n_rows for t in tiny) <= 2 * 4096 // 256
