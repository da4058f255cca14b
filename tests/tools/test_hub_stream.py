"""Shards that arrive while the first are worked on, and that leave the disk again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oracles.hub import Hub, running_hub
from quantmill import ReadOptions, convert, read_hf, tiny_llama, write_hf
from quantmill.formats.errors import FormatError
from quantmill.formats.hub.address import HubAddress
from quantmill.formats.hub.arriving import ON_DISK, Arrivals
from quantmill.formats.hub.repository import Repository

STREAM = ReadOptions(stream=True)
# Megabytes of the large model; 3000 for the figure in the documentation.
LARGE_MB = int(os.environ.get("QUANTMILL_STREAM_MB", "150"))
SHARDS = 10


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from formats.hub.conftest import use

    with running_hub() as running:
        use(running, tmp_path / "cache", monkeypatch)
        monkeypatch.chdir(tmp_path)
        yield running


@pytest.fixture
def tiny(hub: Hub, tmp_path: Path) -> Path:
    """A checkpoint of several shards on the hub, and its folder."""
    folder = tmp_path / "source" / "tiny"
    folder.parent.mkdir()
    write_hf(tiny_llama(), folder, max_shard_bytes=300_000)
    hub.add("org/tiny", folder)
    assert len([*folder.glob("*.safetensors")]) > 3
    return folder


@pytest.mark.parametrize("read", [ReadOptions(), STREAM], ids=["kept", "streamed"])
def test_the_same_bytes(
    hub: Hub, tiny: Path, tmp_path: Path, read: ReadOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantmill.formats.hub.arriving.BY_RANGE", 4096)
    convert("org/tiny", "hub.gguf", "Q4_K_M", read=read)
    cached = [*(tmp_path / "cache").rglob("*.safetensors")]
    assert bool(cached) is not read.stream
    assert not [*tmp_path.glob(".hub*")]
    convert("org/tiny", "again.gguf", "Q4_K_M")
    assert Path("hub.gguf").read_bytes() == Path("again.gguf").read_bytes()


def test_work_begins_before_all_is_there(hub: Hub, tiny: Path) -> None:
    """The first shard's weights are read while the last shard's download is held back."""
    repository = Repository(HubAddress("org/tiny"))
    names = sorted(path.name for path in tiny.glob("*.safetensors"))
    folder = repository.download([name for name in repository.files if name not in names])
    held = threading.Event()
    last = repository.files[names[-1]].sha256

    def hold(method: str, path: str) -> None:
        if path == f"storage/{last}" and method == "GET" and not headers:
            assert held.wait(20)

    with Arrivals(repository, folder, names) as arrivals:
        headers = True
        model = read_hf(folder, elsewhere=arrivals)
        assert not arrivals.started
        headers = False
        hub.faults = hold
        first = model.tensors[0]
        assert arrivals.local(names[0], wait=True) is not None
        assert first.rows(0, 4).any()
        assert arrivals.local(names[-1], wait=False) is None
        held.set()
        assert arrivals.local(names[-1], wait=True) is not None


def test_two_shards_on_disk_at_most(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    """Whatever order they are asked for in."""
    repository = Repository(HubAddress("org/tiny"))
    names = sorted(path.name for path in tiny.glob("*.safetensors"))
    folder = repository.download(["config.json"])
    spare = tmp_path / "spare"
    with Arrivals(repository, folder, names, spare) as arrivals:
        for name in [*names, *reversed(names), names[2], names[0]]:
            local = arrivals.local(name, wait=True)
            assert local is not None
            assert local.read(0, local.size).tobytes() == (tiny / name).read_bytes()
            assert len([*spare.glob("*.safetensors")]) <= ON_DISK
    assert not spare.exists()


def test_a_download_that_fails_ends_the_work(hub: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantmill.formats.hub.arriving.BY_RANGE", 4096)
    largest = max(tiny.glob("*.safetensors"), key=lambda path: path.stat().st_size).name

    def fail(method: str, path: str) -> tuple[int, dict[str, str], bytes] | None:
        arriving = Path(".hub.gguf.shards").is_dir()  # and headers have been read
        return (404, {"X-Error-Code": "EntryNotFound"}, b"") if arriving and path.endswith(largest) else None

    hub.faults = fail
    with pytest.raises(FormatError, match=r"hf://org/tiny: no such file in the repository"):
        convert("org/tiny", "hub.gguf", "Q4_K_M", read=STREAM)
    assert not Path("hub.gguf").exists()


def test_what_cannot_be_streamed(hub: Hub, tiny: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    assert "the model is on this machine" in refused("convert", tiny, "x.gguf", "--stream")
    assert "read more than once" in refused("convert", "org/tiny", "x.gguf", "--stream", "--mmproj")


@pytest.mark.slow
def test_the_disk_that_a_large_model_takes(hub: Hub, tmp_path: Path, record_property: Callable[..., None]) -> None:
    """A model of many shards: the most that lay on the disk besides the output, measured while it ran."""
    folder = tmp_path / "source" / "large"
    folder.parent.mkdir()
    write_hf(tiny_llama(layers=max(1, LARGE_MB // 26), width=1024), folder, max_shard_bytes=LARGE_MB * 1e6 / SHARDS)
    hub.add("org/large", folder)
    shard = max(path.stat().st_size for path in folder.glob("*.safetensors"))
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            total = 0
            for at in (tmp_path / ".out.gguf.shards", tmp_path / "cache"):
                for path in at.rglob("*"):
                    try:
                        total += path.lstat().st_size if path.is_file() else 0
                    except OSError:
                        continue
            most[0] = max(most[0], total)
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    convert("org/large", "out.gguf", "Q4_K_M", read=STREAM)
    done.set()
    thread.join()
    line = f"shards of {shard / 1e6:.0f} MB, at most {most[0] / 1e6:.0f} MB on disk besides the output"
    record_property("counts", line)
    assert most[0] < 2 * shard + 1_000_000, line
