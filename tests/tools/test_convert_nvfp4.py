"""NVFP4 checkpoints through llama.cpp: the blocks and the factors beside them, and what the commands make of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from oracles import packed
from oracles.checkpoint_logits import cosine, llama_cpp_logits, transformers_logits
from oracles.tiny import save_tiny_llama
from quantmill import diff, verify
from quantmill.formats.arrays import tensor_from_array
from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.scaled_roles import SCALED_ROLES
from quantmill.formats.ir import Model
from quantmill.quantize.decode import as_float

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


def test_commands_take_the_factors_for_part_of_the_weights(
    checkpoint: tuple[Path, dict[str, torch.Tensor]], llama: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    """Quantized again, the blocks change and the factors stay, as llama-quantize leaves them: the same model."""
    folder, meant = checkpoint
    out, again = tmp_path / "out.gguf", tmp_path / "q8.gguf"
    assert cli("convert", folder, out).code == 0
    refused = cli("quantize", out, again, "Q8_0")
    assert (refused.code, "--allow-requantize" in refused.err) == (2, True)
    assert cli("quantize", out, again, "Q8_0", "--allow-requantize").code == 0
    model = read_gguf(again)
    assert {tensor.qtype.name for tensor in model if tensor.name.endswith("attn_q.weight")} == {"Q8_0"}
    before, after = (named(one, "blk.1.ffn_up.scale").rows(0, 1).tobytes() for one in (read_gguf(out), model))
    assert before == after
    assert cosine(llama_cpp_logits(again), transformers_logits(llama, meant)) > 0.995

    differences = diff(out, again, values=True)
    assert {change.name.rpartition(".")[2] for change in differences.tensors} == {"weight"}
    assert 0 < differences.errors["blk.0.attn_q.weight"].rmse < 0.01
    found = verify(again, folder, max_rmse=0.01)
    assert (found.ok, found.failures) == (True, ())
    assert verify(out, folder, max_rmse=0.0).ok
    assert cli("inspect", out).code == cli("plan", out, "Q4_K_M").code == cli("verify", "--strict", out).code == 0

    wanted = meant["model.layers.0.mlp.down_proj.weight"].numpy()
    decoded = named(as_float(model), "blk.0.ffn_down.weight")
    found_rows = decoded.rows(0, decoded.n_rows).view(np.float32)
    assert np.abs(found_rows - wanted).max() < 0.01 * np.abs(wanted).max()


def test_a_factor_that_is_none(
    checkpoint: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    out = tmp_path / "out.gguf"
    assert cli("convert", checkpoint[0], out).code == 0
    model = read_gguf(out)
    wrong = tensor_from_array("blk.0.attn_q.scale", np.ones(3, np.float32))
    tensors = tuple(wrong if tensor.name == wrong.name else tensor for tensor in model)
    with pytest.raises(FormatError, match=r"blk.0.attn_q.scale: F32 \[3\] is not a factor for \[64, 128\] weights"):
        as_float(replace(model, tensors=tensors))


def experts(folder: Path) -> Path:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=2, max_position_embeddings=128,
        initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(5)
    MixtralForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_stack_of_experts_has_a_factor_for_each(tmp_path: Path, cli: Callable[..., Any]) -> None:
    source = experts(tmp_path / "dense")
    meant = packed.save_packed(source, tmp_path / "m", CONFIG, pack)
    out = tmp_path / "out.gguf"
    result = cli("convert", tmp_path / "m", out)
    assert (result.code, "26 weights read exactly as NVFP4" in result.err) == (0, True), result
    model = read_gguf(out)
    assert (named(model, "blk.0.ffn_down_exps.weight").qtype.name) == "NVFP4"
    assert named(model, "blk.0.ffn_down_exps.scale").shape == (3,)
    values = named(model, "blk.0.ffn_down_exps.scale").rows(0, 1).view("<f4")
    assert len(set(values.reshape(-1).tolist())) == 3
    theirs = transformers_logits(source, meant)
    assert cosine(llama_cpp_logits(out), theirs) > 0.99
    assert cli("convert", tmp_path / "m", out, "--outtype", "f32", "--force").code == 0
    assert cosine(llama_cpp_logits(out), theirs) > 0.99999
    assert cli("convert", out, tmp_path / "hf").code == 0
    found = load_file(tmp_path / "hf" / "model.safetensors")
    for name, weight in meant.items():
        np.testing.assert_allclose(found[name].float().numpy(), weight.float().numpy(), rtol=2.5e-7, atol=0)


def turned(folder: Path) -> Path:
    """Layers that are stored [in, out]; packed they are as everywhere."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=320, n_embd=64, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2)
    torch.manual_seed(7)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_turned_layers_and_feed_forward_layers_with_biases(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """GPT-2's: attention stays in NVFP4, turned; llama.cpp would multiply the biases of the others, too."""
    source = turned(tmp_path / "dense")

    def of_layer(name: str, weight: torch.Tensor) -> Any:
        parts, dense = pack(name, weight.T.contiguous())
        return parts, dense.T.contiguous()

    meant = packed.save_packed(source, tmp_path / "m", CONFIG, of_layer)
    out = tmp_path / "out.gguf"
    result = cli("convert", tmp_path / "m", out)
    assert result.code == 0, result
    assert "4 weights of NVFP4 are decoded, as llama.cpp applies no factor to them: blk.0.ffn_up.weight, " in result.err
    found = {tensor.name: tensor.qtype.name for tensor in read_gguf(out)}
    assert (found["blk.0.attn_qkv.weight"], found["blk.0.ffn_up.weight"]) == ("NVFP4", "F16")
    assert cli("convert", tmp_path / "m", out, "--outtype", "f32", "--force").code == 0
    assert cosine(llama_cpp_logits(out), transformers_logits(source, meant)) > 0.99999


def test_without_a_place_for_the_factor_weights_are_decoded(
    checkpoint: tuple[Path, dict[str, torch.Tensor]], llama: Path, tmp_path: Path, cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As for an architecture whose graph in llama.cpp does not multiply with it."""
    monkeypatch.setitem(SCALED_ROLES, "llama", "attn_q attn_k attn_v attn_output")
    folder, meant = checkpoint
    out = tmp_path / "out.gguf"
    result = cli("convert", folder, out, "--outtype", "f32")
    said = "6 weights of NVFP4 are decoded, as llama.cpp applies no factor to them: blk.0.ffn_down.weight, "
    assert said in result.err
    names = {tensor.name for tensor in read_gguf(out)}
    assert "blk.0.attn_q.scale" in names
    assert "blk.0.ffn_up.scale" not in names
    assert cosine(llama_cpp_logits(out), transformers_logits(llama, meant)) > 0.99999
