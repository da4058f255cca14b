from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from oracles.gguf_samples import METADATA, every_type
from quantmill.formats.errors import QuantmillError
from quantmill.formats.gguf.reader import read_header
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.ir import Model
from quantmill.tools.set_metadata import command


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "m.gguf", Model("llama", METADATA, every_type(), tmp_path))
    return tmp_path / "m.gguf"


def run(*args: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in args], catch_exceptions=False)


def test_a_short_form_in_place(path: Path) -> None:
    result = run(path, "eos_token_id", 3)
    assert result.output == "tokenizer.ggml.eos_token_id: 2 '</s>' -> 3 'a'\nwritten in place\n"
    assert read_header(path).metadata["tokenizer.ggml.eos_token_id"].data == 3
    assert "nothing to change" in run(path, "eos_token_id", 3).output


def test_dry_run(path: Path) -> None:
    before = path.read_bytes()
    result = run(path, "name", "a much longer name than before, and longer than any padding", "--dry-run")
    assert "general.name: 'tiny' -> 'a much longer" in result.output
    assert "dry run: nothing written; would be written as a new file" in result.output
    assert path.read_bytes() == before


def test_arrays_files_and_removal(path: Path, tmp_path: Path) -> None:
    run(path, "a.strings", '["x", "y z"]')
    assert read_header(path).metadata["a.strings"].data == ("x", "y z")
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}é{% endfor %}\n" * 9000)
    run(path, "chat_template", "--value-file", template, "--force")
    assert read_header(path).metadata["tokenizer.chat_template"].data == template.read_text()
    assert "-> -" in run(path, "chat_template", "--remove").output
    assert "tokenizer.chat_template" not in read_header(path).metadata


def test_a_missing_key_needs_force_or_a_type(path: Path) -> None:
    with pytest.raises(QuantmillError, match="no such key") as caught:
        run(path, "tokenizer.ggml.eot_token_id", 3)
    assert "did you mean tokenizer.ggml.eos_token_id" in str(caught.value)
    assert "--force adds it as uint32" in str(caught.value)
    run(path, "eot_token_id", 3, "--force")
    run(path, "my.key", 3, "--type", "uint16")
    metadata = read_header(path).metadata
    assert [(metadata[k].type.name, metadata[k].data) for k in ("tokenizer.ggml.eot_token_id", "my.key")] == [
        ("UINT32", 3),
        ("UINT16", 3),
    ]


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["eos_token_id", "4"], "token 4 is outside the vocabulary of 4"),
        (["a.u8", "256"], "outside uint8"),
        (["a.bool", "maybe"], "'maybe' is not a valid bool"),
        (["eos_token_id", "x", "--type", "string"], "llama.cpp requires uint32"),
        (["my.key", "1"], r"--type TYPE adds it"),
        (["my.key", "1", "--force"], "give it with --type"),
        (["my.key", "1", "--type", "u33"], "unknown metadata type"),
        (["nothing", "--remove"], "no such key"),
        (["general.alignment", "64", "--type", "u32"], "cannot be edited"),
    ],
)
def test_refusals_change_nothing(path: Path, args: list[str], problem: str) -> None:
    before = path.read_bytes()
    with pytest.raises(QuantmillError, match=problem):
        run(path, *args)
    assert path.read_bytes() == before


@pytest.mark.parametrize("args", [["name"], ["name", "x", "--remove"], ["name", "x", "--value-file", "y"]])
def test_usage(path: Path, args: list[str]) -> None:
    assert run(path, *args).exit_code == 2


def test_the_command_ends_with_2_and_one_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])
    tool = Path(sys.executable).parent / "gguf-set-metadata"
    done = subprocess.run([tool, path, "name", "x"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "truncated" in done.stderr
    assert str(path) in done.stderr
