"""Names in files are a stranger's: whatever they hold, a command prints its own lines and nothing else.

Every command that reads a file meets one whose tensors, keys, texts, tokens, datasets, classes and own name hold each
kind of character that drives a terminal or hides from a reader.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from attacks.samples import dat_bytes, ggml_bytes, gguf_bytes, imatrix_bytes
from oracles.tiny import TEXT, save_tiny_llama
from quantmill.formats.errors import FormatError, visible
from quantmill.formats.examples import tiny_llama
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.ir import Value, ValueType
from quantmill.formats.progress import Note, RunStarted, StepDone, WorkEnded, WorkStarted
from quantmill.formats.qtypes import BY_NAME
from quantmill.tools.main import COMMANDS
from quantmill.tools.terminal.lines import print_json, print_line
from quantmill.tools.terminal.progress import ProgressDisplay

# Each kind: escapes that clear the screen and set its title, the 8-bit escape, line ends of every kind, deletion,
# directions, characters without width, a letter that is blank, a byte that is not UTF-8.
KINDS = ["\x1b[2J", "\x1b]0;t\x07", "\x9b2J", "\n", "\r", "\x85", "\u2028", "\x0b", "\x00", "\x7f", "\x08", "\u202e",
         "\u2066", "\u200b", "\u2060", "\ufeff", "\u3164", "\xa0", "\U000e0041", "\udcff"]  # fmt: skip
FORGED = "!forged"  # begins a line where a line break gets through
NASTY = "".join(KINDS[:5]) + FORGED + "".join(KINDS[5:])
FILE = NASTY.replace("\x00", "")
FOLDER = FILE.replace("\udcff", "")  # libraries that read folders take only UTF-8
SHORT = [f"{kind}{FORGED}{i}" for i, kind in enumerate(KINDS)]
V = ValueType


def check(text: str) -> None:
    for line in text.split("\n"):
        assert not line.startswith(FORGED)
        for char in line:
            assert unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"}, (line, char)
            assert char not in "\u3164\xa0", line


class Files:
    """The hostile files, in a folder whose name is hostile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self.folder.mkdir()
        self.text = self.folder / f"{FILE}.txt"
        self.text.write_text(TEXT * 12)
        self.gguf, self.other = self._gguf(f"{FILE}.gguf", ""), self._gguf("o.gguf", "2")
        self.clean = self.folder / f"clean{FILE}.gguf"  # runs: only its own name and texts are hostile
        plain = tiny_llama()
        write_gguf(self.clean, replace(plain, metadata=plain.metadata | _keys("")))
        self.utf8 = self.folder / f"utf8{FILE}.gguf"  # every text of it is UTF-8
        keys = {key: value for key, value in _keys("").items() if "\udcff" not in key and not key.startswith("tok")}
        write_gguf(self.utf8, replace(plain, metadata=plain.metadata | keys))
        self.shards = [self.folder / f"s-0000{i}-of-00002.gguf" for i in (1, 2)]
        self.ggml = self.folder / "m.bin"
        self.ggml.write_bytes(ggml_bytes().replace(b" the", b"\x1b[2J"))
        self.imatrix, self.dat = self.folder / "i.gguf", self.folder / "i.dat"
        names = [*SHORT, "blk.0.\x1b[2J.weight", "blk.0.attn_q.weight"]
        self.imatrix.write_bytes(imatrix_bytes(names, 256, 1, {"imatrix.datasets": Value(V.ARRAY, (NASTY,), V.STRING)}))
        self.dat.write_bytes(dat_bytes([n for n in names if "\udcff" not in n], 256, NASTY.encode("utf-8", "replace")))
        self.hf = save_tiny_llama(self.folder / "hf", layers=1)
        self.unmatched = self._copied("unmatched")
        tensors = load_file(self.unmatched / "model.safetensors")
        tensors |= {name: tensors["model.norm.weight"].clone() for name in SHORT if "\udcff" not in name}
        save_file(tensors, self.unmatched / "model.safetensors", {"format": "pt"})
        self.unknown = self._copied("unknown", architectures=[NASTY[:-1]])
        self.strange = self._copied("strange", hidden_act=NASTY[:-1], rope_scaling={"rope_type": NASTY[:-1]})
        self.adapter = self.folder / "lora"
        self.adapter.mkdir()
        settings = {
            "peft_type": "LORA",
            "r": 4,
            "lora_alpha": 8,
            "target_modules": SHORT[:-1],
            "base_model_name_or_path": "x",
        }
        (self.adapter / "adapter_config.json").write_text(json.dumps(settings))
        lora = {f"base_model.model.{name}.lora_A.weight": tensors["model.norm.weight"].clone() for name in SHORT[:-1]}
        save_file(lora, self.adapter / "adapter_model.safetensors")
        self.config = self.folder / "config.JSON"
        self.config.write_text((self.hf / "config.json").read_text())
        facts = {"bytes": 1, "sha256": "0", "level": NASTY[:-1]}
        self.manifest = self.folder / "manifest.json"
        self.manifest.write_text(json.dumps({
            "format": 1, "versions": {"quantmill": NASTY[:-1]}, "options": {},
            "source": {"name": NASTY[:-1], "files": {NASTY[:-1]: facts}}, "files": {NASTY[:-1].replace("/", ""): facts},
        }))  # fmt: skip

    def _gguf(self, name: str, more: str) -> Path:
        model = tiny_llama()
        path = self.folder / name
        write_gguf(path, model)
        header = read_gguf(path).metadata | _keys(more)
        tensors = [(t.name, t.shape, t.qtype) for t in model] + [(n + more, (256,), BY_NAME["F32"]) for n in SHORT]
        path.write_bytes(gguf_bytes(dict(header), tensors))
        return path

    def _copied(self, name: str, **changes: object) -> Path:
        folder = self.folder / name
        folder.mkdir()
        for file in self.hf.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        return folder


def _keys(more: str) -> dict[str, Value]:
    texts = {f"{name}.{more}": Value(V.STRING, NASTY + more) for name in SHORT}
    arrays = {f"a.{name}": Value(V.ARRAY, (NASTY + more, NASTY), V.STRING) for name in SHORT[:3]}
    tokens = list(tiny_llama().metadata["tokenizer.ggml.tokens"].texts)
    tokens[2] = NASTY + more
    return texts | arrays | {
        "general.name": Value(V.STRING, NASTY + more),
        "tokenizer.ggml.tokens": Value(V.ARRAY, tuple(tokens), V.STRING),
        "tokenizer.ggml.eos_token_id": Value(V.UINT32, 2),
    }  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("hostile"))


COMMON = ("-c", 32, "--chunks", 2)
CASES: list[tuple[str, Callable[[Files], tuple[object, ...]]]] = [
    ("inspect", lambda f: (f.gguf,)),
    ("inspect", lambda f: (f.gguf, "--html", f.folder / "page.html", "--against", f.other, "--force")),
    ("inspect", lambda f: (f.ggml,)),
    ("inspect", lambda f: (f.imatrix,)),
    ("verify", lambda f: (f.gguf, "--verbose")),
    ("verify", lambda f: (f.gguf, "--strict")),
    ("verify", lambda f: (f.gguf, "--against", f.other, "--max-rmse", 0)),
    ("verify", lambda f: (f.hf, "--against", f.gguf)),
    ("verify", lambda f: (f.folder / "nothing",)),
    ("diff", lambda f: (f.gguf, f.other, "--values")),
    ("diff", lambda f: (f.gguf, f.ggml)),
    ("hash", lambda f: (f.gguf,)),
    ("hash", lambda f: (f.ggml,)),
    ("quantize", lambda f: (f.gguf, f.folder / "q", "Q4_K_M", "--dry-run")),
    ("quantize", lambda f: (f.gguf, f.folder / "q.gguf", "Q4_K_M", "--force")),
    ("quantize", lambda f: (f.clean, f.folder / "q.gguf", "IQ2_XXS", "--imatrix", f.imatrix, "--dry-run")),
    ("quantize", lambda f: (f.clean, f.folder / "q.gguf", "Q4_K_M", "--imatrix", f.dat, "--dry-run")),
    ("quantize", lambda f: (f.gguf, f.folder / "q.gguf", NASTY[:-1].replace("\x00", ""))),
    ("quantize", lambda f: (f.gguf, f.folder / "q.gguf", "Q8_0", "--tensor-type", f"{FILE}=Q4_0")),
    ("convert", lambda f: (f.gguf, f.folder / "out.gguf", "--force")),
    ("convert", lambda f: (f.gguf, f.folder / "out-hf")),
    ("convert", lambda f: (f.clean, f.folder / f"{FOLDER}-hf")),
    ("convert", lambda f: (f.ggml, f.folder / "from-ggml.gguf")),
    ("convert", lambda f: (f.unmatched, f.folder / "x.gguf")),
    ("convert", lambda f: (f.unknown, f.folder / "x.gguf")),
    ("convert", lambda f: (f.strange, f.folder / "x.gguf")),
    ("convert", lambda f: (f.adapter, f.folder / "x.gguf", "--base", f.hf)),
    ("convert", lambda f: (f.hf, f.folder / "x.gguf", "--outtype", "q8_0")),
    ("convert", lambda f: (f.clean, f.folder / "to-ggml.bin", "--outtype", "f16")),
    ("convert", lambda f: (f.utf8, f.folder / f"{FOLDER}-hf2")),
    ("imatrix", lambda f: ("-m", f.utf8, "-f", f.text, *COMMON, "-o", f.folder / f"{FOLDER}.gguf")),
    ("evaluate", lambda f: (f.utf8, "-f", f.text, *COMMON)),
    ("plan", lambda f: (f.gguf, "Q4_K_M")),
    ("plan", lambda f: (f.config,)),
    ("imatrix", lambda f: ("-m", f.clean, "-f", f.text, *COMMON, "-o", f.folder / f"{FILE}.gguf")),
    ("imatrix", lambda f: ("--show-statistics", "--in-file", f.imatrix)),
    ("imatrix", lambda f: ("--show-statistics", "--in-file", f.dat)),
    ("imatrix", lambda f: ("--in-file", f.imatrix, "--in-file", f.imatrix, "-o", f.folder / "sum.dat", "--force")),
    ("imatrix", lambda f: ("-m", f.gguf, "-f", f.text, *COMMON, "-o", f.folder / "im.gguf")),
    ("evaluate", lambda f: (f.clean, "-f", f.text, *COMMON)),
    ("compare", lambda f: (f.clean, f.other, "-f", f.text, *COMMON)),
    ("push", lambda f: (f.folder / FOLDER, f"me/{NASTY[:-1]}")),
    ("evaluate", lambda f: (f.clean, "-f", f.folder / "nothing.txt")),
    ("gptq", lambda f: (f.hf, f.folder / "gptq", "-f", f.text, *COMMON, "--group-size", 32)),
    ("gptq", lambda f: (f.unmatched, f.folder / "gptq2", "-f", f.text, *COMMON)),
    ("awq", lambda f: (f.hf, f.folder / "awq", "-f", f.text, *COMMON, "--group-size", 32)),
    ("compress", lambda f: (f.hf, f.folder / "compressed", "--scheme", "w8a8")),
    ("compress", lambda f: (f.unmatched, f.folder / "compressed2", "--ignore", FILE)),
    ("gguf-set-metadata", lambda f: (f.gguf, "eos_token_id", 3, "--dry-run")),
    ("gguf-set-metadata", lambda f: (f.gguf, "name", FILE, "--dry-run")),
    ("gguf-set-metadata", lambda f: (f.gguf, f"{FILE}x", "1")),
    ("split", lambda f: (f.gguf, f.folder / "s", "--max-tensors", 20, "--dry-run")),
    ("split", lambda f: (f.gguf, f.folder / "s", "--max-tensors", 20, "--force")),
    ("inspect", lambda f: (f.gguf, "--recipe")),
    ("inspect", lambda f: (f.gguf, "--markdown")),
    ("quantize", lambda f: (f.gguf, "Q8_0", "--tensor-type-file", f.text)),
    ("convert", lambda f: (f.hf, f.folder / "o.gguf", "--metadata", f.manifest, "--force")),
    ("gguf-set-metadata", lambda f: (f.gguf, "--special-token", f"{NASTY[:-1]}=x")),
    ("merge-lora", lambda f: (f.clean, f.gguf, f.folder / "sum.gguf")),
    ("merge-lora", lambda f: (f.hf, f.adapter, f.folder / "sum.gguf")),
    ("merge", lambda f: (f.shards[0], f.folder / "merged.gguf", "--force")),
    ("merge", lambda f: (f.shards[0].with_name("s-00001-of-00009.gguf"), f.folder / "merged.gguf", "--force")),
    ("release", lambda f: (f.clean, f.folder / "set", "--levels", "Q8_0", "--imatrix", "none", "--restart")),
    ("reproduce", lambda f: (f.manifest, "--model", f.clean)),
    ("reproduce", lambda f: (f.folder / "set" / "manifest.json", "--model", f.other)),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(CASES)])
def test_commands(
    cli: Callable[..., Any], files: Files, name: str, arguments: Callable[[Files], tuple[object, ...]]
) -> None:
    done = cli(name, *arguments(files))
    assert done.code in (0, 1, 2)
    check(done.out)
    check(done.err)


def test_every_command_is_tried() -> None:
    assert set(COMMANDS) - {name for name, _ in CASES} == {"archs", "demo"}  # which read no file of the user's


@pytest.mark.parametrize(
    ("name", "more"),
    [("inspect", ()), ("hash", ()), ("verify", ()), ("diff", ("other",)), ("quantize", ("out", "Q8_0", "--dry-run")),
     ("split", ("prefix", "--max-tensors", 20, "--dry-run"))],
)  # fmt: skip
def test_json_has_the_exact_names(cli: Callable[..., Any], files: Files, name: str, more: tuple[object, ...]) -> None:
    words = [files.other if word == "other" else word for word in more]
    done = cli(name, files.gguf, *words, "--json")
    assert done.out.isascii()
    check(done.out)
    found = json.dumps(json.loads(done.out), ensure_ascii=False)
    if name != "split":  # which names files
        assert all(json.dumps(short, ensure_ascii=False)[1:-1] in found for short in SHORT)


def test_a_page(cli: Callable[..., Any], files: Files) -> None:
    page = files.folder / "page2.html"
    assert cli("inspect", files.gguf, "--html", page).code == 0
    check(page.read_text(encoding="utf-8"))


def test_a_release(cli: Callable[..., Any], files: Files) -> None:
    """The folder's name is hostile: files take another name, and the card stays Markdown of our own."""
    source = files.folder / f"{FILE}`|$(x)<b>.gguf"
    source.write_bytes(files.clean.read_bytes())
    out = files.folder / "released"
    assert cli("release", source, out, "--levels", "Q8_0", "--imatrix", "none").code == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    check(card)
    assert "<b>" not in re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", card.split("\n---\n", 1)[1])
    for file in out.iterdir():
        assert visible(file.name) == file.name
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1
    check((out / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("live", [False, True])
def test_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], live: bool) -> None:
    """On a terminal there are the bar's own \\r and escapes, and those alone."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: live)
    with ProgressDisplay() as progress:
        progress(Note(NASTY))
        progress(WorkStarted(NASTY, 10))
        progress(WorkEnded())
        progress(RunStarted(NASTY, 1, 2, 3))
        progress(StepDone(NASTY, 1, 1))
    err = capsys.readouterr().err
    if live:
        for own in ("\r", "\033[K", "\033[A"):
            err = err.replace(own, "")
    check(err)
    assert visible(NASTY) in err


def test_one_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(NASTY)
    print_json({"a": NASTY, "b": [float("inf"), (1.5,)]})
    line, document, end = capsys.readouterr().out.split("\n")
    assert line == visible(NASTY)
    assert json.loads(document) == {"a": NASTY, "b": ["inf", [1.5]]}
    assert end == ""


def test_errors_of_the_library() -> None:
    assert str(FormatError(NASTY, path=NASTY, where=NASTY, hint=NASTY)).isprintable()


def test_an_encoding_that_lacks_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    print_line("▁the é")
    out.flush()
    assert out.buffer.getvalue() == "\\u2581the é\n".encode("cp1252")  # type: ignore[attr-defined]


def test_nothing_else_prints() -> None:
    """click.echo, print and the streams are for the two modules that make text visible."""
    import ast

    root = Path(__file__).parent.parent.parent / "tools"
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                if call in ("print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"):
                    found.add(path.name)
    assert found == {"lines.py", "progress.py"}
