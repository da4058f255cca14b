"""GPTQ's and AWQ's codes as compressed-tensors: the folder, what its own library makes of it, and mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from oracles.gptq import Client
from oracles.llama import Llama
from oracles.quantized import TOKENS, decoded, logits, run, save
from oracles.tiny import TEXT, save_tiny_llama
from quantmill.quantize.gptq.layer import GPTQWeight
from quantmill.tools.convert import command as convert

COMMON = ("-c", 64, "--chunks", 4, "--group-size", 32, "--threads", 1, "--quiet", "--format", "compressed-tensors")
CASES: dict[str, tuple[str, str, tuple[object, ...]]] = {
    "symmetric": ("llama", "gptq", ()),
    "asymmetric, 8 bits": ("llama", "gptq", ("--asym", "--bits", 8)),
    "a row": ("llama", "gptq", ("--group-size", -1)),
    "in another order": ("llama", "gptq", ("--static-groups", "--desc-act")),
    "awq": ("llama", "awq", ()),
    "awq of rows, symmetric": ("llama", "awq", ("--sym", "--group-size", -1)),
    "bfloat16": ("bf16", "gptq", ()),
    "awq in bfloat16": ("bf16", "awq", ()),
    "qwen3moe": ("qwen3moe", "gptq", ()),
    "mixtral": ("mixtral", "gptq", ("--bits", 8)),
    "awq of qwen3moe": ("qwen3moe", "awq", ("--sym",)),
    "awq of mixtral": ("mixtral", "awq", ("--sym",)),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 20)
    return path


def model(name: str, folder: Path) -> Path:
    if name not in ("llama", "bf16"):
        return save(name, folder)
    save_tiny_llama(folder, layers=2)
    if name == "bf16":
        tensors = {key: tensor.bfloat16() for key, tensor in load_file(folder / "model.safetensors").items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sym", ["--sym", "--asym"])
def test_the_folder(bits: int, sym: str, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our reader gives the weights that the run computed with, to the bit."""
    made: dict[str, torch.Tensor] = {}
    decode = GPTQWeight.decode

    def keep(self: GPTQWeight) -> Any:
        found = decode(self)
        made[str(len(made))] = torch.from_numpy(found.copy())
        return found

    monkeypatch.setattr(GPTQWeight, "decode", keep)
    folder, out = model("llama", tmp_path / "model"), tmp_path / "out"
    found = json.loads(run("gptq", folder, out, "-f", text, *COMMON, "--bits", bits, sym, "--json").stdout)
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert not (out / "quantize_config.json").exists()
    assert (config["quant_method"], config["format"], config["ignore"]) == (
        "compressed-tensors", "pack-quantized", ["lm_head"],
    )  # fmt: skip
    weights = config["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["group_size"], weights["symmetric"]) == (bits, 32, sym == "--sym")
    parts = {name.rpartition(".")[2] for name in load_file(out / "model.safetensors") if "weight_" in name}
    zeros = {"weight_zero_point"} if sym == "--asym" else set()
    assert parts == {"weight_packed", "weight_scale", "weight_shape"} | zeros
    back = load_file(decoded(out, tmp_path / "back") / "model.safetensors")
    assert len(made) == len(found["linears"]) == 14
    for row, weight in zip(found["linears"], made.values(), strict=True):
        assert torch.equal(back[f"{row['name']}.weight"], weight), row["name"]


def test_scales_have_the_checkpoints_own_type(tmp_path: Path, text: Path) -> None:
    folder = model("bf16", tmp_path / "model")
    for method in ("gptq", "awq"):
        run(method, folder, tmp_path / method, "-f", text, *COMMON)
        tensors = load_file(tmp_path / method / "model.safetensors")
        scales = [tensor for name, tensor in tensors.items() if name.endswith("weight_scale")]
        assert {str(tensor.dtype) for tensor in scales} == {"torch.bfloat16"}
        back = load_file(decoded(tmp_path / method, tmp_path / f"{method}-back") / "model.safetensors")
        exact = load_file(folder / "model.safetensors")
        name = "model.layers.1.mlp.down_proj.weight"
        assert (back[name] - exact[name].float()).square().mean() < 0.05 * exact[name].float().square().mean()


def test_experts_go_to_gguf(tmp_path: Path, text: Path) -> None:
    """Converted to GGUF, llama.cpp computes what transformers does of our decode."""
    from click.testing import CliRunner

    run("gptq", save("qwen3moe", tmp_path / "model"), tmp_path / "out", "-f", text, *COMMON)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == ["lm_head", "model.layers.0.mlp.gate", "model.layers.1.mlp.gate"]
    args = [str(tmp_path / "out"), str(tmp_path / "out.gguf"), "--outtype", "f32"]
    done = CliRunner().invoke(convert, args, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    wanted = logits(decoded(tmp_path / "out", tmp_path / "back")).numpy()
    with Llama(tmp_path / "out.gguf") as llama:
        found = llama.logits(TOKENS)
    similarity = torch.nn.functional.cosine_similarity(torch.from_numpy(found), torch.from_numpy(wanted))
    assert similarity.min() > 0.9999


def test_one_line_for_each_mistake(refused: Callable[..., str], tmp_path: Path, text: Path) -> None:
    llama, experts = model("llama", tmp_path / "llama"), save("qwen3moe", tmp_path / "experts")

    def line(method: str, source: Path, *more: object) -> str:
        return refused(method, source, tmp_path / "out", "-f", text, "-c", 64, "--format", "compressed-tensors", *more)

    assert "keeps no order of inputs, which --desc-act needs (--static-groups" in line("gptq", llama, "--desc-act")
    assert "of 4 and 8 bits, not of 3 (--bits 4 or 8, or --format gptq)" in line("gptq", llama, "--bits", 3)
    assert "vLLM reads no groups of 16" in line("gptq", llama, "--group-size", 16)
    assert "groups of 128 do not divide its 64 inputs (--group-size 64)" in line("gptq", llama)
    zeros = "experts.0.gate_proj: transformers leaves the zero points of experts in compressed-tensors out"
    assert zeros in line("gptq", experts, "--group-size", 32, "--asym")
    assert zeros in line("awq", experts, "--group-size", 32)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_its_library_computes_what_we_decode(client: Client, case: str, tmp_path: Path, text: Path) -> None:
    name, method, options = CASES[case]
    run(method, model(name, tmp_path / "model"), tmp_path / "out", "-f", text, *COMMON, *options)
    rounded = {"llama": torch.float32, "bf16": torch.bfloat16}.get(name, torch.float16)  # as the weights' own type
    wanted = logits(decoded(tmp_path / "out", tmp_path / "back"), rounded).numpy()
    found = client.logits(tmp_path / "out", TOKENS, {"dequantize": True}, kind="compressed")
    np.testing.assert_allclose(found, wanted, atol=1e-4 * max(1.0, float(np.abs(wanted).max())))
