"""A published set: its card, sums and manifest say what is there; a killed run goes on; the same bytes come again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from oracles.card_samples import save_with_card
from oracles.kills import run, survive
from quantmill import RunOptions, evaluate
from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.progress import Event, Note, RowsDone, RunStarted, WorkStarted
from quantmill.formats.storage.output import human_bytes
from quantmill.tools.api.releasing.levels import USES
from quantmill.tools.api.releasing.manifest import read_manifest
from quantmill.tools.api.releasing.options import ReleaseOptions
from quantmill.tools.api.releasing.release import release
from quantmill.tools.api.releasing.reproduce import reproduce

LEVELS = "Q2_K,IQ2_XXS,Q4_K_M,IQ4_XS,Q8_0"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_with_card(tmp_path_factory.mktemp("models") / "Tiny-Llama")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def released(tiny: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release") / "set"
    words = [
        "release",
        str(tiny),
        str(out),
        "--levels",
        LEVELS,
        "--evaluate",
        "--evaluation-text",
        str(text),
        "-f",
        str(text),
    ]
    done = run([*words, "-c", "64", "--chunks", "4", "--quantized-by", "somebody", "--quiet"], out.parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return out


def test_what_is_there(released: Path) -> None:
    names = {f"Tiny-Llama.{level}.gguf" for level in LEVELS.split(",")}
    others = {"README.md", "SHA256SUMS", "Modelfile", "manifest.json", "size-kld.png", "Tiny-Llama.imatrix.gguf"}
    assert {path.name for path in released.iterdir()} == names | others
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=released, check=True)
    assert (released / "size-kld.png").read_bytes().startswith(b"\x89PNG")
    manifest = json.loads((released / "manifest.json").read_text())
    assert set(manifest["files"]) == names
    assert manifest["imatrix"]["sha256"] == digest(released / "Tiny-Llama.imatrix.gguf")
    assert set(manifest["evaluation"]["files"]) == set(LEVELS.split(","))
    assert manifest["source"]["files"]["config.json"]["bytes"] > 100
    assert read_gguf(released / "Tiny-Llama.IQ2_XXS.gguf").get("quantize.imatrix.file") == "Tiny-Llama.imatrix.gguf"


def test_the_card(released: Path) -> None:
    card = (released / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "apache-2.0"
    assert head["language"] == ["en", "no"]
    assert head["tags"] == ["chat", "gguf", "quantized"]
    assert head["quantized_by"] == "somebody"
    rows = re.findall(r"^\| \[([^]]+)\]\(./([^)]+)\) \| (\S+) \| ([\d.]+) \| (.*?) \| .*? \| (.+) \|$", card, re.M)
    assert [row[2] for row in rows] == ["IQ2_XXS", "Q2_K", "IQ4_XS", "Q4_K_M", "Q8_0"]  # by size
    for name, link, level, bits, size, use in rows:
        assert name == link == f"Tiny-Llama.{level}.gguf"
        assert size == human_bytes((released / name).stat().st_size)
        assert 2 < float(bits) < 9
        assert use == USES[level]
    assert "<|user|>{prompt}</s>" in card
    for program in (
        "llama-cli -m Tiny-Llama.Q4_K_M.gguf",
        "from llama_cpp import Llama",
        "ollama create",
        "gguf_file=",
    ):
        assert program in card
    assert "Q4_K: 4.5 bits per weight" in card


def test_what_was_measured(released: Path, tiny: Path, text: Path) -> None:
    """The figures of a run for each file alone, in the card as in the manifest."""
    card = (released / "README.md").read_text()
    content = json.loads((released / "manifest.json").read_text())["evaluation"]
    run = RunOptions(n_ctx=64, chunks=4)
    for level in LEVELS.split(","):
        name = f"Tiny-Llama.{level}.gguf"
        alone = evaluate(released / name, text, base=tiny, run=run)
        assert content["files"][level] == asdict(alone)
        cells = [
            f"{alone.perplexity:.4f} ± {alone.perplexity_error:.4f}",
            f"{alone.kld_mean:.5f} ± {alone.kld_mean_error:.5f}",
            f"{alone.kld_p999:.4f}", f"{alone.top1 * 100:.2f} ± {alone.top1_error * 100:.2f} %",
        ]  # fmt: skip
        (row,) = [line for line in card.splitlines() if line.startswith(f"| {name} |".replace("_", "_"))]
        assert row.endswith(f"| {' | '.join(cells)} |")
    assert content["part"] == {"n_ctx": 64, "first_chunk": 0, "chunks": 4}
    assert content["base"]["perplexity"] == pytest.approx(evaluate(tiny, text, run=run).perplexity, rel=1e-9)
    text_sha = digest(text)
    assert f"from `text.txt` (SHA-256 `{text_sha}`), in 4 chunks of 64 tokens" in card
    assert f"on `text.txt` (SHA-256 `{text_sha}`), 124 tokens judged in chunks of 64, from which importance was" in card
    command = f"quantmill release Tiny-Llama set --levels {LEVELS} -f text.txt -c 64 --chunks 4 --evaluate"
    assert f"`{command} --evaluation-text text.txt`" in card


def test_what_was_measured_is_not_measured_again(tiny: Path, text: Path, tmp_path: Path) -> None:
    """Of the same files, on the same text, against the same checkpoint: another level is measured alone."""
    out = tmp_path / "set"
    options = ReleaseOptions(levels=["Q8_0"], imatrix=None, evaluate=True, evaluation_text=text, n_ctx=64, chunks=2)

    def measured(options: ReleaseOptions) -> tuple[int, list[str], dict[str, object]]:
        events: list[Event] = []
        release(tiny, out, options, restart=True, progress=events.append)
        notes = [e.text for e in events if isinstance(e, Note) and "measured before" in e.text]
        figures = json.loads((out / "manifest.json").read_text())["evaluation"]["files"]
        return sum(isinstance(event, RunStarted) for event in events), notes, figures

    assert measured(options)[:2] == (2, [])
    runs, notes, first = measured(options)
    assert (runs, notes) == (0, ["Q8_0: measured before, in the release that was here"])
    runs, notes, both = measured(replace(options, levels=["Q8_0", "Q4_0"]))
    assert (runs, len(notes), both["Q8_0"]) == (2, 1, first["Q8_0"])
    assert measured(replace(options, levels=["Q8_0", "Q4_0"], chunks=3))[:2] == (3, [])
    assert measured(replace(options, levels=["Q4_0"], chunks=3, recipe_set="2023-12"))[0] in (0, 2)
    changed = shutil.copytree(tiny, tmp_path / "changed")
    (changed / "generation_config.json").write_text("{}")
    release(changed, out, replace(options, name="Tiny-Llama", chunks=3), restart=True)
    assert not list(out.glob(".*"))


def test_an_importance_matrix_that_was_given(released: Path, tiny: Path, tmp_path: Path) -> None:
    """What its file says of its text stands in the card."""
    made = release(
        tiny, tmp_path / "set", ReleaseOptions(levels=["Q2_K"], imatrix=released / "Tiny-Llama.imatrix.gguf")
    )
    facts = made.manifest.imatrix
    assert facts is not None
    assert (facts.chunks, facts.n_ctx, facts.datasets, facts.text) == (4, 64, ("text.txt",), None)
    assert ", from `text.txt`, in 4 chunks of 64 tokens" in (made.folder / "README.md").read_text()
    assert read_manifest(made.folder / "manifest.json") == made.manifest


def test_reproduce(released: Path, tiny: Path, tmp_path: Path) -> None:
    words = ["reproduce", str(released / "manifest.json"), "--model", str(tiny)]
    done = run(words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the same bytes") == 5
    moved = shutil.copytree(released, tmp_path / "moved", ignore=shutil.ignore_patterns("*Q*.gguf"))
    renamed = (moved / "Tiny-Llama.imatrix.gguf").rename(tmp_path / "importance.gguf")
    words = ["reproduce", "moved/manifest.json", "--model", str(tiny), "--imatrix", renamed.name, "--levels", "Q4_K_M"]
    done = run(words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the same bytes") == 1
    manifest = json.loads((released / "manifest.json").read_text())
    manifest["files"]["Tiny-Llama.Q8_0.gguf"]["sha256"] = "0" * 64
    other = shutil.copytree(released, tmp_path / "other")
    (other / "manifest.json").write_text(json.dumps(manifest))
    done = run(
        ["reproduce", str(other / "manifest.json"), "--model", str(tiny), "--levels", "Q8_0", "--json"], tmp_path
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["files"] == {"Tiny-Llama.Q8_0.gguf": False}
    model = shutil.copytree(tiny, tmp_path / "changed")
    with (model / "config.json").open("a") as file:
        file.write(" ")
    done = run(["reproduce", str(released / "manifest.json"), "--model", str(model)], tmp_path)
    assert done.returncode == 2
    assert re.search(r"config.json: is not what the release was made of \(get the same revision\)\n\Z", done.stderr)


def test_from_python(tiny: Path, tmp_path: Path) -> None:
    """What the commands do, in one call each, with typed events."""
    events: list[Event] = []
    options = ReleaseOptions(levels=["q8_0", "Q4_K_M"], imatrix=None)
    made = release(tiny, tmp_path / "set", options, progress=events.append)
    assert [path.name for path in made.files] == ["Tiny-Llama.Q4_K_M.gguf", "Tiny-Llama.Q8_0.gguf"]
    assert Note("Tiny-Llama.Q8_0.gguf: verified") in events
    done = sum(event.nbytes for event in events if isinstance(event, RowsDone))
    assert done == sum(event.total for event in events if isinstance(event, WorkStarted)) > 0
    assert read_manifest(made.folder / "manifest.json") == made.manifest
    found = reproduce(made.folder / "manifest.json", tiny, levels=["Q8_0"])
    assert (found.ok, found.same) == (True, {"Tiny-Llama.Q8_0.gguf": True})


def test_a_snapshot_of_the_cache(tiny: Path, tmp_path: Path) -> None:
    """Files, card and manifest have the model's name, not the hash that its folder is called."""
    snapshot = shutil.copytree(tiny, tmp_path / "models--some-org--Tiny-7B" / "snapshots" / ("0123abcd" * 5))
    made = release(snapshot, tmp_path / "set", ReleaseOptions(levels=["Q8_0"], imatrix=None))
    assert (made.folder / "Tiny-7B.Q8_0.gguf").is_file()
    card = (made.folder / "README.md").read_text()
    assert "\nbase_model: some-org/Tiny-7B\n" in card
    assert made.manifest.source_name == "Tiny-7B"
    assert "0123abcd" not in card


def test_manifests_with_the_former_name_of_recipe_sets(released: Path, tmp_path: Path) -> None:
    content = json.loads((released / "manifest.json").read_text())
    content["options"] = {"book": "2023-12"}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert read_manifest(tmp_path / "manifest.json").recipe_set == "2023-12"
    for damage in ({"files": {"../x.gguf": {"level": "Q8_0", "bytes": 1, "sha256": ""}}}, {"files": 3}, {"format": 2}):
        (tmp_path / "manifest.json").write_text(json.dumps(content | damage))
        with pytest.raises(FormatError, match=r"cannot be its own|is not the manifest|is of format 2"):
            read_manifest(tmp_path / "manifest.json")


@pytest.mark.slow
def test_killed_and_taken_up(tiny: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"

    def result() -> str:
        if not (out / "manifest.json").exists():
            return ""
        return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in sorted(out.iterdir()))).hexdigest()

    words = ["release", str(tiny), "set", "--levels", "Q2_K,Q4_K_M", "-f", str(text), "-c", "64", "--evaluate"]
    words += ["--evaluation-text", str(text), "--chunks", "4"]
    survive(words, tmp_path, result, lambda: shutil.rmtree(out, ignore_errors=True), kills=4)


def test_killed_before_anything_was_recorded(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "..release.json.partial").write_text("{")
    done = run(["release", str(tiny), "set", "--imatrix", "none", "--levels", "Q8_0"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == [
        "Modelfile", "README.md", "SHA256SUMS", "Tiny-Llama.Q8_0.gguf", "manifest.json",
    ]  # fmt: skip


def test_refusals(released: Path, tiny: Path, tmp_path: Path) -> None:
    def refused(*words: str) -> str:
        done = run(["release", *words], tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert "holds a finished release (--restart makes it anew)" in refused(str(tiny), str(released))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "novel.txt").write_text("precious")
    assert "taken: exists and is not an empty folder" in refused(str(tiny), "taken", "--imatrix", "none")
    refused(str(tiny), "taken", "--imatrix", "none", "--restart")
    assert (tmp_path / "taken" / "novel.txt").exists()
    assert "Q9_K" in refused(str(tiny), "new", "--levels", "Q9_K")
    assert "IQ2_XXS" in refused(str(tiny), "new", "--levels", "IQ2_XXS", "--imatrix", "none")
    assert "no such file" in refused("nowhere", "new").lower()
    assert not (tmp_path / "new").exists()
