"""Checkpoints of a release for transformers and vLLM: folders beside it, made again byte for byte."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from oracles.kills import digest, survive
from quantmill import CheckpointOptions, Note, RunOptions, compress, gptq, plan_release
from quantmill.formats.errors import FormatError, OutputError, PlanError, QuantmillError
from quantmill.quantize.gptq.settings import GPTQSettings
from quantmill.tools.api.convert import convert
from quantmill.tools.api.releasing.manifest import read_manifest
from quantmill.tools.api.releasing.options import ReleaseOptions
from quantmill.tools.api.releasing.release import Release, release
from quantmill.tools.api.releasing.reproduce import reproduce

NAMES = {"AWQ": "Tiny-AWQ", "FP8-dynamic": "Tiny-FP8-dynamic", "GPTQ-Int4": "Tiny-GPTQ-Int4"}


def asked(text: Path | None, **more: Any) -> ReleaseOptions:
    return ReleaseOptions(**{"levels": ["Q8_0"], "text": text, "n_ctx": 64, "chunks": 4, **more})


@pytest.fixture(scope="module")
def released(tiny: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    options = asked(text, gptq=[4], awq=True, compress=["FP8"], evaluate=True, evaluation_text=text)
    return release(tiny, tmp_path_factory.mktemp("release") / "Tiny-GGUF", options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}


def test_folders_beside_the_release(released: Release, tiny: Path, text: Path, tmp_path: Path) -> None:
    """They are what the commands of their own make of the same text."""
    parent = released.folder.parent
    assert {path.name for path in parent.iterdir()} == {"Tiny-GGUF", *NAMES.values()}
    facts = released.manifest.checkpoints
    assert {name: one.folder for name, one in facts.items()} == NAMES
    for name, one in facts.items():
        sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (parent / NAMES[name]).iterdir()}
        assert {file: about.sha256 for file, about in one.files.items()} == {
            file: sum for file, sum in sums.items() if file != "README.md"
        }
    assert read_manifest(released.folder / "manifest.json") == released.manifest
    settings, run = GPTQSettings(4, facts["GPTQ-Int4"].checkpoint.group_size or 0), RunOptions(n_ctx=64, chunks=4)
    gptq(tiny, tmp_path / "gptq", settings=settings, text=text, run=run, checkpoint=CheckpointOptions())
    assert contents(tmp_path / "gptq") == contents(parent / "Tiny-GPTQ-Int4")
    compress(tiny, tmp_path / "fp8", scheme="fp8")
    assert contents(tmp_path / "fp8") == contents(parent / "Tiny-FP8-dynamic")


def test_cards(released: Release) -> None:
    card = (released.folder / "README.md").read_text()
    table = card[card.index("## Measured") :]
    for name, folder in NAMES.items():
        assert f"- `{folder}`: {name}, " in card
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {folder} | {name} |")]
        assert float(row.split("|")[6].split()[0]) > 0  # KLD
        own = (released.folder.with_name(folder) / "README.md").read_text()
        head = yaml.safe_load(own.split("---")[1])
        assert head["base_model_relation"] == "quantized"
        assert head["library_name"] == "transformers"
        assert "gguf" not in head["tags"]
        assert f"vllm serve {folder}" in own
        assert "mean KLD" in own
    assert "Calibrated on: `text.txt`" in (released.folder.with_name("Tiny-AWQ") / "README.md").read_text()


def test_reproduce(released: Release, tiny: Path, text: Path, tmp_path: Path) -> None:
    manifest = released.folder / "manifest.json"
    found = reproduce(manifest, tiny, text=text, work_folder=tmp_path)
    assert found.ok
    assert {name.split("/")[0] for name in found.same if "/" in name} == set(NAMES.values())
    one = reproduce(manifest, tiny, levels=["fp8-dynamic"], work_folder=tmp_path)  # which needs no text
    assert one.ok
    assert all(name.startswith("Tiny-FP8-dynamic/") for name in one.same)
    content = json.loads(manifest.read_text())
    content["checkpoints"]["GPTQ-Int4"]["bits"] = 8
    changed = shutil.copytree(released.folder, tmp_path / "changed") / "manifest.json"
    changed.write_text(json.dumps(content))
    other = reproduce(changed, tiny, text=text, levels=["GPTQ-Int4"], work_folder=tmp_path)
    assert other.same["Tiny-GPTQ-Int4/model.safetensors"] is False
    assert other.same["Tiny-GPTQ-Int4/tokenizer.json"] is True
    with pytest.raises(FormatError, match=r"text.txt: the text of the release is missing \(name it with --file\)"):
        reproduce(manifest, tiny, levels=["AWQ"], work_folder=tmp_path)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"compress": ["fp9"]}, QuantmillError, "there is no scheme 'fp9' .did you mean fp8"),
        ({"gptq": [5]}, PlanError, "5"),
        (
            {"gptq": [4], "group_size": 96},
            PlanError,
            "--group-size: 96 does not divide the widths of all layers",
        ),
        ({"compress": ["w4a16"], "group_size": 100}, QuantmillError, "100"),
        ({"compress": ["fp8"], "group_size": 64}, PlanError, "--group-size: is for --gptq, --awq and --compress w4a16"),
        ({"compress": ["fp8"], "imatrix": None}, PlanError, "--file: has no effect"),
    ],
)
def test_refused_before_anything_is_made(
    tiny: Path, text: Path, more: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        release(tiny, tmp_path / "set", asked(text, **more))
    assert not list(tmp_path.iterdir())


def test_of_a_file(tiny: Path, tmp_path: Path) -> None:
    gguf = convert(tiny, tmp_path / "tiny.gguf").paths[0]
    with pytest.raises(PlanError, match=r"tiny.gguf: is a file, and checkpoints are made of a Hugging Face folder"):
        release(gguf, tmp_path / "set", ReleaseOptions(levels=["Q8_0"], imatrix=None, compress=["fp8"]))


def test_folders_that_exist(tiny: Path, tmp_path: Path) -> None:
    """A stranger's folder stays, --restart or not; one of the release that is made anew is replaced."""
    options = ReleaseOptions(levels=["Q8_0"], imatrix=None, compress=["fp8"])
    novel = tmp_path / "set-FP8-dynamic" / "novel.txt"
    novel.parent.mkdir()
    novel.write_text("precious")
    for restart in (False, True):
        with pytest.raises(OutputError, match="set-FP8-dynamic: exists, and is where FP8-dynamic would be written"):
            release(tiny, tmp_path / "set", options, restart=restart)
    assert novel.read_text() == "precious"
    shutil.rmtree(novel.parent)
    release(tiny, tmp_path / "set", options)
    weights = novel.with_name("model.safetensors")
    before = weights.read_bytes()
    weights.write_bytes(b"changed")
    release(tiny, tmp_path / "set", options, restart=True)
    assert weights.read_bytes() == before


def test_a_command(tiny: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--imatrix", "none", "--levels", "Q8_0", "--compress", "w8a8", "--compress", "mxfp4a16")
    done = cli("release", tiny, "set", *words)
    assert done.code == 0, done
    assert "set-W8A8: " in done.out
    assert {path.name for path in tmp_path.iterdir()} == {"set", "set-W8A8", "set-MXFP4A16"}


def test_a_dry_run_names_the_folders(tiny: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    options = ReleaseOptions(levels=["Q8_0"], imatrix=None, compress=["fp8"])
    found = plan_release(tiny, tmp_path / "set", options, progress=seen.append)
    assert "../set-FP8-dynamic" in found.beside
    assert any("are not counted in what the disk needs" in event.text for event in seen if isinstance(event, Note))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_killed_and_taken_up(tiny: Path, text: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("set", "set-GPTQ-Int4", "set-W8A8")]
    words = ["release", str(tiny), "set", "--levels", "Q8_0", "-f", str(text), "-c", "64", "--chunks", "4"]
    words += ["--gptq", "--compress", "w8a8", "--imatrix", "none"]

    def result() -> str:
        return "".join(map(digest, folders)) if digest(folders[0]) else ""

    def forget() -> None:
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    survive(words, tmp_path, result, forget, kills=4)
