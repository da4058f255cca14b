"""``convert`` and ``quantize`` with GGML files: both ways, what is said on stderr, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from oracles.ggml_v3 import save_gqa_llama
from oracles.tiny import save_tiny_llama
from quantmill.formats.gguf.reader import read_gguf

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gqa_llama(tmp_path_factory.mktemp("ggml-cli") / "gqa")


def test_there_and_back(cli: Cli, folder: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "m.ggmlv3.q4_0.bin", tmp_path / "m.gguf"
    done = cli("convert", folder, old, "--outtype", "Q4_0")
    assert done.code == 0
    assert "n_gqa=4, rms_norm_eps=1e-05, rope_freq_base=10000" in done.err
    done = cli("convert", old, new, "--eps", "1e-5")
    assert done.code == 0
    assert "--eps" not in done.err
    assert "assumed --rope-base 10000" in done.err
    assert "assumed --context 4096" in done.err
    types = {tensor.name: tensor.qtype.name for tensor in read_gguf(new)}
    assert types["output.weight"] == "Q6_K"  # as the recipes of its day have it
    assert types["blk.0.ffn_down.weight"] == "Q4_0"
    assert cli("convert", new, tmp_path / "again.bin", "--quiet").err == ""
    assert (tmp_path / "again.bin").read_bytes() == old.read_bytes()


def test_to_hugging_face(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """GGML in F16 -> a checkpoint: the weights and the vocabulary of the one it was made from."""
    old, made = tmp_path / "m.bin", tmp_path / "hf"
    assert cli("convert", folder, old, "--quiet").code == 0
    assert cli("convert", old, made, "--eps", "1e-5", "--context", "512", "--quiet").code == 0
    ours, theirs = (load_file(path / "model.safetensors") for path in (made, folder))
    assert set(ours) == set(theirs)
    for name, weight in theirs.items():
        assert (ours[name].float() == weight.float()).all(), name
    config = json.loads((made / "config.json").read_text())
    before = json.loads((folder / "config.json").read_text())
    for key in ("hidden_size", "intermediate_size", "num_key_value_heads", "rms_norm_eps", "max_position_embeddings"):
        assert config[key] == before[key], key
    assert (made / "tokenizer.model").is_file()


def test_a_byte_level_vocabulary_is_warned_of(cli: Cli, folder: Path, tmp_path: Path) -> None:
    tiny = save_tiny_llama(tmp_path / "tiny", layers=1)
    bpe = tmp_path / "bpe"
    bpe.mkdir()
    for file in (
        tiny / "tokenizer.json",
        tiny / "tokenizer_config.json",
        *folder.glob("*.json"),
        *folder.glob("*.sa*"),
    ):
        shutil.copy(file, bpe)
    done = cli("convert", bpe, tmp_path / "m.bin")
    assert done.code == 0
    assert "warning: " in done.err
    assert "cannot hold a byte-level BPE's merges" in done.err
    assert "n_gqa=4" in done.err


def test_a_command_that_wants_gguf_names_the_one_that_reads_ggml(
    cli: Cli, refused: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    old = tmp_path / "m.bin"
    assert cli("convert", folder, old, "--quiet").code == 0
    said = refused("quantize", old, tmp_path / "q.gguf", "Q4_0")
    assert said.endswith("not GGUF but a GGML file (ggjt) of mid 2023 (convert reads it: convert FILE NEW.gguf)")


def test_quantize_names_the_file_as_was_the_custom(cli: Cli, folder: Path, tmp_path: Path) -> None:
    assert cli("convert", folder, tmp_path / "m-f16.gguf", "--outtype", "f16", "--quiet").code == 0
    assert cli("quantize", tmp_path / "m-f16.gguf", "Q4_0", "--to", "ggml", "--quiet").code == 0
    made = tmp_path / "m.ggmlv3.q4_0.bin"
    assert cli("quantize", tmp_path / "m-f16.gguf", tmp_path / "named.bin", "Q4_0", "--quiet").code == 0
    assert made.read_bytes() == (tmp_path / "named.bin").read_bytes()


def test_dry_runs_write_nothing(cli: Cli, folder: Path, tmp_path: Path) -> None:
    assert cli("convert", folder, tmp_path / "m.bin", "--outtype", "Q4_K_M", "--dry-run").code == 0
    assert not list(tmp_path.iterdir())


def test_refusals(cli: Cli, refused: Callable[..., str], folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "m.bin"
    assert cli("convert", folder, old, "--quiet").code == 0
    out = tmp_path / "m.gguf"
    assert "the file's shapes make it 4" in refused("convert", old, out, "--gqa", "2")
    assert "8 heads cannot be divided into groups of 3" in refused("convert", old, out, "--gqa", "3")
    assert "is for GGML files, and the source is not one" in refused("convert", folder, out, "--eps", "1e-6")
    assert "little-endian" in refused("convert", folder, tmp_path / "b.bin", "--big-endian", "--gguf-version", "3")
    assert "no type IQ4_XS" in refused(
        "convert", folder, tmp_path / "b.bin", "--outtype", "IQ4_XS", "--book", "current"
    )
    assert "unknown level" in refused("convert", folder, tmp_path / "b.bin", "--outtype", "IQ4_XS")
    narrow = save_tiny_llama(tmp_path / "narrow", layers=1)  # 64 wide, 128 between
    assert "128 is less than 170, the least that a GGML header can express" in refused(
        "convert", narrow, old, "--force"
    )
    for magic, words in ((b"lmgg", "without version"), (b"tjgg\x02\0\0\0", "version 2")):
        (tmp_path / "bad.bin").write_bytes(magic + bytes(64))
        assert words in refused("convert", tmp_path / "bad.bin", out)
