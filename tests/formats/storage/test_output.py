from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from quantmill.formats.errors import OutputError
from quantmill.formats.storage.folder import resumable_folder
from quantmill.formats.storage.output import atomic_output, atomic_outputs, human_bytes


def test_a_file_appears_whole_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    with atomic_output(path, 10) as out:
        out.write_at(4, b"abc")
        assert not path.exists()
        assert [f.stat().st_size for f in tmp_path.iterdir()] == [10]
    assert path.read_bytes() == b"\0\0\0\0abc\0\0\0"
    assert os.listdir(tmp_path) == ["out.bin"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_appending(tmp_path: Path) -> None:
    with atomic_output(tmp_path / "o") as out:
        out.write(b"ab")
        out.write(b"")
        out.write(memoryview(b"cd"))
    assert (tmp_path / "o").read_bytes() == b"abcd"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [True, False])
def test_nothing_is_left_when_it_fails(tmp_path: Path, kind: type[BaseException], existing: bool) -> None:
    path = tmp_path / "out.bin"
    if existing:
        path.write_bytes(b"old")

    def fails() -> None:
        with atomic_output(path, 100, force=True) as out:
            out.write_at(0, b"new")
            raise kind

    with pytest.raises(kind):
        fails()
    assert os.listdir(tmp_path) == (["out.bin"] if existing else [])
    assert not existing or path.read_bytes() == b"old"


def test_threads_write_at_their_places(tmp_path: Path) -> None:
    with atomic_output(tmp_path / "o", 64_000) as out:
        threads = [threading.Thread(target=out.write_at, args=(i * 1000, bytes([i]) * 1000)) for i in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (tmp_path / "o").read_bytes() == b"".join(bytes([i]) * 1000 for i in range(64))


def test_short_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:3], at))
    with atomic_output(tmp_path / "o") as out:
        out.write_at(0, b"0123456789")
    assert (tmp_path / "o").read_bytes() == b"0123456789"


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(path)
    cases: list[tuple[Path, dict[str, object], str]] = [
        (path, {}, r"exists \(--force"),
        (path, {"force": True, "inputs": [link]}, "the output is the input"),
        (tmp_path, {"force": True}, "is a folder"),
        (tmp_path / "none" / "x", {}, "there is no folder"),
        (Path("/dev/null"), {"force": True}, "not a regular file"),
    ]
    for target, options, problem in cases:
        with pytest.raises(OutputError, match=problem), atomic_output(target, **options):  # type: ignore[arg-type]
            raise AssertionError("never entered")
    assert path.read_bytes() == b"old"


def test_a_file_that_came_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "o"

    def overtaken() -> None:
        with atomic_output(path) as out:
            out.write(b"ours")
            path.write_bytes(b"theirs")

    with pytest.raises(OutputError, match="exists"):
        overtaken()
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["o"]


def test_force_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_output(tmp_path / "link", force=True) as out:
        out.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_full_disk_is_found_before_any_work(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"not enough room: needs 1152921\.5 TB, the disk has "),
        atomic_output(tmp_path / "o", 1 << 60),
    ):
        raise AssertionError("never entered")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
def test_a_disk_that_fills_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OutputError, match="not enough room"), atomic_output(tmp_path / "o", 10) as out:
        out.write_at(0, b"x")
    assert os.listdir(tmp_path) == []


def test_a_file_system_that_cannot_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "posix_fallocate", refuses)
    with atomic_output(tmp_path / "o", 10) as out:
        out.write_at(9, b"x")
    assert (tmp_path / "o").read_bytes() == bytes(9) + b"x"


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()  # an empty one may stand there
    with resumable_folder(target) as folder:
        (folder.path / "config.json").write_text("{}")
        assert not any(target.iterdir())
    assert os.listdir(target) == ["config.json"]
    assert os.listdir(tmp_path) == ["out"]
    with resumable_folder(target, force=True) as folder:
        (folder.path / "other").write_text("x")
    assert os.listdir(target) == ["other"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_fails_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "config.json").write_text("old")

    def interrupted() -> None:
        with resumable_folder(target, force=True) as folder:
            (folder.path / "config.json").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    real = os.rename

    def second_fails(a: Path, b: Path) -> None:
        if b == target and "config.json" in os.listdir(a) and (a / "config.json").read_text() == "new":
            raise OSError(errno.EIO, "no")
        real(a, b)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OutputError, match="no"), resumable_folder(target, force=True) as folder:
        (folder.path / "config.json").write_text("new")
    assert (target / "config.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def fill(target: Path, broken: bool = False) -> None:
    """Two files of a byte each, in a resumable folder; ``broken``: it is left after the first."""
    with resumable_folder(target, "two bytes") as folder:
        for item, output in enumerate([folder.create(name, 1) for name in ("config.json", "b")]):
            if (item, 0, 1) not in folder.finished:
                output.write_at(0, b"%d" % item)
                folder.done(item, 0, 1)
            if broken:
                raise KeyboardInterrupt


@pytest.mark.parametrize("removed", [("config.json", "b"), ("config.json",), ("b",)])
def test_a_journal_speaks_only_of_files_that_are_there(tmp_path: Path, removed: tuple[str, ...]) -> None:
    """All of them are gone where a run was killed after its last rename, and what it made was removed."""
    target, part = tmp_path / "out", tmp_path / ".out.part"
    with pytest.raises(KeyboardInterrupt):
        fill(target, broken=True)
    assert sorted(os.listdir(tmp_path)) == [".out.journal", ".out.part"]
    for name in removed:
        (part / name).unlink()
    if any(part.iterdir()):
        with pytest.raises(OutputError, match=r"was changed or removed \(--restart begins anew"):
            fill(target)
        with resumable_folder(target, "two bytes", restart=True):
            pass
    else:
        fill(target)
        assert [(target / name).read_bytes() for name in ("config.json", "b")] == [b"0", b"1"]
    assert os.listdir(tmp_path) == ["out"]


def test_folder_refusals(tmp_path: Path) -> None:
    checkpoint, home, file = tmp_path / "checkpoint", tmp_path / "home", tmp_path / "file"
    for folder, name in ((checkpoint, "config.json"), (home, "thesis.tex")):
        folder.mkdir()
        (folder / name).write_text("precious")
    file.write_text("x")
    cases: list[tuple[Path, dict[str, object], str]] = [
        (checkpoint, {}, r"exists and is not empty \(--force"),
        (checkpoint, {"force": True, "inputs": [checkpoint / "model.gguf"]}, "holds the input"),
        (home, {"force": True}, "holds no config.json"),
        (file, {"force": True}, "is a file"),
        (tmp_path / "a" / "b", {}, "there is no folder"),
    ]
    for target, options, problem in cases:
        with pytest.raises(OutputError, match=problem), resumable_folder(target, **options):  # type: ignore[arg-type]
            raise AssertionError("never entered")
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "file", "home"]


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (3_400_000_000, "3.4 GB"), (10**16, "10000.0 TB")],
)
def test_sizes(n: int, text: str) -> None:
    assert human_bytes(n) == text


def write_set(folder: Path, names: str, force: bool = False, sizes: int | None = 3) -> None:
    with atomic_outputs([(folder / name, sizes) for name in names], force) as outputs:
        for output in outputs:
            output.write_at(0, b"new")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_set_appears_together(tmp_path: Path) -> None:
    with atomic_outputs([(tmp_path / "a", 2), (tmp_path / "b", None)]) as (a, b):
        a.write_at(1, b"x")
        b.write(b"yy")
        assert not (tmp_path / "a").exists()
    assert contents(tmp_path) == {"a": b"\0x", "b": b"yy"}


def test_a_set_meets_one_that_exists(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"old")
    with pytest.raises(OutputError, match="b: exists"):
        write_set(tmp_path, "abc")
    assert contents(tmp_path) == {"b": b"old"}
    write_set(tmp_path, "abc", force=True)
    assert contents(tmp_path) == dict.fromkeys("abc", b"new")


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("broken", [1, 2, 3])
def test_a_rename_that_fails_undoes_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int, links: bool
) -> None:
    """As when the disk goes away between two of them: the old set is there, whole."""
    (tmp_path / "b").write_bytes(b"old")
    replace, done = os.replace, []

    def failing(source: Path, target: Path) -> None:
        done.append(target)
        if len(done) == broken:
            raise OSError(errno.EIO, "gone")
        replace(source, target)

    def no_link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "replace", failing)
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(OSError, match="gone"):
        write_set(tmp_path, "abc", force=True)
    assert done[0].name == "c"  # the first file, which readers begin with, is the last to be renamed
    assert contents(tmp_path) == {"b": b"old"}


def test_a_set_needs_room_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantmill.formats.storage import output

    monkeypatch.setattr(output, "_free_bytes", lambda folder: 8)
    with pytest.raises(OutputError, match="needs 9 bytes, the disk has 8"):
        write_set(tmp_path, "abc")
    assert contents(tmp_path) == {}
