"""Gemma 4's layers that share keys and values: wider MLPs, tensors that nothing reads, and kinds of layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from oracles.converter_folders import publish
from oracles.llama import Llama
from oracles.proofs import all_proofs, run_proof, save_proof, tokens_of
from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.hf.archs import BY_CLASS
from quantmill.formats.hf.config import complete_config
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import write_hf
from quantmill.formats.hf.tables.dimensions import Dim, If, Less
from quantmill.formats.hf.tables.layer_rows import SizeOfLayer
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import make_plan

FULL, SLIDING = "full_attention", "sliding_attention"


def test_shared_layers_may_have_keys_that_nothing_reads(tmp_path: Path) -> None:
    """As published checkpoints have: transformers drops them, llama.cpp's converter and ours keep them."""
    proof = next(proof for proof in all_proofs() if proof.id == "gemma4")
    model = save_proof(proof, tmp_path / "hf")
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    for name in ("k_proj", "v_proj", "k_norm"):
        for layer in (2, 3):
            like = weights[f"model.layers.{layer - 2}.self_attn.{name}.weight"]
            weights[f"model.layers.{layer}.self_attn.{name}.weight"] = torch.randn_like(like)
    save_file(weights, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    execute(make_plan(read_hf(tmp_path / "hf"), "F32"), tmp_path / "f32.gguf", threads=1)
    expected = run_proof(proof, model)
    with Llama(tmp_path / "f32.gguf") as peer:
        assert np.abs(peer.logits(tokens_of(proof)) - expected).max() < 2e-3 * np.ptp(expected)
    write_hf(read_gguf(tmp_path / "f32.gguf"), tmp_path / "back")
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == weights.keys()


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"layer_types": [FULL, SLIDING]}, "layer_types"),  # transformers makes the last one full
        ({"layer_types": [SLIDING, FULL], "num_kv_shared_layers": 1}, "num_kv_shared_layers"),
        ({"layer_types": [FULL, FULL], "num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ({"layer_types": [FULL, FULL], "num_kv_shared_layers": 3}, "num_kv_shared_layers"),
        ({"layer_types": [FULL, FULL], "use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
    ],
)
@pytest.mark.parametrize("name", ["Gemma4ForCausalLM", "Gemma4UnifiedForCausalLM"])
def test_layers_that_share_what_no_layer_has(name: str, wrong: dict[str, Any], where: str) -> None:
    arch = BY_CLASS[name]
    config = {"hidden_size": 64, "num_hidden_layers": 2, "layer_types": [FULL, FULL], "num_kv_shared_layers": 1}
    complete_config(config, arch, arch.classes[name], Path("config.json"))
    with pytest.raises(FormatError, match=f"config.json: {where}: "):
        complete_config(config | wrong, arch, arch.classes[name], Path("config.json"))


def test_sizes_of_layers_are_read_back() -> None:
    size = If(Less(Dim("layer"), Dim(2)), Dim("ff"), 2 * Dim("ff"))
    row = SizeOfLayer("ff", "feed_forward_length", size, "wide")
    for config in ({"ff": 5, "wide": True}, {"ff": 5, "wide": False}, {"ff": 5}):
        made = dict(row.to_gguf({**config, "num_hidden_layers": 3}))
        assert made == {"feed_forward_length": [5, 5, 10] if config.get("wide") else 5}
        assert row.to_hf(lambda suffix, each=False, made=made: made[suffix]) == {
            key: value for key, value in config.items() if value
        }
    assert row.to_hf(lambda suffix, each=False: [5, 5, 5]) == {"ff": 5, "wide": False}
    assert row.to_hf(lambda suffix, each=False: []) == {}
    assert row.to_hf(lambda suffix, each=False: None) == {}


def test_tokens_that_are_never_generated(tmp_path: Path) -> None:
    """Gemma 4 Unified's, which stand for images and sounds."""
    proof = next(proof for proof in all_proofs() if proof.id == "gemma4-unified")
    save_proof(proof, tmp_path / "hf")
    publish(proof, tmp_path / "hf")
    path = tmp_path / "hf" / "generation_config.json"
    given = json.loads(path.read_text())
    path.write_text(json.dumps(given | {"suppress_tokens": [7, 319]}))
    execute(make_plan(read_hf(tmp_path / "hf"), "F32"), tmp_path / "f32.gguf", threads=1)
    model = read_gguf(tmp_path / "f32.gguf")
    assert model.metadata["tokenizer.ggml.suppress_tokens"].items.tolist() == [7, 319]
    write_hf(model, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "generation_config.json").read_text())["suppress_tokens"] == [7, 319]
    for wrong, problem in (
        ([320], "320 is not one of 320 tokens"),
        ([-1], "-1 is not one of 320 tokens"),
        ("7", "is not"),
    ):
        path.write_text(json.dumps(given | {"suppress_tokens": wrong}))
        with pytest.raises(FormatError, match=f"generation_config.json: suppress_tokens: .*{problem}"):
            read_hf(tmp_path / "hf")
