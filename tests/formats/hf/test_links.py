"""Where a checkpoint's links may lead: one rule, with and without an index, for every kind of file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from quantmill.formats.errors import FormatError, TokenizerError
from quantmill.formats.hf.load import read_hf

REV = "0123456789abcdef0123456789abcdef01234567"
NAMES = ("config.json", "model.safetensors")
Make = Callable[[str], Path]


def shard(folder: Path, *, index: bool) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{i + 1}-of-00002.safetensors" for i in range(2)]
    for i, name in enumerate(names):
        save_file(dict(list(weights.items())[i::2]), folder / name)
    if index:
        content = {"weight_map": {tensor: names[i % 2] for i, tensor in enumerate(weights)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))


@pytest.fixture(params=["one file", "index", "series"])
def plain(checkpoint: Make, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A checkpoint without links."""
    folder = shutil.copytree(checkpoint("gqa"), tmp_path / "plain")
    if request.param != "one file":
        shard(folder, index=request.param == "index")
    return folder


def into_cache(plain: Path, snapshot: Path, blobs: Path, link: Callable[[Path, Path], str | Path]) -> Path:
    """Move every file of a folder into a cache, and link to it as ``link(snapshot, blob)`` says."""
    blobs.mkdir(parents=True, exist_ok=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(plain.iterdir())):
        blob = blobs / f"{number:064x}"
        path.rename(blob)
        (snapshot / path.name).symlink_to(link(snapshot, blob))
    return snapshot


def relative(snapshot: Path, blob: Path) -> str:
    return f"../../blobs/{blob.name}"


def from_below(snapshot: Path, blob: Path) -> str:
    return f"../../../blobs/{blob.name}"


def absolute(snapshot: Path, blob: Path) -> Path:
    return blob


@pytest.mark.parametrize(
    ("inside", "link"), [("", relative), ("sub", from_below), ("", absolute)], ids=["snapshot", "below", "absolute"]
)
def test_a_snapshot_of_the_cache(plain: Path, tmp_path: Path, inside: str, link: Callable[[Path, Path], str]) -> None:
    cache = tmp_path / "models--org--name"
    snapshot = into_cache(plain, cache / "snapshots" / REV / inside, cache / "blobs", link)
    assert read_hf(snapshot).arch == "llama"


def test_blobs_on_another_disk(plain: Path, tmp_path: Path) -> None:
    cache, disk = tmp_path / "models--org--name", tmp_path / "disk" / "store"
    disk.mkdir(parents=True)
    cache.mkdir()
    (cache / "blobs").symlink_to(disk)
    snapshot = into_cache(plain, cache / "snapshots" / REV, cache / "blobs", relative)
    assert read_hf(snapshot).arch == "llama"


def test_a_chain_of_links_through_the_blobs(plain: Path, tmp_path: Path) -> None:
    """A blob that is a link itself, as programs make that store equal files once."""
    cache, disk = tmp_path / "models--org--name", tmp_path / "disk"
    snapshot = into_cache(plain, cache / "snapshots" / REV, cache / "blobs", relative)
    disk.mkdir()
    for blob in sorted((cache / "blobs").iterdir()):
        blob.symlink_to(blob.rename(disk / blob.name))
    assert read_hf(snapshot).arch == "llama"


def test_a_folder_that_is_a_link_into_the_cache(plain: Path, tmp_path: Path) -> None:
    cache = tmp_path / "hub" / "models--org--name"
    (tmp_path / "mine").symlink_to(into_cache(plain, cache / "snapshots" / REV, cache / "blobs", relative))
    assert read_hf(tmp_path / "mine").arch == "llama"


def test_a_local_folder_of_links_into_the_cache(plain: Path, tmp_path: Path) -> None:
    """``huggingface-cli download --local-dir`` made such folders until 2024."""
    cache = tmp_path / "hub" / "models--org--name"
    (cache / "snapshots" / REV).mkdir(parents=True)
    assert read_hf(into_cache(plain, tmp_path / "local", cache / "blobs", absolute)).arch == "llama"


def test_a_git_annex(plain: Path, tmp_path: Path) -> None:
    """The model's folder lies in a repository whose objects it links to."""
    objects = tmp_path / "repository" / ".git" / "annex" / "objects"
    folder = tmp_path / "repository" / "models" / "tiny"
    into_cache(plain, folder, objects, lambda _, blob: f"../../.git/annex/objects/{blob.name}")
    assert read_hf(folder).arch == "llama"
    for blob in objects.iterdir():
        blob.unlink()
    with pytest.raises(FormatError, match=r"'config.json' is a link to .*, which is not there \(git annex get it\)"):
        read_hf(folder)


def test_links_inside_of_the_folder(plain: Path) -> None:
    (plain / "files").mkdir()
    for path in sorted(plain.glob("*.*")):
        (plain / path.name).symlink_to(f"files/{path.rename(plain / 'files' / path.name).name}")
    assert read_hf(plain).arch == "llama"


def test_links_out_of_the_folder_are_refused(plain: Path, tmp_path: Path) -> None:
    """Each file for itself, whichever it is, by a relative path, an absolute one, and a chain."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "chat_template.jinja").write_text("{{ messages }}")
    (plain / "chat_template.jinja").write_text("{{ messages }}")
    for path in sorted(plain.glob("*.*")):
        kept = path.read_bytes()
        (outside / path.name).write_bytes(kept)
        (plain / "hop").unlink(missing_ok=True)
        (plain / "hop").symlink_to(outside)
        for target in (f"../outside/{path.name}", outside / path.name, f"hop/{path.name}"):
            path.unlink()
            path.symlink_to(target)
            with pytest.raises(FormatError) as error:
                read_hf(plain)
            assert str(error.value) == (
                f"{plain}: {path.name!r} is a link to {outside / path.name}, outside the folder "
                "(if you trust it, copy the file into the folder, or convert it with --follow-links)"
            )
            assert read_hf(plain, follow_links=True).arch == "llama"
        path.unlink()
        path.write_bytes(kept)
    assert read_hf(plain).arch == "llama"


@pytest.mark.parametrize("name", ["tokenizer.model", "tiktoken.model", "qwen.tiktoken", "tekken.json", "merges.txt"])
def test_a_tokenizer_outside_is_refused(name: str, checkpoint: Make, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("gqa"), tmp_path / "plain")
    (tmp_path / name).write_text("")
    (folder / name).symlink_to(f"../{name}")
    with pytest.raises(FormatError, match="outside the folder"):
        read_hf(folder)


def test_a_cache_inside_of_the_folder_is_no_way_out(plain: Path, tmp_path: Path) -> None:
    """What a stranger's archive can hold: a folder that looks like a cache, with blobs that are a link to anywhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (plain / "config.json").rename(outside / "secret")
    (plain / "models--x" / "snapshots").mkdir(parents=True)
    (plain / "models--x" / "blobs").symlink_to(outside)
    (plain / "config.json").symlink_to("models--x/blobs/secret")
    with pytest.raises(FormatError, match="outside the folder"):
        read_hf(plain)


def test_a_circle_of_links(plain: Path) -> None:
    (plain / "README.md").symlink_to("README.md")
    with pytest.raises(FormatError, match=r"'README.md' is a link to"):
        read_hf(plain)


def test_a_link_to_nothing(plain: Path) -> None:
    """A tokenizer that was removed from the cache must not become a model without one."""
    (plain / "tokenizer.json").symlink_to("blob")
    with pytest.raises(FormatError) as error:
        read_hf(plain)
    expected = "'tokenizer.json' is a link to blob, which is not there (download it again)"
    assert str(error.value) == f"{plain}: {expected}"
    with pytest.raises(FormatError, match="which is not there"):
        read_hf(plain, follow_links=True)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 12345\n"
POINTERS = [
    (LFS, "is a Git LFS pointer, not the file of 12345 bytes (git lfs pull, or download the file itself)"),
    (LFS.replace(b"\n", b"\r\n"), "is a Git LFS pointer, not the file of 12345 bytes (git lfs pull, or download "),
    (b"/annex/objects/SHA256E-s9--12.bin\n", "is a git-annex pointer, not the file (git annex get it)"),
    (b"../../blobs/abcd", "is the text of a link to ../../blobs/abcd, not the file (copy or download the file itself)"),
    (b"..\\..\\blobs\\abcd", "is the text of a link to ..\\..\\blobs\\abcd, not the file (copy or download "),
]  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), POINTERS)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json", "tokenizer.json"])
def test_pointers_are_called_what_they_are(
    checkpoint: Make, tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    folder = shutil.copytree(checkpoint("gqa"), tmp_path / "model")
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(FormatError) as error:
        read_hf(folder)
    assert str(error.value).startswith(f"{folder / name}: {expected}")
    assert isinstance(error.value, TokenizerError) == name.startswith("tokenizer")
