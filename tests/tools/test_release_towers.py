"""A published set of a model that sees: its mmproj files, and how the card says to run them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from oracles.tower_proofs import all_tower_proofs, save_tower_proof
from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.progress import Event, Note
from quantmill.tools.api.releasing.card import Facts, File, model_card
from quantmill.tools.api.releasing.front_matter import FrontMatter
from quantmill.tools.api.releasing.manifest import read_manifest
from quantmill.tools.api.releasing.options import ReleaseOptions
from quantmill.tools.api.releasing.release import Release, release
from quantmill.tools.api.releasing.reproduce import reproduce
from quantmill.tools.api.releasing.towers import task

OPTIONS = ReleaseOptions(levels=["Q8_0", "Q4_K_M"], imatrix=None)
NAMES = ["mmproj-Tiny-VL-F16.gguf", "mmproj-Tiny-VL-Q8_0.gguf"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "Tiny-VL"
    save_tower_proof(next(proof for proof in all_tower_proofs() if proof.id == "gemma3"), folder)
    return folder


@pytest.fixture(scope="module")
def released(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    return release(model, tmp_path_factory.mktemp("release") / "set", OPTIONS)


def test_what_is_there(released: Release) -> None:
    assert [path.name for path in released.files] == ["Tiny-VL.Q4_K_M.gguf", "Tiny-VL.Q8_0.gguf", *NAMES]
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=released.folder, check=True)
    assert all(name in (released.folder / "SHA256SUMS").read_text() for name in NAMES)
    for name, level in zip(NAMES, ("F16", "Q8_0"), strict=True):
        made = read_gguf(released.folder / name)
        assert made.get("clip.projector_type") == "gemma3"
        assert {t.name: t.qtype.name for t in made}["v.blk.0.attn_q.weight"] == level
    manifest = json.loads((released.folder / "manifest.json").read_text())
    assert [manifest["files"][name]["mmproj"] for name in NAMES] == [True, True]
    assert "mmproj" not in manifest["files"]["Tiny-VL.Q8_0.gguf"]
    assert read_manifest(released.folder / "manifest.json") == released.manifest


def test_the_card_says_how_to_show_it_an_image(released: Release) -> None:
    card = (released.folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-text-to-text"
    assert re.findall(r"^\| \[(mmproj[^]]+)\]", card, re.M) == NAMES
    command = next(line for line in card.splitlines() if line.startswith("llama-mtmd-cli"))
    words = shlex.split(command)
    assert words[1:5] == ["-m", "Tiny-VL.Q4_K_M.gguf", "--mmproj", NAMES[0]]
    assert words[5] == "--image"
    assert f"llama-server -m Tiny-VL.Q4_K_M.gguf --mmproj {NAMES[0]} --port 8080" in card
    assert "--audio" not in card


def test_the_card_of_a_model_that_hears() -> None:
    one = File("x.gguf", "Q8_0", 10, 8.5, ("Q8_0",))
    card = model_card(Facts("x", FrontMatter("a/x", {}, task(False, True)), [one], [], mmproj=[one], hears=True))
    assert "pipeline_tag: audio-text-to-text" in card
    assert "## Sound" in card
    assert "--audio speech.wav" in card
    assert "--image" not in card


def test_the_same_bytes_come_again(released: Release, model: Path) -> None:
    found = reproduce(released.folder / "manifest.json", model)
    assert found.same == dict.fromkeys(("Tiny-VL.Q4_K_M.gguf", "Tiny-VL.Q8_0.gguf", *NAMES), True)


def test_a_release_that_is_made_anew(released: Release, model: Path) -> None:
    assert release(model, released.folder, OPTIONS, restart=True).manifest == released.manifest


def test_a_tower_that_is_not_known(model: Path, tmp_path: Path) -> None:
    """The text is released, and a line says what is not."""
    folder = tmp_path / "Tiny-VL"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["model_type"] = "clip_vision_model"
    (folder / "config.json").write_text(json.dumps(config))
    events: list[Event] = []
    made = release(folder, tmp_path / "set", OPTIONS, progress=events.append)
    assert [path.name for path in made.files] == ["Tiny-VL.Q4_K_M.gguf", "Tiny-VL.Q8_0.gguf"]
    said = [event.text for event in events if isinstance(event, Note)]
    assert any(line.startswith("no mmproj file: ") and "clip_vision_model" in line for line in said)


def test_without_its_processor_nothing_is_begun(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Tiny-VL"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("preprocessor_config.json"))
    with pytest.raises(FormatError, match="no image_mean"):
        release(folder, tmp_path / "set", OPTIONS)
    assert not (tmp_path / "set").exists()
