"""``release --dry-run``: the names and sizes that the release then has, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from formats.hub.conftest import use

from oracles.card_samples import save_with_card
from oracles.hub import Hub, running_hub
from oracles.tower_proofs import all_tower_proofs, save_tower_proof
from quantmill import Event, Note, ReleaseOptions, plan_release, release
from quantmill.formats.storage.output import human_bytes

from .conftest import Done, snapshot


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_with_card(tmp_path_factory.mktemp("models") / "Tiny-Llama")


def test_what_is_planned_is_made(tiny: Path, text: Path, tmp_path: Path) -> None:
    """To the byte, shards and the keys of importance that is still to be collected included."""
    options = ReleaseOptions(
        levels=["Q4_K_M", "Q8_0"], text=text, n_ctx=64, chunks=4, original=True, split_max_size=900_000,
    )  # fmt: skip
    found = plan_release(tiny, tmp_path / "set", options)
    assert not (tmp_path / "set").exists()
    made = release(tiny, tmp_path / "set", options)
    planned = {file.name: file for file in found.files}
    assert set(planned) == set(made.manifest.files)
    for name, facts in made.manifest.files.items():
        assert facts.member.name == planned[name].member
        assert facts.nbytes == planned[name].nbytes
    assert set(found.beside) | set(planned) == {path.name for path in made.folder.iterdir()}
    whole = sum(path.stat().st_size for path in made.folder.glob("*.gguf"))
    assert 0.95 * whole < found.disk < 1.15 * whole
    assert (found.calibration, found.evaluation, found.repository) == (str(text), None, None)


def test_without_importance_and_with_a_matrix(tiny: Path, text: Path, tmp_path: Path) -> None:
    with_matrix = ReleaseOptions(levels=["Q2_K"], text=text, n_ctx=64, chunks=2)
    made = release(tiny, tmp_path / "set", with_matrix)
    for imatrix in (None, made.folder / "Tiny-Llama.imatrix.gguf"):
        options = ReleaseOptions(levels=["Q2_K"], imatrix=imatrix)
        (file,) = plan_release(tiny, tmp_path / "other", options).files
        again = release(tiny, tmp_path / f"made-{imatrix is None}", options)
        assert again.manifest.files[file.name].nbytes == file.nbytes


def test_on_the_command_line(tiny: Path, text: Path, tmp_path: Path, cli: Callable[..., Done]) -> None:
    words = ("release", tiny, tmp_path / "set", "--levels", "Q4_K_M,Q8_0", "-f", text, "--evaluate", "--dry-run")
    done = cli(*words, "--target-size", "700kB")
    assert (done.code, done.err.count("Traceback")) == (0, 0)
    found = plan_release(tiny, tmp_path / "set", ReleaseOptions(levels=["Q4_K_M", "Q8_0"], text=text, evaluate=True))
    lines = done.out.splitlines()
    assert lines[0].split() == ["file", "model", "bits", "size"]
    for line, file in zip(lines[1:3], found.files, strict=True):
        assert line.split()[:3] == [file.name, file.member, f"{file.bpw:.2f}"]
        assert line.endswith(human_bytes(file.nbytes))
    assert lines[3].endswith("at most 700.0 kB")
    assert f"importance would be collected from {text}" in lines
    assert any(line.startswith("files would be measured on ") for line in lines)
    assert f"{tmp_path / 'set'}: 3 files, " in lines[-1]
    told = json.loads(cli(*words, "--json").out)
    assert [(file["name"], file["nbytes"]) for file in told["files"]] == [(f.name, f.nbytes) for f in found.files]
    assert (told["calibration"], told["nbytes"]) == (str(text), found.nbytes)
    assert not (tmp_path / "set").exists()


def test_what_a_release_refuses_is_refused(tiny: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    release(tiny, tmp_path / "done", ReleaseOptions(levels=["Q8_0"], imatrix=None))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "novel.txt").write_text("precious")
    words = ("--imatrix", "none", "--dry-run")
    for folder, more, problem in (
        ("done", (), "holds a finished release (--restart makes it anew)"),
        ("taken", (), "exists and is not an empty folder"),
        ("taken", ("--restart",), "exists and is not an empty folder"),
        ("new", ("--levels", "Q9_K"), "Q9_K"),
        ("new", ("--levels", "IQ2_XXS"), "IQ2_XXS"),
        ("new", ("--license", "GPL v3"), "no identifier of the hub's"),
        ("new", ("--split-max-size", "2kB"), "too little for the header"),
        ("new", ("--push", "nowhere"), "is no repository's name"),
    ):
        assert problem in refused("release", tiny, tmp_path / folder, *words, *more)
    found = plan_release(tiny, tmp_path / "done", ReleaseOptions(levels=["Q8_0"], imatrix=None), restart=True)
    assert [file.name for file in found.files] == ["Tiny-Llama.Q8_0.gguf"]


def test_a_disk_that_is_too_small(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    events: list[Event] = []
    found = plan_release(tiny, tmp_path / "set", ReleaseOptions(levels=["Q8_0"], imatrix=None), progress=events.append)
    assert found.free == 1
    (line,) = [event.text for event in events if isinstance(event, Note) and "are needed" in event.text]
    assert line.endswith("are needed, 1 bytes are free")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as running:
        use(running, tmp_path / "cache", monkeypatch)
        yield running


def test_from_and_to_the_hub(tiny: Path, hub: Hub, tmp_path: Path, cli: Callable[..., Done]) -> None:
    """The files that a release of the downloaded model has; no weight is read, and no repository is made."""
    hub.add("org/Tiny-Llama", {path.name: path.read_bytes() for path in tiny.iterdir()})
    hub.add("someone/there", {"README.md": b"# There"})
    options = ReleaseOptions(levels=["Q4_K_M", "Q8_0"], imatrix=None)
    there = plan_release("org/Tiny-Llama", tmp_path / "set", options, push="someone/new")
    assert (there.repository, there.makes_repository) == ("someone/new", True)
    weights = (tiny / "model.safetensors").stat().st_size
    assert sum(hub.sent.values()) < weights / 2
    made = release("org/Tiny-Llama", tmp_path / "made", options)
    sizes = {name: facts.nbytes for name, facts in made.manifest.files.items()}
    assert {file.name: file.nbytes for file in there.files} == sizes
    before = snapshot(tmp_path / "set")
    words = ("release", tiny, tmp_path / "set", "--imatrix", "none", "--levels", "Q8_0", "--dry-run", "--push")
    assert "uploaded to someone/there, which exists" in cli(*words, "someone/there").out
    assert "uploaded to someone/new, which would be made, public" in cli(*words, "someone/new", "--public").out
    assert (set(hub.repos), snapshot(tmp_path / "set")) == ({"org/Tiny-Llama", "someone/there"}, before)


def test_of_a_model_that_sees(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-sees"
    save_tower_proof(next(proof for proof in all_tower_proofs() if proof.id == "gemma3"), folder)
    options = ReleaseOptions(levels=["Q8_0"], imatrix=None)
    found = plan_release(folder, tmp_path / "set", options)
    made = release(folder, tmp_path / "set", options)
    assert {file.name: file.nbytes for file in found.files} == {
        name: facts.nbytes for name, facts in made.manifest.files.items()
    }
    assert any(file.name.startswith("mmproj-") for file in found.files)
