"""``convert``: its directions, its refusals, and its one-pass route; the real model is in ``test_flow.py``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from oracles.small_tokenizers import train_sentencepiece, write_folder
from quantmill.formats.gguf.reader import read_gguf, read_header

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bf16 Llama without a tokenizer."""
    torch.manual_seed(2)
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=320,
    )
    path = tmp_path_factory.mktemp("convert") / "tiny"
    LlamaForCausalLM(config).bfloat16().save_pretrained(path)
    return path


def matrix_types(path: Path) -> set[str]:
    return {tensor.qtype.name for tensor in read_gguf(path) if len(tensor.shape) > 1}


@pytest.mark.parametrize(
    ("outtype", "found"), [("auto", {"BF16"}), ("f16", {"F16"}), ("f32", {"F32"}), ("q8_0", {"Q8_0"})]
)
def test_outtypes(cli: Cli, folder: Path, tmp_path: Path, outtype: str, found: set[str]) -> None:
    out = tmp_path / "m.gguf"
    assert cli("convert", folder, out, "--outtype", outtype, "--quiet").code == 0
    assert matrix_types(out) == found
    vectors = {tensor.qtype.name for tensor in read_gguf(out) if len(tensor.shape) == 1}
    assert vectors == {"F32"}, "llama.cpp computes norms in F32"


def test_quantized_and_back(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """GGUF -> Hugging Face decodes, and undoes the rope permutation."""
    assert cli("convert", folder, tmp_path / "m.gguf", "--outtype", "Q8_0", "--quiet").code == 0
    assert cli("convert", tmp_path / "m.gguf", tmp_path / "back", "--quiet").code == 0
    old, new = load_file(folder / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        scale = tensor.float().abs().max()
        assert (tensor.float() - new[name].float()).abs().max() <= 0.01 * scale, name
    model = LlamaForCausalLM.from_pretrained(tmp_path / "back")
    assert model.config.num_key_value_heads == 2


@pytest.mark.parametrize(("version", "big"), [(2, False), (3, False), (3, True)])
def test_versions_and_byte_orders(cli: Cli, folder: Path, tmp_path: Path, version: int, big: bool) -> None:
    """GGUF to GGUF rewrites the file; the weights stay."""
    assert cli("convert", folder, tmp_path / "a.gguf", "--outtype", "Q4_K_M", "--quiet").code == 0
    options = ["--gguf-version", version, *(["--big-endian"] if big else [])]
    assert cli("convert", tmp_path / "a.gguf", tmp_path / "b.gguf", *options).code == 0
    header = read_header(tmp_path / "b.gguf")
    assert (header.version, header.byteorder) == (version, "big" if big else "little")
    for a, b in zip(read_gguf(tmp_path / "a.gguf"), read_gguf(tmp_path / "b.gguf"), strict=True):
        assert (a.name, a.qtype) == (b.name, b.qtype)
        assert np.array_equal(a.rows(0, a.n_rows), b.rows(0, b.n_rows)), a.name


def test_dry_run_writes_nothing(cli: Cli, folder: Path, tmp_path: Path) -> None:
    done = cli("convert", folder, tmp_path / "m.gguf", "--outtype", "Q4_K_M", "--dry-run")
    assert done.code == 0
    assert "blk.0.ffn_down.weight" in done.out
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_holds_floats_only(folder: Path, cli: Cli, refused: Callable[..., str], tmp_path: Path) -> None:
    assert cli("convert", folder, tmp_path / "a.gguf", "--quiet").code == 0
    line = refused("convert", tmp_path / "a.gguf", tmp_path / "back", "--outtype", "Q4_K_M")
    assert "Q4_K_M" in line
    assert "--outtype" in line


def test_a_folder_is_not_replaced_unasked(folder: Path, cli: Cli, refused: Callable[..., str], tmp_path: Path) -> None:
    assert cli("convert", folder, tmp_path / "a.gguf", "--quiet").code == 0
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "mine.txt").write_text("mine")
    assert "--force" in refused("convert", tmp_path / "a.gguf", tmp_path / "back")


def test_tokens_beyond_the_embedding(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """The refusal names the option, the option leaves them out and says so."""
    source = tmp_path / "longer"
    shutil.copytree(folder, source)
    write_folder(source, {"tokenizer.model": train_sentencepiece(400), "added_tokens.json": {"<x>": 400}})
    done = cli("convert", source, tmp_path / "m.gguf")
    assert done.code == 2
    assert "token 400 ('<x>') is beyond the embedding's 320 rows" in done.err
    assert "--drop-extra-tokens" in done.err
    assert not (tmp_path / "m.gguf").exists()
    done = cli("convert", source, tmp_path / "m.gguf", "--drop-extra-tokens")
    assert done.code == 0
    assert "left out tokens beyond the embedding's 320 rows: 320 (" in done.err
    tokens = read_gguf(tmp_path / "m.gguf").get("tokenizer.ggml.tokens")
    assert len(tokens) == 320
    done = cli("convert", tmp_path / "m.gguf", tmp_path / "n.gguf", "--drop-extra-tokens")
    assert (done.code, done.err.strip()) == (
        2,
        "convert: --drop-extra-tokens: is for a checkpoint's folder, and the source is not one",
    )


def test_what_is_left_out_is_said_once(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """On stderr, by every command that reads the folder; the JSON on stdout stays whole."""
    folder = Path(shutil.copytree(folder, tmp_path / "tiny"))
    weights = load_file(folder / "model.safetensors")
    tower = {"vision_tower.patch.weight": torch.ones(32, 32)}
    save_file(weights | tower, folder / "model.safetensors", metadata={"format": "pt"})
    line = f"{folder}: left out, as the text model is computed without it: vision tower (1 tensor, 4.1 kB)"
    for words in (
        ("convert", folder, tmp_path / "a.gguf"),
        ("convert", folder, tmp_path / "b.gguf", "--json"),
        ("convert", folder, tmp_path / "d.gguf", "--quiet"),
        ("convert", folder, tmp_path / "c.gguf", "--outtype", "q8_0", "--dry-run"),
        ("plan", folder, "Q8_0"),
        ("plan", folder, "Q8_0", "--json"),
    ):
        done = cli(*words)
        assert (done.code, done.err.count(line)) == (0, 1), words
        if "--json" in words:
            json.loads(done.out)


def test_links_out_of_the_folder(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """Weights on another disk: the refusal names the option, and with it the file is what it is without links."""
    source = tmp_path / "linked"
    source.mkdir()
    for path in folder.iterdir():
        (source / path.name).symlink_to(path)
    done = cli("convert", source, tmp_path / "m.gguf")
    assert done.code == 2
    assert done.err.strip().endswith(
        f"'config.json' is a link to {folder}/config.json, outside the folder"
        " (if you trust it, copy the file into the folder, or convert it with --follow-links)"
    )
    assert not (tmp_path / "m.gguf").exists()
    assert cli("convert", source, tmp_path / "m.gguf", "--follow-links").code == 0
    assert matrix_types(tmp_path / "m.gguf") == {"BF16"}
    done = cli("convert", tmp_path / "m.gguf", tmp_path / "n.gguf", "--follow-links")
    assert (done.code, done.err.strip()) == (
        2,
        "convert: --follow-links: is for a folder's files, and the source is not one (leave it out)",
    )
