from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from oracles.gguf_samples import METADATA, every_type
from quantmill.formats.errors import QuantmillError
from quantmill.formats.examples import tiny_llama
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


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that llama.cpp loads."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny_llama(width=64))
    return path


@pytest.mark.parametrize(
    ("args", "stored"),
    [
        (["a.key", "-1", "--type", "int32"], -1),
        (["--type", "int8", "a.key", "-5"], -5),
        (["a.key", "-1.5e3", "--type", "float32"], -1500.0),
        (["a.key", "-.5", "--type", "float64"], -0.5),
        (["a.key", "-1", "--type", "string"], "-1"),
        (["--type", "string", "--", "a.key", "-x"], "-x"),
        (["a.key", "-inf", "--type", "float32", "--force"], float("-inf")),
        (["a.key", "1e-60", "--type", "float64"], 1e-60),
        (["a.key", "0e9", "--type", "float32"], 0.0),
        (["a.key", "18446744073709551615", "--type", "uint64"], 2**64 - 1),
        (["general.alignment", "32", "--force"], 32),
        (["head_count", "[1]", "--type", "uint32[]"], [1]),  # one for each layer
        (["eos_token_id", "<0x0A>"], 13),  # by the token, as gguf_new_metadata's --special-token
        (["eos_token_id", "0x0A"], 10),
        (["tokenizer.ggml.new_token_id", "7", "--force"], 7),
        (["tokenizer.chat_template.tools", "x", "--force"], "x"),
        (["general.base_model.0.name", "x", "--force"], "x"),
    ],
)
def test_values(model: Path, args: list[str], stored: object) -> None:
    assert run(model, *args).exit_code == 0
    metadata = read_header(model).metadata
    names = {"head_count": "llama.attention.head_count", "eos_token_id": "tokenizer.ggml.eos_token_id"}
    (key,) = [key for key in (names.get(word, word) for word in args) if key in metadata]
    data = metadata[key].data
    assert (data.tolist() if hasattr(data, "tolist") else data) == stored


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["context_length", "-1"], "llama.context_length: -1 is outside uint32"),
        (["rope.freq_base", "1e400"], "llama.rope.freq_base: '1e400' is not a valid float32"),
        (["rope.freq_base", "1e400", "--force"], "is not a valid float32"),
        (["rope.freq_base", "1e-60"], "'1e-60' is not a valid float32"),
        (["a.f", "-1e400", "--type", "float64"], "'-1e400' is not a valid float64"),
        (["a.f", "[1.0, 1e400]", "--type", "float64[]"], r"a.f\[1\]: '1e400' is not a valid float64"),
        (["rope.freq_base", "nan"], "llama.rope.freq_base: is nan .--force"),
        (["a.n", "[NaN]", "--type", "float32[]"], "entry 0 is nan"),
        (["a.x", "9" * 40, "--type", "uint64"], "is not a valid uint64"),
        (["a.x", "4294967296", "--type", "uint32"], "is outside uint32"),
        (["a.x", "[1, 300]", "--type", "uint8[]"], r"a.x\[1\]: 300 is outside uint8"),
        (["a.x", "[[1]]", "--type", "uint32[]"], "is not a valid uint32"),
        (["a b", "1", "--type", "uint8"], "not made of words"),
        (["general.alignment", "0", "--type", "uint32"], "cannot be edited"),
        (["general.alignment", "3", "--type", "uint32"], "cannot be edited"),
        (["general.architecture", "lama"], "knows no architecture 'lama'; did you mean llama?"),
        (["general.architecture", "qwen2"], "qwen2.context_length: is missing"),
        (["general.name", "my phi-3", "--type", "string"], "takes 'my phi-3' for a Phi-3 by its name"),
        (["tokenizer.ggml.model", "sentence"], "knows no tokenizer 'sentence'"),
        (["tokenizer.ggml.model", "gpt2"], "a gpt2 tokenizer needs merges"),
        (["block_count", "0"], "is 0, not 1 to 512"),
        (["rope.dimension_count", "32"], "is 32; a head has 64"),
        (["head_count", "[1, 1]", "--type", "uint32[]"], "has 2 entries for 1 layers"),
        (["block_count", "[1]", "--type", "uint32[]"], "llama.cpp requires uint32 here"),
        (["llama.rope.scaling.type", "ntk", "--type", "string"], "'ntk' is none of"),
        (["llama.expert_count", "4", "--type", "uint32"], "is 0 of 4 experts"),
        (["eos_token_id", "287"], "token 287 is outside the vocabulary of 287"),
        (["eos_token_id", "nope"], "no token is 'nope'"),
        (["tokenizer.ggml.new_token_id", "7", "--type", "string"], "llama.cpp requires uint32"),
        (["tokenizer.chat_template.tools", "7", "--type", "uint32"], "llama.cpp requires string"),
        (["general.base_model.0.name", "7", "--type", "uint32"], "llama.cpp requires string"),
        (["tokenizer.ggml.tokens", "--remove"], "is missing, though there is a tokenizer"),
        (["tokenizer.ggml.model", "--remove"], "is missing; llama.cpp refuses the file"),
        (["llama.context_length", "--remove"], "is missing; llama.cpp refuses the file"),
    ],
)
def test_a_file_that_llama_cpp_would_not_load(model: Path, args: list[str], problem: str) -> None:
    before = model.read_bytes()
    with pytest.raises(QuantmillError, match=problem) as caught:
        run(model, *args)
    assert str(caught.value).startswith(f"{model}: ")
    assert model.read_bytes() == before


def test_repeated_tokens(model: Path) -> None:
    texts = list(read_header(model).metadata["tokenizer.ggml.tokens"].texts)
    texts[-1] = texts[-2]
    with pytest.raises(QuantmillError, match="1 tokens occur twice, such as"):
        run(model, "tokenizer.ggml.tokens", json.dumps(texts))
    run(model, "tokenizer.ggml.tokens", json.dumps(texts), "--force")
    with pytest.raises(QuantmillError, match=r"tokens 285, 286 are"):
        run(model, "eos_token_id", texts[-1])


def test_what_was_wrong_before_is_no_obstacle(model: Path) -> None:
    run(model, "tokenizer.ggml.bos_token_id", 1, "--type", "int32", "--force")
    assert "-> 512" not in run(model, "context_length", 256).output
    shown = run(model, "bos_token_id", 2).output  # the type that the key has, not the one in the file
    assert "1 '<s>' (int32) -> 2 '</s>' (uint32)" in shown
    assert read_header(model).metadata["tokenizer.ggml.bos_token_id"].type.name == "UINT32"


def test_options_are_no_values(model: Path) -> None:
    assert run(model, "name", "--forse").exit_code == 2
    assert run(model, "a.key", "-1", "-2", "--type", "int8").exit_code == 2
    assert run(model, "a.key", "1", "-2", "--type", "int8").exit_code == 2


def test_a_file_named_in_capitals(model: Path) -> None:
    loud = model.rename(model.with_name("TINY.GGUF"))
    assert "written" in run(loud, "context_length", 256).output
