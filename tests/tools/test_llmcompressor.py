"""Whole checkpoints of llm-compressor: the weights that transformers decompresses, and their logits in llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from oracles.checkpoint_logits import cosine
from oracles.llama import Llama
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.hf.files.weights import read_weights
from quantmill.formats.hf.packed import decode_packed
from quantmill.formats.hf.tables.packed_tensors import unpack_blocks
from quantmill.formats.ir import Tensor

FOLDER = Path(__file__).parents[1] / "formats" / "hf" / "packed" / "goldens" / "checkpoints"
ORACLE = "llmcompressor 0.14.0.1, compressed-tensors 0.20.1"
# The types of q_proj, o_proj and down_proj in GGUF, and what is said of the weights and of what they leave aside.
FORMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "nvfp4": (
        "NVFP4 NVFP4 NVFP4",
        ("7 weights read exactly as NVFP4", "activations are not rounded, as they are by the scheme: input of 4 bits"),
    ),
    "mxfp4": ("MXFP4 MXFP4 MXFP4", ("7 weights read exactly as MXFP4", "input of 4 bits (float, dynamic)")),
    "mxfp8": ("BF16 BF16 BF16", ("7 weights read decoded",)),
    "fp8": ("BF16 BF16 BF16", ("input of 8 bits (float, static)",)),
    "fp8-dynamic": ("BF16 BF16 BF16", ("input of 8 bits (float, dynamic)",)),
    "fp8-block": ("BF16 BF16 BF16", ("7 weights read decoded",)),
    "w8a8": ("Q8_0 Q8_0 Q8_0", ("7 weights read exactly as Q8_0", "input of 8 bits (int, dynamic)")),
    "mixed": (
        "BF16 Q5_0 NVFP4",
        ("1 weights read exactly as NVFP4, 3 weights read decoded, 1 weights read exactly as Q5_0",),
    ),
}


def decoded(folder: Path) -> dict[str, torch.Tensor]:
    """What the checkpoint's weights decode to, rounded to bfloat16 as the library rounds its own."""
    raw = json.loads((folder / "config.json").read_text())
    found = {}
    for name, stored in decode_packed(read_weights(folder), raw, folder).items():
        if isinstance(stored, Tensor):
            floats = unpack_blocks(stored)
            rows = floats.rows(0, floats.n_rows).view(np.float32).reshape(floats.shape)
            found[name] = torch.from_numpy(rows.copy()).bfloat16().float()
    plain = load_file(folder / "model.safetensors")
    return {**{name: weight.float() for name, weight in plain.items() if weight.dtype is torch.bfloat16}, **found}


@pytest.mark.parametrize("name", FORMS)
def test_weights_as_the_library_decompresses_them(name: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = FOLDER / name
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata()["oracle"] == ORACLE
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    model = LlamaForCausalLM(LlamaConfig(**config)).float()
    weights = decoded(folder)
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    golden = load_file(folder / "logits.safetensors")
    with torch.inference_mode():
        logits = model(golden["tokens"][None]).logits[0]
    assert float((logits - golden["logits"]).abs().max()) < 1e-4


@pytest.mark.parametrize("name", FORMS)
def test_logits_in_llama_cpp(name: str, tmp_path: Path, cli: Callable[..., Any]) -> None:
    types, lines = FORMS[name]
    out, floats = tmp_path / "out.gguf", tmp_path / "f32.gguf"
    result = cli("convert", FOLDER / name, out)
    assert result.code == 0, result
    for line in lines:
        assert line in result.err
    found = {tensor.name: tensor.qtype.name for tensor in read_gguf(out)}
    assert " ".join(found[f"blk.0.{part}.weight"] for part in ("attn_q", "attn_output", "ffn_down")) == types
    assert cli("convert", FOLDER / name, floats, "--outtype", "f32").code == 0
    golden = load_file(FOLDER / name / "logits.safetensors")
    tokens, wanted = golden["tokens"].tolist(), golden["logits"].numpy()
    # The library rounds weights to bfloat16 last, which we do not; llama.cpp activations beside quantized weights.
    for path, least in ((floats, 0.9999), (out, 0.98)):
        with Llama(path) as model:
            assert cosine(model.logits(tokens), wanted) > least, path
