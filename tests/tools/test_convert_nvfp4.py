"""NVFP4 checkpoints through llama.cpp: the blocks and the factors beside them, and what the commands make of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from oracles import packed
from oracles.checkpoint_logits import cosine, llama_cpp_logits, transformers_logits
from oracles.tiny import save_tiny_llama
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.ir import Model

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
WEIGHTS = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "nvfp4-pack-quantized",
    "config_groups": {"group_0": {"weights": WEIGHTS, "targets": ["Linear"]}},
    "ignore": ["lm_head"],
}


def pack(name: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The layer's parts by llm-compressor's formulas, each with a factor of its own, and what they stand for."""
    top = weight.abs().max().float()
    factor = (448 * 6 / top).reshape(1)
    groups = weight.float().reshape(len(weight), -1, 16)
    scales = (groups.abs().amax(-1) / 6 * factor).to(torch.float8_e4m3fn)
    each = (scales.float() / factor)[..., None]
    index = ((groups / each).abs()[..., None] - E2M1).abs().argmin(-1)
    codes = (index | ((groups < 0) & (index > 0)).long() << 3).to(torch.uint8).reshape(len(weight), -1)
    dense = (E2M1[index] * groups.sign() * each).reshape(weight.shape)
    parts = {
        "weight_packed": codes[:, ::2] | codes[:, 1::2] << 4,
        "weight_scale": scales,
        "weight_global_scale": factor,
        "input_global_scale": torch.tensor([640.0]),
    }
    return parts, dense


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny") / "llama", layers=2, hidden=128)


@pytest.fixture
def checkpoint(llama: Path, tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A tiny Llama of NVFP4 layers, and the dense weights that it stands for."""
    return tmp_path / "m", packed.save_packed(llama, tmp_path / "m", CONFIG, pack)


def named(model: Model, name: str) -> Any:
    return next(tensor for tensor in model if tensor.name == name)


def test_blocks_and_factors_in_llama_cpp(
    checkpoint: tuple[Path, dict[str, torch.Tensor]], llama: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    folder, meant = checkpoint
    out = tmp_path / "out.gguf"
    result = cli("convert", folder, out)
    assert result.code == 0, result
    assert "14 weights read exactly as NVFP4" in result.err
    model = read_gguf(out)
    assert named(model, "blk.0.attn_q.weight").qtype.name == "NVFP4"
    scale = named(model, "blk.0.attn_q.scale")
    assert (scale.qtype.name, scale.shape) == ("F32", (1,))
    stored = load_file(folder / "model.safetensors")["model.layers.0.self_attn.q_proj.weight_global_scale"]
    assert scale.rows(0, 1).view("<f4")[0, 0] == np.float32(1) / np.float32(stored.item())
    assert named(model, "blk.0.attn_q.input_scale").rows(0, 1).view("<f4")[0, 0] == np.float32(1 / 640)

    theirs = transformers_logits(llama, meant)
    assert cosine(llama_cpp_logits(out), theirs) > 0.995  # it rounds activations to 8 bits
    assert cli("convert", folder, tmp_path / "f32.gguf", "--outtype", "f32").code == 0
    assert cosine(llama_cpp_logits(tmp_path / "f32.gguf"), theirs) > 0.99999


def test_back_to_floats_with_the_factor(
    checkpoint: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    folder, meant = checkpoint
    out, back = tmp_path / "out.gguf", tmp_path / "hf"
    assert cli("convert", folder, out).code == 0
    assert cli("convert", out, back).code == 0
    assert "quantization_config" not in json.loads((back / "config.json").read_text())
    found = load_file(back / "model.safetensors")
    assert set(found) == set(meant)
    for name, weight in meant.items():
        np.testing.assert_allclose(found[name].float().numpy(), weight.float().numpy(), rtol=2.5e-7, atol=0)
