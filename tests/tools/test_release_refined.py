"""A refined release: files beside their plain counterparts, and moments that are made again, not published."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oracles.kills import digest, survive
from quantmill import Note, RunOptions, collect_imatrix, read_imatrix
from quantmill.formats.errors import FormatError, PlanError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.tools.api.convert import convert
from quantmill.tools.api.releasing.options import ReleaseOptions
from quantmill.tools.api.releasing.release import Release, release
from quantmill.tools.api.releasing.reproduce import reproduce

from .conftest import Done

RUN = RunOptions(n_ctx=64, chunks=4)


@pytest.fixture(scope="module")
def released(tiny: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    asked = ReleaseOptions(
        levels=["Q4_K_M", "Q8_0"], target_sizes=[700_000], text=text, n_ctx=64, chunks=4,
        refine=True, evaluate=True, evaluation_text=text,
    )  # fmt: skip
    return release(tiny, tmp_path_factory.mktemp("release") / "set", asked)


def weights(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.rows(0, tensor.n_rows).tobytes() for tensor in read_gguf(path)}


def test_moments_are_not_published(released: Release, tiny: Path, text: Path, tmp_path: Path) -> None:
    assert not [path.name for path in released.folder.iterdir() if path.name.startswith(".")]
    published = released.folder / "Tiny.imatrix.gguf"
    assert read_imatrix(published).moments is None
    collect_imatrix(tiny, tmp_path / "plain.gguf", text=text, run=RUN, perplexity=False)
    assert published.read_bytes() == (tmp_path / "plain.gguf").read_bytes()


def test_the_files_are_those_of_quantize_refine(released: Release, tiny: Path, text: Path, tmp_path: Path) -> None:
    moments = tmp_path / "moments.gguf"
    collect_imatrix(tiny, moments, text=text, run=RUN, perplexity=False, second_moments=True)
    made = convert(tiny, tmp_path / "refined.gguf", "Q4_K_M", imatrix=moments, refine=True).paths[0]
    plain = convert(tiny, tmp_path / "plain.gguf", "Q4_K_M", imatrix=moments).paths[0]
    assert weights(made) == weights(released.folder / "Tiny.Q4_K_M.gguf") != weights(plain)


def test_the_card_has_plain_and_refined_at_the_same_size(released: Release) -> None:
    card = (released.folder / "README.md").read_text()
    table = card[card.index("## Measured") :]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    refined = [row for row in rows if row[1].endswith(", refined")]
    plain = [row for row in rows if row[1].endswith(", plain")]
    assert [row[1] for row in refined] == ["Q4_K_M, refined", "700kB, refined"]
    assert [row[1] for row in plain] == ["Q4_K_M, plain", "700kB, plain"]
    for one, other in zip(refined, plain, strict=True):
        assert one[2:4] == other[2:4]  # bits and size
        assert float(one[5].split()[0]) < float(other[5].split()[0])  # KLD, on the text that it is refined by
        assert other[0] == "not in this release"
    assert "| [Tiny.Q8_0.gguf](./Tiny.Q8_0.gguf) | Q8_0 |" in card
    assert "| [Tiny.Q4_K_M.gguf](./Tiny.Q4_K_M.gguf) | Q4_K_M, refined |" in card
    assert "they were made to be measured, and removed" in card
    measured = json.loads((released.folder / "manifest.json").read_text())["evaluation"]["files"]
    assert set(measured) == {"700kB", "700kB plain", "Q4_K_M", "Q4_K_M plain", "Q8_0"}


def test_plain_figures_are_those_of_the_plain_file(released: Release, tiny: Path, text: Path, tmp_path: Path) -> None:
    asked = ReleaseOptions(
        levels=["Q4_K_M"], text=text, n_ctx=64, chunks=4, evaluate=True, evaluation_text=text
    )  # fmt: skip
    alone = release(tiny, tmp_path / "set", asked).manifest.evaluation
    both = released.manifest.evaluation
    assert alone is not None
    assert both is not None
    assert both.levels["Q4_K_M plain"]["kld_mean"] == pytest.approx(alone.levels["Q4_K_M"]["kld_mean"], rel=1e-4)


def test_reproduce_collects_moments_again(released: Release, tiny: Path, text: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    manifest = released.folder / "manifest.json"
    found = reproduce(manifest, tiny, text=text, work_folder=tmp_path, progress=seen.append)
    assert dict(found.same) == dict.fromkeys(released.manifest.files, True)
    lines = [event.text for event in seen if isinstance(event, Note) and event.important]
    assert f"second moments are collected again, from {text.name}: the release publishes importance alone" in lines
    assert not [line for line in lines if "differ" in line]
    assert not list(tmp_path.iterdir())
    assert reproduce(manifest, tiny, levels=["Q8_0"], work_folder=tmp_path).ok  # not refined: no text is needed
    assert not list(tmp_path.iterdir())


def test_other_moments_are_said(released: Release, tiny: Path, text: Path, tmp_path: Path) -> None:
    content = json.loads((released.folder / "manifest.json").read_text())
    content["refinement"]["moments"]["chunks"] = 3
    changed = shutil.copytree(released.folder, tmp_path / "changed") / "manifest.json"
    changed.write_text(json.dumps(content))
    seen: list[Any] = []
    found = reproduce(changed, tiny, text=text, levels=["Q4_K_M"], work_folder=tmp_path, progress=seen.append)
    assert not found.ok
    assert any(event.text.startswith("the second moments differ") for event in seen if isinstance(event, Note))


def test_texts_of_reproduce(
    released: Release, tiny: Path, cli: Callable[..., Done], refused: Callable[..., str], tmp_path: Path
) -> None:
    words = ("reproduce", released.folder / "manifest.json", "--model", tiny, "--work", tmp_path)
    assert "text.txt: the text of the release is missing (name it with --file)" in refused(*words)
    (tmp_path / "other.txt").write_text("another text")
    assert "other.txt: is not the text of the release" in refused(*words, "-f", tmp_path / "other.txt")
    plain = release(tiny, tmp_path / "plain", ReleaseOptions(levels=["Q8_0"], imatrix=None)).folder / "manifest.json"
    assert "--file: has no effect" in refused("reproduce", plain, "--model", tiny, "-f", tmp_path / "other.txt")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"imatrix": None, "text": None}, "--refine: needs importance"),
        ({"levels": ["Q8_0"]}, "--refine: has no effect: no type of these levels is refined"),
        ({"refine_width": 100}, "--refine-width: 100 is not a multiple of 256"),
        ({"refine": False, "refine_width": 512}, "--refine-width: has no effect: nothing is refined"),
    ],
)
def test_refusals(tiny: Path, text: Path, more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=message):
        release(tiny, tmp_path / "set", ReleaseOptions(**{"levels": ["Q4_K_M"], "text": text, "refine": True, **more}))
    assert not (tmp_path / "set").exists()


def test_an_imatrix_that_was_given(tiny: Path, text: Path, tmp_path: Path) -> None:
    """With moments, and without; reproduce takes the moments from it."""
    for name, second in (("plain.gguf", False), ("moments.gguf", True)):
        collect_imatrix(tiny, tmp_path / name, text=text, run=RUN, perplexity=False, second_moments=second)
    asked = ReleaseOptions(levels=["Q4_K_M"], imatrix=tmp_path / "plain.gguf", refine=True)
    with pytest.raises(PlanError, match=r"plain.gguf: holds no second moments"):
        release(tiny, tmp_path / "set", asked)
    assert not (tmp_path / "set").exists()
    made = release(tiny, tmp_path / "set", replace(asked, imatrix=tmp_path / "moments.gguf"))
    assert (tmp_path / "moments.gguf").is_file()
    manifest = made.folder / "manifest.json"
    assert reproduce(manifest, tiny, imatrix=tmp_path / "moments.gguf", work_folder=tmp_path).ok
    with pytest.raises(FormatError, match=r"is not the importance matrix of the release"):
        reproduce(manifest, tiny, imatrix=tmp_path / "plain.gguf", work_folder=tmp_path)


@pytest.mark.slow
def test_killed_and_taken_up(tiny: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    words = ["release", str(tiny), "set", "--levels", "Q4_K_M", "-f", str(text), "-c", "64", "--chunks", "4"]
    words += ["--refine", "--evaluate", "--evaluation-text", str(text)]
    survive(words, tmp_path, lambda: digest(out), lambda: shutil.rmtree(out, ignore_errors=True), kills=4)
    assert re.search("Q4_K_M, plain", (out / "README.md").read_text())


@pytest.mark.slow
def test_of_a_real_model(
    smollm2_hf: Path, tmp_path: Path, cli: Callable[..., Done], record_property: pytest.RecordProperty
) -> None:
    """SmolLM2, calibrated on the text that ships with the package and measured on the rest of that text."""
    words = ("--levels", "Q4_0", "--refine", "--evaluate", "--chunks", 16, "--quiet")
    assert cli("release", smollm2_hf, tmp_path / "set", *words).code == 0
    measured = json.loads((tmp_path / "set" / "manifest.json").read_text())["evaluation"]["files"]
    plain, refined = measured["Q4_0 plain"]["kld_mean"], measured["Q4_0"]["kld_mean"]
    record_property("counts", f"release of SmolLM2 in Q4_0: KLD {plain:.5f} plain, {refined:.5f} refined")
    assert refined < plain
    card = (tmp_path / "set" / "README.md").read_text()
    assert (card.count(", plain |"), card.count(", refined |")) == (1, 2)
    done = cli("reproduce", tmp_path / "set" / "manifest.json", "--model", smollm2_hf, "--levels", "Q4_0")
    assert done.code == 0, done
