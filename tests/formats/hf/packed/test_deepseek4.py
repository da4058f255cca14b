"""DeepSeek V4 as it is published: FP8 with the exponents of blocks, and experts of MXFP4, two weights in a byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from oracles.converter_folders import published_name
from oracles.llama import Llama
from oracles.proofs import all_proofs, save_proof, tokens_of
from quantmill.formats.errors import FormatError
from quantmill.formats.floats import to_f32
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.tables.packed_tensors import unpack_blocks
from quantmill.formats.ir import Model
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import make_plan

PROOF = next(proof for proof in all_proofs() if proof.id == "deepseek4")
CODES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
EXPERT, FP8 = ".ffn.experts.", (".wq_a.", ".wo_b.", ".shared_experts.w1.")


def exponents(*shape: int) -> torch.Tensor:
    """Of scales around 1 / 64."""
    return torch.randint(119, 123, shape, dtype=torch.uint8)


def scale(codes: torch.Tensor, rows: int, columns: int, shape: torch.Size) -> torch.Tensor:
    wide = torch.exp2(codes.float() - 127).repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return wide[: shape[0], : shape[1]]


def write(folder: Path) -> tuple[Path, Path]:
    """A packed checkpoint, and the same in floats."""
    save_proof(PROOF, folder / "plain")
    torch.manual_seed(3)
    weights = load_file(folder / "plain" / "model.safetensors")
    plain: dict[str, torch.Tensor] = {}
    packed: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        theirs = published_name(PROOF, name)
        if EXPERT in name:
            codes = torch.randint(0, 16, tuple(weight.shape), dtype=torch.uint8)
            powers = exponents(weight.shape[0], weight.shape[1] // 32)
            plain[theirs] = CODES[codes.long()] * scale(powers, 1, 32, weight.shape)
            packed[theirs] = (codes[:, ::2] | codes[:, 1::2] << 4).view(torch.int8)
            packed[theirs.replace(".weight", ".scale")] = powers.view(torch.float8_e8m0fnu)
        elif any(part in name for part in FP8):
            codes8 = (weight * 64).to(torch.float8_e4m3fn)
            powers = exponents(-(-weight.shape[0] // 128), -(-weight.shape[1] // 128))
            plain[theirs] = codes8.float() * scale(powers, 128, 128, weight.shape)
            packed[theirs] = codes8
            packed[theirs.replace(".weight", ".scale")] = powers.view(torch.float8_e8m0fnu)
        else:
            plain[theirs] = packed[theirs] = weight
    config = json.loads((folder / "plain" / "config.json").read_text())
    save_file(plain, folder / "plain" / "model.safetensors", metadata={"format": "pt"})
    (folder / "packed").mkdir()
    save_file(packed, folder / "packed" / "model.safetensors", metadata={"format": "pt"})
    how = {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}
    config |= {"quantization_config": how, "expert_dtype": "fp4"}
    (folder / "packed" / "config.json").write_text(json.dumps(config))
    return folder / "packed", folder / "plain"


def values(model: Model) -> dict[str, np.ndarray]:
    found = {}
    for tensor in map(unpack_blocks, model):
        rows = np.ascontiguousarray(tensor.rows(0, tensor.n_rows))
        found[tensor.name] = rows if tensor.qtype.name == "I32" else to_f32(rows, tensor.qtype)
    return found


def test_packed_weights_are_those_that_they_stand_for(tmp_path: Path) -> None:
    packed, plain = write(tmp_path)
    model = read_hf(packed)
    ours, theirs = values(model), values(read_hf(plain))
    assert ours.keys() == theirs.keys()
    for name, wanted in theirs.items():
        np.testing.assert_array_equal(ours[name], wanted, err_msg=name)
    steps = {step.tensor.name: step.type.name for step in make_plan(model, "auto").steps}
    experts = {name for name in steps if "_exps" in name}
    assert len(experts) == 9
    assert {steps[name] for name in experts} == {"MXFP4"}
    execute(make_plan(model, "auto"), tmp_path / "kept.gguf", threads=1)
    execute(make_plan(read_hf(plain), "F32"), tmp_path / "plain.gguf", threads=1)
    peer = Llama(tmp_path / "plain.gguf")
    try:
        wanted = peer.logits(tokens_of(PROOF))
        peer.open(tmp_path / "kept.gguf")
        found = peer.logits(tokens_of(PROOF))
    finally:
        peer.close()
    assert np.corrcoef(found.reshape(-1), wanted.reshape(-1))[0, 1] > 0.98  # llama.cpp rounds what it multiplies


@pytest.mark.parametrize("part", ["weight", "scale"])
def test_parts_that_do_not_fit(part: str, tmp_path: Path) -> None:
    packed, _ = write(tmp_path)
    weights = load_file(packed / "model.safetensors")
    name = f"layers.0.ffn.experts.1.w1.{part}"
    weights[name] = weights[name][:, :-1].contiguous()
    save_file(weights, packed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FormatError, match=r"layers.0.ffn.experts.1.w1.\w+: its shape is "):
        read_hf(packed)
