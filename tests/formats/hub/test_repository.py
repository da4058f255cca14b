"""Files of a repository on a hub of this machine, through the real client; and the faults that networks have."""

from __future__ import annotations

import os
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from oracles.hub import Hub
from quantmill.formats.errors import FormatError
from quantmill.formats.hf.files.hub_cache import blob_of, snapshot_of
from quantmill.formats.hub import resuming
from quantmill.formats.hub.address import HubAddress
from quantmill.formats.hub.remote_file import RemoteFile
from quantmill.formats.hub.repository import Repository
from quantmill.formats.progress import Event, Note, RowsDone
from quantmill.formats.storage.resumable import try_lock

TINY = HubAddress("org/tiny")
LARGE = os.urandom(300_000)
FILES = {"config.json": b"{}", "model.safetensors": LARGE, "1_Pooling/config.json": b"[]"}


def test_download_and_cache(hub: Hub) -> None:
    hub.add("org/tiny", FILES)
    seen: list[Event] = []
    repository = Repository(TINY, seen.append)
    assert {name: file.size for name, file in repository.files.items()} == {n: len(d) for n, d in FILES.items()}
    folder = repository.download([*FILES])
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert repository.received == sum(map(len, FILES.values()))
    assert sum(event.nbytes for event in seen if isinstance(event, RowsDone)) >= len(LARGE)
    hub.requests.clear()
    assert Repository(TINY).download([*FILES]) == folder
    assert not any("resolve" in path for _, path in hub.requests)  # nothing is fetched twice


def test_a_revision_that_moves_meanwhile(hub: Hub) -> None:
    hub.add("org/tiny", FILES)
    repository = Repository(TINY)
    folder = repository.download(["config.json"])
    hub.add("org/tiny", {**FILES, "model.safetensors": LARGE[::-1]})
    assert repository.download(["model.safetensors"]) == folder
    assert (folder / "model.safetensors").read_bytes() == LARGE
    assert (Repository(TINY).download(["model.safetensors"]) / "model.safetensors").read_bytes() == LARGE[::-1]
    old = Repository(HubAddress("org/tiny", repository.commit))
    assert old.download(["model.safetensors"]) == folder


def test_ranges(hub: Hub) -> None:
    hub.add("org/tiny", FILES)
    file = RemoteFile(Repository(TINY), "model.safetensors", Path("model.safetensors"))
    assert file.size == len(LARGE)
    for start, n in ((0, 8), (8, 1000), (250_000, 50_000), (0, len(LARGE))):
        assert file.read(start, n).tobytes() == LARGE[start : start + n]
    assert hub.sent[next(iter(hub.objects))] == file.transferred


def test_cut_connections_go_on_where_they_were(hub: Hub) -> None:
    hub.add("org/tiny", FILES)
    cuts = [200_000, 60_000]
    hub.cut_after = lambda path: cuts.pop() if cuts and len(path) == 64 else None
    folder = Repository(TINY).download(["model.safetensors"])
    assert (folder / "model.safetensors").read_bytes() == LARGE
    assert not cuts
    assert sum(hub.sent.values()) < len(LARGE) + 10_000  # nothing was sent twice


@pytest.mark.parametrize("status", [500, 503, 429])
def test_passing_answers_are_waited_out(hub: Hub, status: int) -> None:
    hub.add("org/tiny", FILES)
    asked: list[str] = []

    def once(method: str, path: str) -> tuple[int, dict[str, str], bytes] | None:
        asked.append(path)
        return (status, {"Retry-After": "0"}, b"") if asked.count(path) == 1 and "tree" not in path else None

    hub.faults = once
    seen: list[Event] = []
    folder = Repository(TINY, seen.append).download(["model.safetensors"])
    assert (folder / "model.safetensors").read_bytes() == LARGE
    lines = [event.text for event in seen if isinstance(event, Note)]
    assert f"hf://org/tiny: the hub answered {status}: tries again in 0.01 s" in lines


def test_damage_on_the_way_is_found(hub: Hub) -> None:
    hub.add("org/tiny", FILES)
    repository = Repository(TINY)
    right = dict(repository.files)
    damaged = [LARGE[:-1] + b"?"]

    def once(method: str, path: str) -> tuple[int, dict[str, str], bytes] | None:
        return (200, {}, damaged.pop()) if damaged and (method, path[:8]) == ("GET", "storage/") else None

    hub.faults = once
    folder = repository.download(["model.safetensors"])
    assert (folder / "model.safetensors").read_bytes() == LARGE
    assert right == dict(repository.files)


def test_damage_that_stays_is_refused_and_not_kept(hub: Hub) -> None:
    hub.add("org/tiny", FILES)
    hub.faults = lambda method, path: (
        (200, {}, LARGE[:-1] + b"?") if (method, path[:8]) == ("GET", "storage/") else None
    )
    with pytest.raises(FormatError, match=r"hf://org/tiny: model.safetensors is not the file that the hub lists"):
        Repository(TINY).download(["model.safetensors"])
    hub.faults = lambda method, path: None
    folder = Repository(TINY).download(["model.safetensors"])
    assert (folder / "model.safetensors").read_bytes() == LARGE


def test_faults_that_stay_end_in_one_line(hub: Hub) -> None:
    hub.add("org/tiny", FILES)
    hub.faults = lambda method, path: (503, {}, b"")
    with pytest.raises(FormatError, match=r"the hub answered 503 \(run the same command again: what is complete is"):
        Repository(TINY)

    def cut(method: str, path: str) -> None:
        raise ConnectionError

    hub.faults = cut
    with pytest.raises(FormatError, match=r"hf://org/tiny: the hub cannot be reached: .* \(run the same command again"):
        Repository(TINY)


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("org/none", r"no such repository, or a private one \(check the name, or hf auth login, or set HF_TOKEN\)"),
        ("org/tiny@v9", r"hf://org/tiny@v9: no such revision \(see http://127.0.0.1:\d+/org/tiny/tree/main"),
        ("org/private", r"no such repository, or a private one"),
    ],
)
def test_what_is_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch, address: str, line: str) -> None:
    hub.add("org/tiny", FILES)
    hub.add("org/private", FILES, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    repo, _, revision = address.partition("@")
    with pytest.raises(FormatError, match=line):
        Repository(HubAddress(repo, revision or None))


@pytest.mark.parametrize("token", ["hf_good", ""])
def test_gated(hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    hub.add("org/tiny", FILES, gated=True)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(FormatError, match=r"access must be asked for \(ask at http://.*/org/tiny, then hf auth login"):
        Repository(TINY).download(["model.safetensors"])


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/tiny", FILES)
    folder = Repository(TINY).download([*FILES])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    seen: list[Event] = []
    assert Repository(TINY, seen.append).download([*FILES]) == folder
    assert "offline: commit" in str(seen[0])
    with pytest.raises(FormatError, match=r"is not in the cache, and HF_HUB_OFFLINE allows no download"):
        Repository(HubAddress("org/other"))
    assert not hub.requests


def test_a_full_disk(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/tiny", FILES)
    repository = Repository(TINY)

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resuming, "write", full)
    with pytest.raises(FormatError, match=r"cannot be written: No space left on device \(make room, or set HF_HOME"):
        repository.download(["model.safetensors"])


def left_by_a_killed_run(repository: Repository, data: bytes, name: str = "model.safetensors") -> Path:
    """The part of a file that a run left that was killed."""
    snapshot = snapshot_of(Path(constants.HF_HUB_CACHE), repository.address.repo, repository.commit)
    file = repository.files[name]
    part = resuming.part_of(blob_of(snapshot, file.sha256), file.sha256)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)
    return part


def test_a_killed_download_goes_on(hub: Hub) -> None:
    hub.add("org/tiny", FILES)
    repository = Repository(TINY)
    part = left_by_a_killed_run(repository, LARGE[:180_000])
    folder = repository.download(["model.safetensors"])
    assert (folder / "model.safetensors").read_bytes() == LARGE
    assert sum(size for path, size in hub.sent.items() if len(path) == 64) == len(LARGE) - 180_000
    assert not part.exists()
    assert huggingface_hub.try_to_load_from_cache("org/tiny", "model.safetensors") == str(folder / "model.safetensors")
    hub.requests.clear()
    huggingface_hub.hf_hub_download("org/tiny", "model.safetensors")
    assert not any(path.startswith("storage/") for _, path in hub.requests)  # it is huggingface_hub's own, too


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(b"?" * 180_000, id="damaged"),
        pytest.param(LARGE + b"?", id="longer than the file"),
        pytest.param(LARGE, id="killed before the rename"),
        pytest.param(b"", id="killed at the beginning"),
    ],
)
def test_whatever_a_killed_run_left(hub: Hub, left: bytes) -> None:
    hub.add("org/tiny", FILES)
    repository = Repository(TINY)
    left_by_a_killed_run(repository, left)
    folder = repository.download(["model.safetensors"])
    assert (folder / "model.safetensors").read_bytes() == LARGE


def test_a_part_speaks_for_no_other_content(hub: Hub) -> None:
    hub.add("org/tiny", FILES)
    part = left_by_a_killed_run(Repository(TINY), LARGE[:180_000])
    other = LARGE[:180_000][::-1] + LARGE[180_000:]
    hub.add("org/tiny", {**FILES, "model.safetensors": other})
    folder = Repository(TINY).download(["model.safetensors"])
    assert (folder / "model.safetensors").read_bytes() == other
    assert part.exists()  # of the other revision


def test_a_server_without_ranges(hub: Hub) -> None:
    hub.add("org/tiny", FILES)
    repository = Repository(TINY)
    left_by_a_killed_run(repository, LARGE[:180_000])
    hub.faults = lambda method, path: (200, {}, LARGE) if (method, path[:8]) == ("GET", "storage/") else None
    folder = repository.download(["model.safetensors"])
    assert (folder / "model.safetensors").read_bytes() == LARGE


def test_two_processes_at_one_file(hub: Hub) -> None:
    hub.add("org/tiny", FILES)
    repository = Repository(TINY)
    part = left_by_a_killed_run(repository, LARGE[:180_000])
    with part.open("ab") as other:
        assert try_lock(other.fileno())
        folder = repository.download(["model.safetensors"])
        assert (folder / "model.safetensors").read_bytes() == LARGE
        assert [path.name for path in part.parent.glob(".*")] == [part.name]


def test_a_file_beside_the_output_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    repository = Repository(TINY)
    file = repository.files["model.safetensors"]
    resuming.part_of(tmp_path / "model.safetensors", file.sha256).write_bytes(LARGE[:180_000])
    (tmp_path / "model.safetensors").write_bytes(b"?" * 10)  # of another run
    assert repository.download_to(tmp_path, "model.safetensors").read_bytes() == LARGE
    assert [path.name for path in tmp_path.glob("*model*")] == ["model.safetensors"]
    assert sum(size for path, size in hub.sent.items() if len(path) == 64) == len(LARGE) - 180_000
