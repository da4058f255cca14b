"""Bad input: one line that names the file, the place and the remedy; exit code 2; nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

Refused = Callable[..., str]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny Llama in two shards, F16, without a tokenizer."""
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=320,
    )
    folder = tmp_path / "tiny"
    LlamaForCausalLM(config).half().save_pretrained(folder, max_shard_size="2MB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture
def f16(checkpoint: Path, tmp_path: Path, cli: Callable[..., object]) -> Path:
    path = tmp_path / "tiny-f16.gguf"
    cli("convert", checkpoint, path, "--outtype", "f16", "--quiet")
    assert path.exists()
    return path


def rewrite_shard(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """Change the tensors of a checkpoint's first shard."""
    shard = min(folder.glob("*.safetensors"))
    tensors = load_file(shard)
    change(tensors)
    save_file(tensors, shard, metadata={"format": "pt"})
    return shard


def test_missing_shard(checkpoint: Path, tmp_path: Path, refused: Refused) -> None:
    gone = max(checkpoint.glob("*.safetensors"))
    gone.unlink()
    line = refused("convert", checkpoint, tmp_path / "out.gguf")
    assert gone.name in line
    assert str(checkpoint) in line


def test_truncated_safetensors(checkpoint: Path, tmp_path: Path, refused: Refused) -> None:
    shard = min(checkpoint.glob("*.safetensors"))
    os.truncate(shard, shard.stat().st_size - 1000)
    line = refused("convert", checkpoint, tmp_path / "out.gguf")
    assert str(shard) in line
    assert "truncated" in line
    assert f"the file has {shard.stat().st_size}" in line


def test_truncated_gguf(f16: Path, refused: Refused) -> None:
    os.truncate(f16, f16.stat().st_size - 5000)
    line = refused("quantize", f16, "Q4_K_M")
    assert str(f16) in line
    assert "5000 bytes" in line or "missing" in line


def test_wrong_magic(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    line = refused("quantize", path, "Q4_K_M")
    assert str(path) in line
    assert "zip" in line


def test_gguf_version_1(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IIQ", 1, 0, 0) + bytes(64))
    line = refused("quantize", path, "Q4_K_M")
    assert str(path) in line
    assert "version 1" in line


def test_unknown_architecture(checkpoint: Path, tmp_path: Path, refused: Refused) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["architectures"] = ["LamaForCausalLM"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    line = refused("convert", checkpoint, tmp_path / "out.gguf")
    assert "LamaForCausalLM" in line
    assert "LlamaForCausalLM" in line, "the nearest known one"


def test_unmatched_tensor(checkpoint: Path, tmp_path: Path, refused: Refused) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.mlp.extra_proj.weight"] = torch.zeros(4, 4)

    shard = rewrite_shard(checkpoint, add)
    index = next(checkpoint.glob("*.index.json"))
    entries = json.loads(index.read_text())
    entries["weight_map"]["model.layers.0.mlp.extra_proj.weight"] = shard.name
    index.write_text(json.dumps(entries))
    line = refused("convert", checkpoint, tmp_path / "out.gguf")
    assert "model.layers.0.mlp.extra_proj.weight" in line


def test_duplicate_tensor(checkpoint: Path, tmp_path: Path, refused: Refused) -> None:
    first, second = sorted(checkpoint.glob("*.safetensors"))[:2]
    name, tensor = next(iter(load_file(second).items()))
    rewrite_shard(checkpoint, lambda tensors: tensors.update({name: tensor}))
    line = refused("convert", checkpoint, tmp_path / "out.gguf")
    assert name in line
    assert first.name in line
    assert second.name in line


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("level", ["f16", "Q4_K_M", "Q8_0"])
def test_weight_that_is_not_finite(checkpoint: Path, tmp_path: Path, refused: Refused, bad: float, level: str) -> None:
    """Every route looks: the float conversion, too."""
    name = "model.layers.1.mlp.down_proj.weight"

    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][3, 7] = bad

    for shard in checkpoint.glob("*.safetensors"):
        tensors = load_file(shard)
        if name in tensors:
            damage(tensors)
            save_file(tensors, shard, metadata={"format": "pt"})
    line = refused("convert", checkpoint, tmp_path / "out.gguf", "--outtype", level, "--quiet")
    assert name in line
    assert "[3, 7]" in line
    assert ("nan" if np.isnan(bad) else "inf") in line.lower()


def test_index_of_a_weight_whose_row_moved(checkpoint: Path, tmp_path: Path, refused: Refused) -> None:
    """Query rows are interleaved for GGML's rope: row 3 of a head's 64 becomes row 6, of the tensor that is named."""
    name = "model.layers.0.self_attn.q_proj.weight"
    for shard in checkpoint.glob("*.safetensors"):
        tensors = load_file(shard)
        if name in tensors:
            tensors[name][3, 7] = np.nan
            save_file(tensors, shard, metadata={"format": "pt"})
    line = refused("convert", checkpoint, tmp_path / "out.gguf", "--outtype", "f16", "--quiet")
    assert f"{name}, as blk.0.attn_q.weight: weight [6, 7] is nan" in line


def test_unknown_level(f16: Path, refused: Refused) -> None:
    line = refused("quantize", f16, "Q4_KM")
    assert "'Q4_KM'" in line
    assert "did you mean Q4_K_M?" in line


def test_output_exists(f16: Path, tmp_path: Path, refused: Refused) -> None:
    out = tmp_path / "out.gguf"
    out.write_text("mine")
    line = refused("quantize", f16, out, "Q4_K_M", "--quiet")
    assert str(out) in line
    assert "--force" in line


def test_full_disk(f16: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before any work, by asking the file system; a file system that lies is met by the next test."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    line = refused("quantize", f16, tmp_path / "out.gguf", "Q4_K_M", "--quiet")
    assert "out.gguf" in line
    assert "1.0 kB" in line


def test_disk_that_fills_while_we_write(
    f16: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: object, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    line = refused("quantize", f16, tmp_path / "out.gguf", "Q4_K_M", "--quiet")
    assert "not enough room" in line


def test_metadata_key_that_is_not_there(f16: Path, refused: Refused) -> None:
    line = refused("gguf-set-metadata", f16, "llama.block_cuont", "3")
    assert str(f16) in line
    assert "llama.block_count" in line, "the nearest"


def test_no_such_file(tmp_path: Path, refused: Refused) -> None:
    for name, args in {
        "quantize": ["Q4_K_M"],
        "convert": [tmp_path / "x.gguf"],
        "gguf-set-metadata": ["general.name", "x"],
    }.items():
        line = refused(name, tmp_path / "nothing.gguf", *args)
        assert "nothing.gguf" in line
