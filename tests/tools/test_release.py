"""A published set: its card, sums and manifest say what is there; a killed run goes on; the same bytes come again."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from oracles.kills import run, survive
from oracles.tiny import TEXT, save_tiny_llama
from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.progress import Event, Note, RowsDone, WorkStarted
from quantmill.formats.storage.output import human_bytes
from quantmill.tools.api.releasing.card import Facts, File, front_matter, model_card
from quantmill.tools.api.releasing.levels import PLAIN, USES, WITH_IMPORTANCE, method
from quantmill.tools.api.releasing.manifest import read_manifest
from quantmill.tools.api.releasing.options import ReleaseOptions
from quantmill.tools.api.releasing.prompt import prompt_template
from quantmill.tools.api.releasing.release import release
from quantmill.tools.api.releasing.reproduce import reproduce

LEVELS = "Q2_K,IQ2_XXS,Q4_K_M,IQ4_XS,Q8_0"
CARD = """---
license: apache-2.0
language: [en, "no"]
tags: [chat]
---
# A card
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_llama(tmp_path_factory.mktemp("models") / "Tiny-Llama", layers=2, hidden=256)
    (folder / "README.md").write_text(CARD)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}\n{% endfor %}<|assistant|>"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 12)
    return path


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
    others = {"README.md", "SHA256SUMS", "manifest.json", "size-kld.png", "Tiny-Llama.imatrix.gguf"}
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
    rows = re.findall(
        r"^\| \[([^]]+)\]\(./([^)]+)\) \| (\S+) \| ([\d.]+) \| (.*?) \| .*? \| ([\d.]+) \| ([\d.]+) \| (.+) \|$",
        card,
        re.M,
    )
    assert [row[2] for row in rows] == ["IQ2_XXS", "Q2_K", "IQ4_XS", "Q4_K_M", "Q8_0"]  # by size
    for name, link, level, bits, size, perplexity, kld, use in rows:
        assert name == link == f"Tiny-Llama.{level}.gguf"
        assert size == human_bytes((released / name).stat().st_size)
        assert 2 < float(bits) < 9
        assert float(perplexity) > 1
        assert float(kld) >= 0
        assert use == USES[level]
    klds = [float(row[6]) for row in rows]
    assert klds[-1] < klds[0]
    assert "<|user|>{prompt}</s>" in card
    for program in (
        "llama-cli -m Tiny-Llama.Q4_K_M.gguf",
        "from llama_cpp import Llama",
        "ollama create",
        "gguf_file=",
    ):
        assert program in card
    assert "Q4_K: 4.5 bits per weight" in card


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
        "README.md", "SHA256SUMS", "Tiny-Llama.Q8_0.gguf", "manifest.json",
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


def test_every_level_has_its_words() -> None:
    assert len(PLAIN) >= 10
    for level in {*PLAIN, *WITH_IMPORTANCE}:
        assert USES[level]
    assert method("IQ2_XS").startswith("IQ2_XS: 2.3125 bits per weight; eight magnitudes")


def test_a_card_of_strange_names() -> None:
    """YAML and Markdown with what a stranger may have put into a checkpoint."""
    file = File("a.gguf", "Q8_0", 10, 8.5, ("Q8_0",))
    facts = Facts('x: "y"\n- z', "a/b", {"license": "yes", "tags": ["#1", 3, "a: b"]}, [file], [], prompt="```\nhi")
    head = yaml.safe_load(front_matter(facts).split("---")[1])
    assert head["license"] == "yes"
    assert head["tags"] == ["#1", "a: b", "gguf", "quantized"]
    card = model_card(facts)
    assert "````\n```\nhi\n````" in card
    assert '# x: "y"\\n- z in GGUF' in card.replace("\\\\", "\\")


def test_a_card_of_names_that_are_markup() -> None:
    """Pipes, HTML, links, ends of the front matter, and words of the shell and of Python stay a file's name."""
    name = "a|b <img src=x> [c](d) `e`; $(rm) \"f'.gguf"
    facts = Facts("<b>\n---\n# x", "`a`\n---", {"license": "x\n---\n# y", "tags": ["\u202e"]},
                  [File(name, "Q8_0", 10, 8.5, ("Q8_0",))], [], prompt="\x1b[2J{prompt}")  # fmt: skip
    card = model_card(facts)
    assert yaml.safe_load(card.split("\n---\n")[0])["license"] == "x\n---\n# y"
    assert [line for line in card.splitlines() if line == "---"] == ["---"] * 2
    assert "\x1b" not in card
    assert "\u202e" not in card
    assert "<b>" not in card.replace("\\<", "")
    (row,) = [line for line in card.splitlines() if line.startswith("| [")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert "](./a%7Cb%20%3Cimg%20src%3Dx%3E%20%5Bc%5D%28d%29%20%60e%60%3B%20%24%28rm%29%20%22f%27.gguf)" in row
    (command,) = re.findall(r"llama-cli -m (.*) -c 4096", card)
    assert shlex.split(command) == [name]
    (literal,) = re.findall(r"llm = Llama\((.*), n_ctx=4096\)", card)
    assert ast.literal_eval(literal) == name


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}",
            "<s>[system] {system_message}\n[user] {prompt}\n",
        ),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}Q: {{ messages[0].content }}",
            "Q: {prompt}",
        ),
        ("{{ messages.__class__.__mro__ }}", None),
        ("{% for", None),
        ("nothing", None),
        (None, None),
    ],
)
def test_prompt_templates(template: str | None, expected: str | None) -> None:
    assert prompt_template(template, {"bos_token": "<s>"}) == expected
