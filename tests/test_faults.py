"""Faults of disks and of other people: one clear line, nothing lost, and once it is over the same bytes.

In the middle of each long command a source is cut short, overwritten, replaced or deleted, a permission is revoked or
the disk fills up; or the disk was full or read-only to begin with.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from oracles.faults import KEPT, Done, digest, run, small_disk, without_override
from oracles.ggml_v3 import save_gqa_llama
from oracles.tiny import TEXT, save_tiny_llama

CALIBRATION = ["-c", "64", "--chunks", "3", "--save-every", "1"]
# command line, and what it makes in the output folder; FILE and OUT stand for files
COMMANDS = {
    "quantize": (["quantize", "SRC/f16.gguf", "OUT/o.gguf", "Q4_K_M", "--threads", "1"], "o.gguf"),
    "quantize to ggml": (["quantize", "SRC/gqa.gguf", "OUT/o.bin", "Q4_0", "--to", "ggml", "--threads", "1"], "o.bin"),
    "convert": (["convert", "SRC/hf", "OUT/o.gguf", "--outtype", "f16", "--threads", "1"], "o.gguf"),
    "convert in one pass": (["convert", "SRC/hf", "OUT/o.gguf", "--outtype", "Q4_K_M", "--threads", "2"], "o.gguf"),
    "convert a pickle": (["convert", "SRC/bin", "OUT/o.gguf", "--outtype", "Q8_0", "--threads", "1"], "o.gguf"),
    "convert to a folder": (["convert", "SRC/f16.gguf", "OUT/o"], "o"),
    "convert to another version": (["convert", "SRC/f16.gguf", "OUT/o.gguf", "--gguf-version", "3"], "o.gguf"),
    "split": (["split", "SRC/f16.gguf", "OUT/o", "--max-tensors", "8"], "o"),
    "merge": (["merge", "SRC/part-00001-of-00005.gguf", "OUT/o.gguf"], "o.gguf"),
    "imatrix": (["imatrix", "-m", "SRC/hf", "-f", "SRC/t.txt", "-o", "OUT/o.gguf", *CALIBRATION], "o.gguf"),
    "gptq": (["gptq", "SRC/small", "OUT/o", "-f", "SRC/t.txt", "--group-size", "32", *CALIBRATION], "o"),
    "awq": (["awq", "SRC/small", "OUT/o", "-f", "SRC/t.txt", "--group-size", "32", *CALIBRATION], "o"),
    "release": (["release", "SRC/hf", "OUT/o", "--levels", "Q4_K_M,Q8_0", "--imatrix", "none"], "o"),
}  # fmt: skip
QUICK = ("quantize", "convert to a folder", "imatrix")
# what keeps a record that a later run takes up; a walk through the layers must have come to the second
RESUMES = set(COMMANDS) - {"release", "imatrix", "gptq", "awq"}

every = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tiny Llama in every form that a command reads."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_llama(folder / "hf", layers=4, hidden=256)
    save_tiny_llama(folder / "small", layers=3)
    shutil.copytree(folder / "hf", folder / "bin")
    torch.save(load_file(folder / "bin" / "model.safetensors"), folder / "bin" / "pytorch_model.bin")
    (folder / "bin" / "model.safetensors").unlink()
    (folder / "t.txt").write_text(TEXT * 6)
    save_gqa_llama(folder / "gqa")
    for words in (
        ["convert", f"{folder}/gqa", f"{folder}/gqa.gguf", "--outtype", "f16"],
        ["convert", f"{folder}/hf", f"{folder}/f16.gguf", "--outtype", "f16"],
        ["split", f"{folder}/f16.gguf", f"{folder}/part", "--max-tensors", "8"],
    ):
        assert run(words, folder).code == 0
    return folder


class Place:
    """A command with its sources and its output folder, and what it makes when nothing happens."""

    def __init__(self, name: str, models: Path, folder: Path) -> None:
        self.sources, self.folder = folder / "src", folder / "out"
        shutil.copytree(models, self.sources, copy_function=shutil.copy2)
        self.folder.mkdir(exist_ok=True)
        words, made = COMMANDS[name]
        self.words = [word.replace("SRC", str(self.sources)).replace("OUT", str(self.folder)) for word in words]
        self.made = self.folder / made
        whole = self.run()
        assert whole.code == 0, whole.err
        self.reads, self.expected = whole.reads, digest(self.made)
        assert self.expected
        assert self.reads > 8
        self.forget()

    def run(self, fault: Callable[[Path], None] | None = None) -> Done:
        return run(self.words, self.sources, None if fault is None else (self.reads * 2 // 3, fault))

    def forget(self) -> None:
        for path in self.folder.iterdir():
            if path.name != "filler":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def fails(self, done: Done, problem: str, remedy: bool = True) -> None:
        """It ended with one line that speaks of ``problem``, and nothing has the output's name."""
        assert done.code == 2, done
        lines = [line for line in done.err.splitlines() if line.startswith(f"{self.words[0]}: ")]
        assert len(lines) == 1, done.err
        assert problem in lines[0], done.err
        assert lines[0].endswith(")") or not remedy, done.err
        assert "Traceback" not in done.err
        assert self.words[0] == "release" or not digest(self.made)

    def goes_on(self, resumes: bool) -> None:
        """The same command ends in the same bytes, and leaves nothing else."""
        again = self.run()
        assert again.code == 0, again.err
        assert digest(self.made) == self.expected
        assert any(word in again.err for word in KEPT) or not resumes, again.err
        left = [path.name for path in self.folder.iterdir() if path.name.startswith(".") or "state" in path.name]
        assert left == []


@pytest.fixture
def place(name: str, models: Path, tmp_path: Path) -> Place:
    return Place(name, models, tmp_path)


@every
def test_a_source_that_shrinks(place: Place, name: str) -> None:
    """Also: one that is overwritten with as many bytes."""
    for damage, problem in ((_cut, "became shorter"), (_overwrite, "was changed while it was read")):
        undo: list[Callable[[], None]] = []
        done = place.run(lambda path, damage=damage, undo=undo: undo.append(damage(path)))  # type: ignore[misc]
        place.fails(done, problem)
        undo[0]()
        place.goes_on(resumes=name in RESUMES)
        place.forget()


def _cut(path: Path) -> Callable[[], None]:
    return _with(path, lambda: os.truncate(path, path.stat().st_size // 2))


def _overwrite(path: Path) -> Callable[[], None]:
    return _with(path, lambda: path.write_bytes(os.urandom(path.stat().st_size)) and None)


def _with(path: Path, change: Callable[[], None]) -> Callable[[], None]:
    time.sleep(0.1)  # what was done reaches the journal
    content, about = path.read_bytes(), path.stat()
    change()

    def undo() -> None:
        path.write_bytes(content)
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))

    return undo


@pytest.mark.parametrize("fault", ["deleted", "replaced", "unreadable"])
@every
def test_a_source_that_goes_away(place: Place, fault: str) -> None:
    """What was opened is read to its end; a file that is opened again says what is wrong."""
    touched: list[Path] = []

    def go(path: Path) -> None:
        touched.append(path)
        if fault == "unreadable":
            path.chmod(0)
            return
        path.rename(path.with_name("aside"))
        if fault == "replaced":
            path.write_bytes(os.urandom(1 << 16))

    with without_override():
        done = place.run(go)
    if fault == "unreadable":
        touched[0].chmod(0o600)
    else:
        os.replace(touched[0].with_name("aside"), touched[0])
    if done.code:
        place.fails(done, str(place.sources), remedy=fault != "replaced")  # what is in its place may be anything
    else:
        assert digest(place.made) == place.expected
        place.forget()
    place.goes_on(resumes=False)


@every
def test_a_permission_that_is_revoked(place: Place, name: str) -> None:
    def revoke(path: Path) -> None:
        time.sleep(0.1)
        for folder in (place.folder, place.made) if place.made.is_dir() else (place.folder,):
            folder.chmod(0o500)

    with without_override():
        done = place.run(revoke)
        place.fails(done, "Permission denied")
        for folder in (place.folder, place.made) if place.made.is_dir() else (place.folder,):
            folder.chmod(0o700)
        place.goes_on(resumes=name in RESUMES)


@every
def test_a_disk_that_is_full_or_read_only(name: str, models: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "out", 64 << 20) as disk:
        place = Place(name, models, tmp_path)
        for wrong, right, problem in (("lock", "unlock", "cannot be written: "), ("fill", "free", "")):
            disk(wrong)
            place.fails(place.run(), problem)
            disk(right)
            assert [path.name for path in place.folder.iterdir() if path.is_file()] == []
            place.goes_on(resumes=False)
            place.forget()

        done = place.run(lambda path: disk("fill") and None)
        if done.code:  # it had not reserved its room
            place.fails(done, "")
            disk("free")
        else:
            disk("free")
            assert digest(place.made) == place.expected
            place.forget()
        place.goes_on(resumes=False)
