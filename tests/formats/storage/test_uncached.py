"""Reads and writes past the page cache: the same bytes, for models that do not fit it alone, and a way back."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from oracles.tiny import save_tiny_llama
from quantmill.formats.errors import OutputError, SourceError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.hf.load import read_hf
from quantmill.formats.storage import uncached
from quantmill.formats.storage.output import atomic_output
from quantmill.formats.storage.source import SourceFile
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import make_plan

SIZE = 3_000_017
LEAST = 1 << 18


@pytest.fixture
def data(tmp_path: Path) -> NDArray[np.uint8]:
    data = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    data.tofile(tmp_path / "file")
    return data


@pytest.fixture
def direct(tmp_path: Path) -> None:
    """Some file systems have no such reads (tmpfs before Linux 6.6): there is only the way back, tested everywhere."""
    try:
        os.close(os.open(tmp_path / "probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except (AttributeError, OSError) as error:
        pytest.skip(f"no direct reads in {tmp_path}: {error}")


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Everything is too large for the cache; tells of each read whether it went past it."""
    told: list[bool] = []
    real = uncached.Uncached.read

    def read(self: uncached.Uncached, start: int, n: int) -> Any:
        found = real(self, start, n)
        told.append(found is not None)
        return found

    monkeypatch.setattr(uncached, "_room", lambda: -1)
    monkeypatch.setattr(uncached.Uncached, "read", read)
    return told


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("start", [0, 1, 8, 4088, 4095, 4096, 1_234_568])
@pytest.mark.parametrize("n", [LEAST, LEAST + 1, 1_000_003, 4096 * 100])
def test_any_place(data: NDArray[np.uint8], tmp_path: Path, no_room: list[bool], start: int, n: int) -> None:
    file = SourceFile(tmp_path / "file")
    found = file.read(start, n)
    assert np.array_equal(found, data[start : start + n])
    assert found.ctypes.data % 8 == 0
    end = SIZE - SIZE % 8  # of no block
    assert np.array_equal(file.read(end - n // 8 * 8, n // 8 * 8 + 1), data[end - n // 8 * 8 : end + 1])
    assert no_room == [True, True]


def test_small_reads_use_the_cache(data: NDArray[np.uint8], tmp_path: Path, no_room: list[bool]) -> None:
    assert np.array_equal(SourceFile(tmp_path / "file").read(5, LEAST - 1), data[5 : LEAST + 4])
    assert no_room == [False]


@pytest.mark.usefixtures("direct")
def test_all_open_files_count(data: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncached, "_open", {})  # whatever else this process holds
    monkeypatch.setattr(uncached, "_room", lambda: SIZE)
    with (tmp_path / "file").open("rb") as first, (tmp_path / "file").open("rb") as second:
        one = uncached.Uncached(first.fileno(), SIZE)
        assert one.read(0, SIZE) is None
        two = uncached.Uncached(second.fileno(), SIZE)
        found = one.read(0, SIZE)
        assert found is not None
        assert np.array_equal(found, data)
        del two
        assert one.read(0, SIZE) is None


@pytest.mark.usefixtures("direct")
def test_nothing_stays_open(data: NDArray[np.uint8], tmp_path: Path, no_room: list[bool]) -> None:
    file = SourceFile(tmp_path / "file")
    file.read(0, SIZE)
    assert descriptors(tmp_path / "file") == 2
    del file
    assert descriptors(tmp_path / "file") == 0


def descriptors(path: Path) -> int:
    """How many of this process's are the file's."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own
            found += os.readlink(f"/proc/self/fd/{fd}") == str(path.resolve())
    return found


@pytest.mark.parametrize("fails", ["open", "preadv"])
def test_a_file_system_without(
    data: NDArray[np.uint8], tmp_path: Path, no_room: list[bool], request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch, fails: str,
) -> None:  # fmt: skip
    if fails == "preadv":
        request.getfixturevalue("direct")  # it must be opened to fail then
    file, real, tries = SourceFile(tmp_path / "file"), getattr(os, fails), []

    def refuse(first: Any, *rest: Any, **more: Any) -> Any:
        if first == file._fd:
            return real(first, *rest, **more)
        tries.append(first)
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, fails, refuse)
    for _ in range(2):
        assert np.array_equal(file.read(8, SIZE - 8), data[8:])
    assert len(tries) == 1  # and not for every chunk


@pytest.mark.usefixtures("direct")
def test_a_file_cut_short(data: NDArray[np.uint8], tmp_path: Path, no_room: list[bool]) -> None:
    file = SourceFile(tmp_path / "file")
    file.read(0, SIZE)
    os.truncate(tmp_path / "file", SIZE // 2)
    with pytest.raises(SourceError, match="became shorter while it was read"):
        file.read(0, SIZE)


@pytest.mark.usefixtures("direct")
def test_the_same_output(
    data: NDArray[np.uint8], tmp_path: Path, no_room: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncached, "_LEAST", 1 << 10)
    save_tiny_llama(tmp_path / "hf", layers=2)
    monkeypatch.setattr(uncached, "_room", lambda: 1 << 40)
    execute(make_plan(read_hf(tmp_path / "hf"), "F16"), tmp_path / "f16.gguf")
    execute(make_plan(read_gguf(tmp_path / "f16.gguf"), "Q4_K_M"), tmp_path / "cached.gguf")
    assert not any(no_room)
    monkeypatch.setattr(uncached, "_room", lambda: -1)
    execute(make_plan(read_gguf(tmp_path / "f16.gguf"), "Q4_K_M"), tmp_path / "uncached.gguf")
    assert sum(no_room) > 10
    assert (tmp_path / "uncached.gguf").read_bytes() == (tmp_path / "cached.gguf").read_bytes()


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Everything is too large for the cache; the flags of each write that would go past it, which go the usual way."""
    told: list[int] = []

    def write(fd: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        told.append(flags)
        return os.pwrite(fd, buffers[0][:LEAST], offset)  # as much as such a system takes

    monkeypatch.setattr(uncached, "_room", lambda: -1)
    monkeypatch.setattr(os, "pwritev", write)
    return told


RWF_DONTCACHE = 0x80  # Linux's include/uapi/linux/fs.h
linux = pytest.mark.skipif(sys.platform != "linux", reason="there are such writes on Linux alone")


def write(data: NDArray[np.uint8], path: Path) -> None:
    """In pieces whose places are those of nobody's blocks, the last first; and small ones."""
    with atomic_output(path, SIZE) as output:
        for start, end in [(1_234_567, SIZE), (5, 1_234_567), (0, 5)]:
            output.write_at(start, data[start:end])


def test_writes(data: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own, or what it says to them."""
    monkeypatch.setattr(uncached, "_room", lambda: -1)
    write(data, tmp_path / "out")
    assert np.array_equal(np.fromfile(tmp_path / "out", np.uint8), data)


@linux
def test_only_large_writes(data: NDArray[np.uint8], tmp_path: Path, flags: list[int]) -> None:
    write(data, tmp_path / "out")
    assert np.array_equal(np.fromfile(tmp_path / "out", np.uint8), data)
    whole = sum(n // LEAST for n in (SIZE - 1_234_567, 1_234_567 - 5))
    assert flags == [RWF_DONTCACHE] * whole  # what is left of each is small


@linux
def test_outputs_count(data: NDArray[np.uint8], tmp_path: Path, flags: list[int], monkeypatch: Any) -> None:
    monkeypatch.setattr(uncached, "_open", {})  # whatever else this process holds
    monkeypatch.setattr(uncached, "_room", lambda: SIZE)
    with atomic_output(tmp_path / "one", SIZE) as one:
        one.write_at(0, data)
        assert not flags
        with atomic_output(tmp_path / "two", 1) as two:
            one.write_at(0, data)
            assert flags
        del two
        flags.clear()
        one.write_at(0, data)
        assert not flags


@linux
@pytest.mark.parametrize(
    "error",
    [
        *(OSError(code, os.strerror(code)) for code in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)),
        NotImplementedError("pwritev: flags unavailable on this platform"),  # as CPython says without pwritev2
    ],
    ids=str,
)
def test_a_system_without_such_writes(
    data: NDArray[np.uint8], tmp_path: Path, flags: list[int], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*args: Any) -> int:
        flags.append(0)
        raise error

    monkeypatch.setattr(os, "pwritev", refuse)
    write(data, tmp_path / "out")
    assert np.array_equal(np.fromfile(tmp_path / "out", np.uint8), data)
    assert len(flags) == 1  # and not for every piece


@linux
@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "not enough room"), (errno.EIO, "cannot be written")])
def test_a_disk_that_fails(
    data: NDArray[np.uint8], tmp_path: Path, flags: list[int], monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def fail(*args: Any) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwritev", fail)
    with pytest.raises(OutputError, match=words):
        write(data, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf")
    uncached._room.cache_clear()
    try:
        assert not uncached.past_cache()
    finally:
        uncached._room.cache_clear()
