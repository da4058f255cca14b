"""The list of architectures says what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from oracles.proofs import all_proofs, save_proof
from quantmill.formats.errors import FormatError, QuantmillError
from quantmill.formats.hf.archs import ARCHS
from quantmill.formats.hf.towers import TOWERS
from quantmill.tools.api.architectures import PROVEN
from quantmill.tools.api.checking import check_checkpoint
from quantmill.tools.archs import command

PROOF = Path(__file__).parent.parent / "formats" / "hf" / "test_archs.py"


def run(*words: str) -> str:
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_every_architecture_once() -> None:
    rows = json.loads(run("--json"))
    texts = [row for row in rows if row["kind"] == "text"]
    towers = [row for row in rows if row["kind"] == "tower"]
    assert sorted(row["name"] for row in texts) == sorted(arch.name for arch in ARCHS)
    assert sorted(row["name"] for row in towers) == sorted(tower.name for tower in TOWERS)
    assert len(rows) == len(texts) + len(towers)
    (llama,) = (row for row in rows if row["name"] == "llama")
    assert "MistralForCausalLM" in llama["hf_classes"]
    assert llama["proven"] == ["logits", "converter", "identity", "levels"]
    assert (llama["kind"], llama["proof"]) == ("text", "logits")
    assert all(row["proof"] in row["proven"] for row in rows)
    (gemma3,) = (row for row in towers if row["name"] == "gemma3")
    assert gemma3["hf_classes"] == ["Gemma3ForConditionalGeneration"]
    assert (gemma3["gguf"], gemma3["proof"]) == ("clip", "embeddings")
    text = run()
    assert all(arch.name in text and next(iter(arch.classes)) in text for arch in ARCHS)


def test_what_is_said_to_be_proven_is_tested() -> None:
    """Each word stands for a test over all of them."""
    files = (PROOF.name, "test_quantized_archs.py", "test_towers.py")
    source = "".join(PROOF.with_name(name).read_text() for name in files)
    for word, test in (
        ("embeddings", "test_llama_cpp_makes_the_same_of_an_image"),
        ("converter", "test_an_mmproj_file_is_that_of_llama_cpp_s_converter"),
        ("identity", "test_text_and_towers_give_the_checkpoint_back"),
        ("logits", "test_llama_cpp_computes_the_same"),
        ("converter", "test_the_file_is_that_of_llama_cpp_s_converter"),
        ("identity", "test_the_way_back_is_the_identity"),
        ("levels", "test_every_level_is_planned"),
        ("levels", "test_llama_cpp_runs_quantized_files"),
    ):
        assert word in PROVEN
        assert f"def {test}(" in source


def test_a_pattern() -> None:
    names = run("Qwen3", "--quiet").split()
    assert "qwen3" in names
    assert "llama" not in names
    assert run("mixtral", "--quiet") == "mixtral\n"
    assert run("nothing-like-it", "--quiet") == ""


@pytest.mark.parametrize(
    ("case", "proof", "towers", "lines"),
    [
        ("llama", "logits", (), ["the way back: the same checkpoint", "tokenizer: none here"]),
        ("bert", "logits", (), ["converts, as bert (BertModel; "]),
        (
            "falcon-h1",
            "converter",
            (),
            ["proven by llama.cpp's own converter alone", "the way back: refused: the model"],
        ),
        ("qwen3vl", "logits", ("qwen3vl_merger",), ["towers: qwen3vl_merger, which convert --mmproj writes"]),
        ("qwen35-tied", "logits", (), []),
    ],
)
def test_a_checkpoint_is_checked(
    case: str, proof: str, towers: tuple[str, ...], lines: list[str], tmp_path: Path
) -> None:
    save_proof(next(proof for proof in all_proofs() if proof.id == case), tmp_path)
    whole = check_checkpoint(tmp_path)
    alone = check_checkpoint(tmp_path / "config.json")
    assert (whole.weights, alone.weights) == (True, False)
    for found in (whole, alone):
        assert (found.proof, found.towers, found.tokenizer) == (proof, towers, None)
    assert (whole.name, whole.hf_class, whole.one_way) == (alone.name, alone.hf_class, alone.one_way)
    text = run("--check", str(tmp_path))
    assert all(line in text for line in lines)
    assert json.loads(run("--check", str(tmp_path), "--json"))["converts"] is True
    assert run("--check", str(tmp_path), "--quiet") == f"{whole.name}\n"
    (tmp_path / "model.safetensors").unlink()
    assert not check_checkpoint(tmp_path).weights


def test_what_would_be_left_out_is_said(tmp_path: Path) -> None:
    save_proof(next(proof for proof in all_proofs() if proof.id == "qwen3vl"), tmp_path)
    (line,) = check_checkpoint(tmp_path).said
    assert "left out, as the text model is computed without it: vision tower (" in line


def _another_class(config: dict[str, object]) -> None:
    config["architectures"] = ["GPTJForCausalLM"]
    config["model_type"] = "gptj"


def _contradicting(config: dict[str, object]) -> None:
    config["num_key_value_heads"] = 3


@pytest.mark.parametrize(
    ("change", "problem"),
    [(_another_class, "GPTJForCausalLM"), (_contradicting, "heads cannot share 3 key/value heads")],
)
def test_a_checkpoint_that_does_not_convert(
    change: Callable[[dict[str, object]], None], problem: str, tmp_path: Path
) -> None:
    save_proof(next(proof for proof in all_proofs() if proof.id == "llama"), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    for given in (tmp_path, path):
        with pytest.raises(FormatError) as error:
            check_checkpoint(given)
        assert problem in str(error.value)
        assert str(error.value).isprintable()


def test_what_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no config\.json"):
        check_checkpoint(tmp_path)
    result = CliRunner().invoke(command, ["llama", "--check", str(tmp_path)])
    assert isinstance(result.exception, QuantmillError)
    assert "PATTERN: has no effect" in str(result.exception)
