"""The list of architectures says what is there."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from quantmill.formats.hf.archs import ARCHS
from quantmill.formats.hf.towers import TOWERS
from quantmill.tools.api.architectures import PROVEN
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
    source = PROOF.read_text() + PROOF.with_name("test_towers.py").read_text()
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
