"""The one flow, end to end, on a real model: SmolLM2 from a Hugging Face checkpoint to GGUF, quantized, and back.

Oracles: transformers runs the checkpoint, llama.cpp (xllamacpp) and the ``gguf`` package read what we wrote.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from oracles.llama import Llama
from quantmill.formats.gguf.reader import read_gguf
from quantmill.tools.convert import command as convert
from quantmill.tools.quantize import command as quantize

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):",
    "Once upon a time, in a land far away,",
    "Water boils at a temperature of",
    "The three primary colours are",
)


def run(command: object, *args: object) -> str:
    done = CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)  # type: ignore[arg-type]
    assert done.exit_code == 0, done.output
    return done.output


def test_official_reader_agrees(smollm2_hf: Path, smollm2_f16: Path) -> None:
    """The ``gguf`` package reads version 2, finds every tensor, and its values are the checkpoint's."""
    reader = gguf.GGUFReader(smollm2_f16)
    assert reader.fields["GGUF.version"].parts[-1][0] == 2
    assert reader.get_field("general.architecture").contents() == "llama"
    found = {tensor.name: tensor for tensor in reader.tensors}
    state = load_file(smollm2_hf / "model.safetensors")
    assert len(found) == len(state) == 272
    embedding = state["model.embed_tokens.weight"].numpy()
    assert np.array_equal(found["token_embd.weight"].data, embedding)
    gate = state["model.layers.29.mlp.gate_proj.weight"].numpy()
    assert np.array_equal(found["blk.29.ffn_gate.weight"].data, gate)


def test_greedy_tokens_equal_transformers(smollm2_hf: Path, smollm2_f16: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_hf)
    model = AutoModelForCausalLM.from_pretrained(smollm2_hf, dtype=torch.float32)
    with Llama(smollm2_f16) as peer:
        for prompt in PROMPTS:
            tokens = tokenizer(prompt)["input_ids"]
            assert peer.tokenize(prompt, add_special=True) == tokens
            inputs = torch.tensor([tokens])
            out = model.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=20,
                                 min_new_tokens=20, do_sample=False)  # fmt: skip
            ours = out[0, len(tokens) :].tolist()
            assert peer.greedy(tokens, 20) == ours, prompt


@pytest.mark.parametrize("outtype", ["f32", "f16"])
def test_there_and_back_is_the_identity(smollm2_hf: Path, tmp_path: Path, outtype: str) -> None:
    """Weights and dtypes bit for bit, the config's meaning, the tokenizer's files."""
    run(convert, smollm2_hf, tmp_path / "model.gguf", "--outtype", outtype, "--quiet")
    run(convert, tmp_path / "model.gguf", tmp_path / "back", "--quiet")
    old, new = (load_file(folder / "model.safetensors") for folder in (smollm2_hf, tmp_path / "back"))
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        assert tensor.dtype == new[name].dtype, name
        assert torch.equal(tensor, new[name]), name
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert json.loads((smollm2_hf / name).read_text()) == json.loads((tmp_path / "back" / name).read_text()), name


def test_one_pass_equals_two(smollm2_hf: Path, smollm2_f16: Path, tmp_path: Path) -> None:
    """Straight from the checkpoint, or through a float file: the same weights, whatever the order in the file."""
    run(convert, smollm2_hf, tmp_path / "one.gguf", "--outtype", "Q4_K_M", "--quiet")
    run(quantize, smollm2_f16, tmp_path / "two.gguf", "Q4_K_M", "--quiet")
    one, two = ({t.name: t for t in read_gguf(tmp_path / name)} for name in ("one.gguf", "two.gguf"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.qtype is two[name].qtype, name
        assert np.array_equal(tensor.rows(0, tensor.n_rows), two[name].rows(0, tensor.n_rows)), name


def test_quantized_file_runs(smollm2_f16: Path, tmp_path: Path) -> None:
    """llama.cpp loads the quantized file, and its answers still look like the model's."""
    run(quantize, smollm2_f16, tmp_path / "q.gguf", "Q4_K_M", "--quiet")
    with Llama(smollm2_f16) as float_model, Llama(tmp_path / "q.gguf") as quantized:
        tokens = float_model.tokenize(PROMPTS[0], add_special=True)
        a, b = float_model.logits(tokens), quantized.logits(tokens)
    cosine = float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    assert cosine > 0.95


def test_editing_keeps_it_loadable(smollm2_f16: Path, tmp_path: Path) -> None:
    path = tmp_path / "edited.gguf"
    path.write_bytes(smollm2_f16.read_bytes())
    from quantmill.tools.set_metadata import command

    run(command, path, "eos_token_id", "0")
    run(command, path, "name", "a much longer name than before " * 9)
    with Llama(path) as peer:
        assert peer.special()["eos"] == 0
        assert peer.logits(peer.tokenize("Hello")).shape[-1] == 49152


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """A 4 GB file of one layer's tensors over and over (sparse, so it costs no disk): under 600 MB resident."""
    source = tmp_path / "big-f16.gguf"
    _write_sparse(source, n_layers=40)
    assert source.stat().st_size > 4e9
    code = (
        "import sys; sys.argv = ['quantize', *sys.argv[1:]]\n"
        "from quantmill.tools.main import run_quantize\n"
        "try:\n    run_quantize()\n"
        "finally:\n    print(open('/proc/self/status').read())\n"
    )
    args = [sys.executable, "-c", code, str(source), str(tmp_path / "out.gguf"), "Q4_K_M", "--quiet"]
    done = subprocess.run(args, capture_output=True, text=True, check=True)
    # Not ru_maxrss: a child starts with that of the process that made it, here of all tests before this one.
    peak_mb = int(done.stdout.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    print(f"peak resident memory {peak_mb:.0f} MB")
    assert peak_mb < 600


def _write_sparse(path: Path, n_layers: int) -> None:
    """A Llama of TinyLlama's width whose weights are holes in the file: zeros."""
    from quantmill.formats.gguf.writer import TensorInfo, layout
    from quantmill.formats.ir import Value, ValueType
    from quantmill.formats.qtypes import F16, F32

    hidden, feed_forward = 4096, 4096
    u32 = ValueType.UINT32
    metadata = {
        "general.architecture": Value(ValueType.STRING, "llama"),
        "llama.block_count": Value(u32, n_layers),
        "llama.embedding_length": Value(u32, hidden),
        "llama.feed_forward_length": Value(u32, feed_forward),
        "llama.attention.head_count": Value(u32, 32),
        "llama.attention.head_count_kv": Value(u32, 32),
    }
    infos = [TensorInfo("token_embd.weight", (1024, hidden), F16), TensorInfo("output_norm.weight", (hidden,), F32)]
    for layer in range(n_layers):
        infos += [TensorInfo(f"blk.{layer}.attn_v.weight", (hidden, hidden), F16)]
        infos += [TensorInfo(f"blk.{layer}.ffn_down.weight", (2 * hidden, feed_forward), F16)]
    place = layout(metadata, infos)
    with path.open("wb") as file:
        file.write(place.header)
        file.truncate(place.size)
