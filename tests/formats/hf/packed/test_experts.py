"""Packed experts: one by one, as GPTQModel and AutoAWQ write them, and with scales of all, as transformers does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    FineGrainedFP8Config,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.quantizers.quantizer_finegrained_fp8 import FineGrainedFP8HfQuantizer

from oracles import packed
from oracles.checkpoint_logits import cosine, llama_cpp_logits, transformers_logits
from oracles.tiny import save_tiny_llama
from quantmill.formats.errors import FormatError
from quantmill.formats.floats import to_f32
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.tables.packed_tensors import unpack_blocks
from quantmill.formats.ir import Model
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import make_plan

SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "num_experts_per_tok": 2, "initializer_range": 0.3,
}  # fmt: skip
MODELS: dict[str, Any] = {
    "qwen3moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, moe_intermediate_size=96, num_experts=4, norm_topk_prob=True)
    ),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4)),
}


@pytest.fixture(scope="module", params=MODELS)
def moe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_llama(tmp_path_factory.mktemp("moe") / request.param)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(4)
    MODELS[request.param]().half().save_pretrained(folder)
    return folder


def gptq(name: str, weight: torch.Tensor) -> Any:
    codes, zeros, scales = packed.round_to_grid(weight, 32, 4)
    group = packed.groups(weight.shape[1], 32)
    return packed.gptq(codes, zeros, scales, group, 4), packed.dense(codes, zeros, scales, group)


def awq(name: str, weight: torch.Tensor) -> Any:
    codes, zeros, scales = packed.round_to_grid(weight, 32, 4, symmetric=False)
    return packed.awq_gemm(codes, zeros, scales), packed.dense(codes, zeros, scales, packed.groups(weight.shape[1], 32))


METHODS: dict[str, Any] = {
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq"}, gptq, "Q4_0"),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, awq, "Q5_0"),
}
_RUNNING = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}  # GPTQModel 7.7 saves Mixtral as it runs


def as_it_runs(name: str) -> str:
    name = name.replace("block_sparse_moe", "mlp")
    return re.sub(r"\.(w[123])\.", lambda found: f".{_RUNNING[found[1]]}.", name)


def values(model: Model) -> dict[str, np.ndarray[Any, Any]]:
    return {t.name: to_f32(np.ascontiguousarray(t.rows(0, t.n_rows)), t.qtype) for t in map(unpack_blocks, model)}


@pytest.mark.parametrize("names", [str, as_it_runs], ids=["as published", "as it runs"])
@pytest.mark.parametrize("method", METHODS)
def test_one_by_one(method: str, names: Callable[[str], str], moe: Path, tmp_path: Path) -> None:
    config, pack, type = METHODS[method]
    meant = packed.save_packed(moe, tmp_path / "packed", config, pack)
    stored = load_file(tmp_path / "packed" / "model.safetensors")
    assert sum(".experts." in name and name.endswith("qweight") for name in stored) == 2 * 4 * 3
    save_file({names(name): part for name, part in stored.items()}, tmp_path / "packed" / "model.safetensors")
    shutil.copytree(moe, tmp_path / "plain")
    save_file({name: weight.float() for name, weight in meant.items()}, tmp_path / "plain" / "model.safetensors")
    model = read_hf(tmp_path / "packed")
    experts = {t.name: (t.qtype.name, t.shape[0]) for t in model if "_exps" in t.name}
    assert len(experts) == 6
    assert set(experts.values()) == {(type, 4)}
    ours, theirs = values(model), values(read_hf(tmp_path / "plain"))
    assert ours.keys() == theirs.keys()
    for name, wanted in theirs.items():
        np.testing.assert_array_equal(ours[name], wanted, err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_through_llama_cpp(method: str, moe: Path, tmp_path: Path) -> None:
    config, pack, _ = METHODS[method]
    meant = packed.save_packed(moe, tmp_path / "packed", config, pack)
    execute(make_plan(read_hf(tmp_path / "packed"), "F32"), tmp_path / "out.gguf", threads=1)
    assert cosine(llama_cpp_logits(tmp_path / "out.gguf"), transformers_logits(moe, meant)) > 0.99999


def test_a_stack_of_packed_experts(moe: Path, tmp_path: Path) -> None:
    config, pack, _ = METHODS["gptq"]
    packed.save_packed(moe, tmp_path / "m", config, pack)
    file = tmp_path / "m" / "model.safetensors"
    stored = load_file(file)
    stem = "model.layers.0.mlp.experts.gate_up_proj"
    parts = {
        part: torch.stack([stored[f"model.layers.0.self_attn.q_proj.{part}"]] * 4) for part in ("qweight", "g_idx")
    }
    save_file({**stored, **{f"{stem}.{part}": value for part, value in parts.items()}}, file)
    with pytest.raises(FormatError) as error:
        read_hf(tmp_path / "m")
    said = f"{stem}.qweight: its shape is [4, 8, 64]: stacks of experts are read packed one by one"
    assert str(error.value) == f"{file}: {said} (convert the original checkpoint)"


@pytest.fixture
def fp8(moe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, torch.Tensor]]:
    """A checkpoint that transformers quantizes and saves, on a CPU as well; and its experts, decoded."""
    monkeypatch.setattr(FineGrainedFP8HfQuantizer, "validate_environment", lambda self, *a, **k: None)
    settings = FineGrainedFP8Config(weight_block_size=(32, 32))
    model = AutoModelForCausalLM.from_pretrained(
        moe, quantization_config=settings, device_map="cpu", dtype=torch.bfloat16
    )
    shutil.copytree(moe, tmp_path / "fp8", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.save_pretrained(tmp_path / "fp8")
    meant = {}
    for name, weight in model.named_parameters():
        if name.endswith((".gate_up_proj", ".down_proj")):
            scales = model.get_parameter(f"{name}_scale_inv").repeat_interleave(32, 1).repeat_interleave(32, 2)
            meant[name] = weight.float() * scales
    assert len(meant) == 4
    return tmp_path / "fp8", meant


def experts(folder: Path) -> dict[str, torch.Tensor]:
    """Of a checkpoint, as transformers has them as it runs."""
    found = {name: torch.from_numpy(value) for name, value in values(read_hf(folder)).items() if "_exps" in name}
    out = {}
    for layer in range(2):
        gate, up, down = (found[f"blk.{layer}.ffn_{part}_exps.weight"] for part in ("gate", "up", "down"))
        stem = f"model.layers.{layer}.mlp.experts."
        out |= {f"{stem}gate_up_proj": torch.cat([gate.reshape(4, -1, 64), up.reshape(4, -1, 64)], 1)}
        out |= {f"{stem}down_proj": down.reshape(4, 64, -1)}
    return out


def test_scales_of_all_experts(fp8: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, meant = fp8
    stored = load_file(folder / "model.safetensors")
    assert any(name.endswith("experts.gate_up_proj_scale_inv") for name in stored), "as transformers 5.23 saves them"
    assert any(name.endswith((".0.gate_proj.weight", ".0.w1.weight")) for name in stored)
    found = experts(folder)
    assert found.keys() == meant.keys()
    for name, wanted in meant.items():
        assert torch.equal(found[name], wanted), name


def test_scales_that_fit_no_experts(fp8: tuple[Path, dict[str, torch.Tensor]]) -> None:
    file = fp8[0] / "model.safetensors"
    stored = load_file(file)
    name = next(name for name in stored if name.endswith("experts.gate_up_proj_scale_inv"))
    for shape in ((5, 6, 2), (4, 5, 2), (4, 12)):
        save_file({**stored, name: torch.ones(shape)}, file, metadata={"format": "pt"})
        with pytest.raises(FormatError, match=r"gate_up_proj_scale_inv: its shape is \[.*\], not \[experts, rows of"):
            read_hf(fp8[0])


def test_a_weight_of_all_experts(decode: Callable[..., Any], floats: Any) -> None:
    weight, scales = torch.randn(3, 64, 32).to(torch.float8_e4m3fn), torch.rand(3, 2, 1) + 0.5
    parts = {"mlp.experts.gate_up_proj": weight, "mlp.experts.gate_up_proj_scale_inv": scales}
    found = decode(parts, {"quant_method": "fp8", "weight_block_size": [32, 32]})
    assert list(found) == ["mlp.experts.gate_up_proj"]
    wanted = weight.float() * scales.repeat_interleave(32, 1)
    assert torch.equal(floats(found["mlp.experts.gate_up_proj"]), wanted)
