"""gpt-oss as it is published: experts in MXFP4, the rest in BF16."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssForCausalLM

from oracles.archs.gpt_oss import PROOFS
from oracles.llama import Llama
from oracles.proofs import run_proof, save_proof, tokens_of
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.hf.load import read_hf
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import make_plan

EXPERTS, PROOF = "model.layers.{}.mlp.experts.", PROOFS[0]
MXFP4 = gguf.GGMLQuantizationType.MXFP4


def packed(folder: Path) -> GptOssForCausalLM:
    """A checkpoint with packed experts in a folder; what it means, as a model of floats."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    model = save_proof(PROOF, folder)
    weights = {name: w.bfloat16() for name, w in load_file(folder / "model.safetensors").items()}
    for layer in range(3):
        for name in ("gate_up_proj", "down_proj"):
            at = EXPERTS.format(layer) + name
            n, width, height = weights.pop(at).shape
            blocks = torch.randint(0, 256, (n, height, width // 32, 16), dtype=torch.uint8)
            scales = torch.randint(120, 123, (n, height, width // 32), dtype=torch.uint8)
            weights |= {f"{at}_blocks": blocks, f"{at}_scales": scales}
            unpacked = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
            model.get_parameter(at).data.copy_(unpacked)
    for name, weight in weights.items():
        if not name.endswith(("_blocks", "_scales")):
            model.get_parameter(name).data.copy_(weight.float())
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"dtype": "bfloat16", "quantization_config": {"quant_method": "mxfp4"}}
    (folder / "config.json").write_text(json.dumps(config))
    return model


def test_experts_stay_the_blocks_they_are(tmp_path: Path) -> None:
    torch.manual_seed(5)
    (tmp_path / "hf").mkdir()
    model = packed(tmp_path / "hf")
    source = read_hf(tmp_path / "hf")
    kinds = {t.qtype.name for t in source if "_exps.weight" in t.name}
    assert kinds == {"MXFP4"}
    execute(make_plan(source, "auto"), tmp_path / "x.gguf", threads=1)
    written = {t.name: t for t in read_gguf(tmp_path / "x.gguf")}
    for layer in range(3):
        both = model.get_parameter(EXPERTS.format(layer) + "gate_up_proj")
        down = model.get_parameter(EXPERTS.format(layer) + "down_proj")
        for name, weight in (("gate", both[..., ::2]), ("up", both[..., 1::2]), ("down", down)):
            tensor = written[f"blk.{layer}.ffn_{name}_exps.weight"]
            assert tensor.qtype.name == "MXFP4"
            values = gguf.dequantize(tensor.rows(0, tensor.n_rows), MXFP4).reshape(tensor.shape)
            assert np.array_equal(values, weight.detach().transpose(1, 2).numpy())
    with Llama(tmp_path / "x.gguf") as llama:
        found = llama.logits(tokens_of(PROOF))
    expected = run_proof(PROOF, model)
    # llama.cpp rounds what it multiplies packed weights with to eight bits.
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
