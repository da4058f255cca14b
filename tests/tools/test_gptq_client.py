"""What the command writes, in the hands of transformers with GPTQModel; and in how much memory it writes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from oracles.gptq import Client, decoded
from oracles.tiny import TEXT, save_tiny_llama

pytestmark = pytest.mark.slow
TOKENS = list(range(5, 69))
# The published table of the Llama 2 13B set: (bits, group size, act-order).
VARIANTS = [(4, 128, False), (4, 32, True), (4, 64, True), (4, 128, True),
            (8, -1, True), (8, 128, False), (8, 128, True), (8, 32, True)]  # fmt: skip
OTHERS = [(2, 32, False), (3, 32, True)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"), layers=2, hidden=128, attention_bias=True)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 20)
    return path


def gptq(source: Path, out: Path, text: Path, bits: int, group: int, desc_act: bool, *more: object) -> Path:
    from click.testing import CliRunner

    from quantmill.tools.gptq import command

    args = [source, out, "-f", text, "-c", 64, "--chunks", 8, "--bits", bits, "--group-size", group, "--quiet"]
    args += ["--desc-act" if desc_act else "--no-desc-act", "--threads", 1, *more]
    done = CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


def check(client: Client, source: Path, folder: Path, bits: int) -> None:
    """The client's logits are those of our own decode of what the folder holds."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    weights = decoded(folder)
    missing = model.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    with torch.inference_mode():
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    found = client.logits(folder, TOKENS, {"bits": bits, "backend": "torch"})
    assert client.linears == ["TorchLinear"]
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize(("bits", "group", "desc_act"), VARIANTS + OTHERS)
def test_tiny(client: Client, tiny: Path, text: Path, tmp_path: Path, bits: int, group: int, desc_act: bool) -> None:
    check(client, tiny, gptq(tiny, tmp_path / "out", text, bits, group, desc_act), bits)


def test_asymmetric_and_v2(client: Client, tiny: Path, text: Path, tmp_path: Path) -> None:
    check(client, tiny, gptq(tiny, tmp_path / "v1", text, 4, 32, False, "--asym"), 4)
    v2 = gptq(tiny, tmp_path / "v2", text, 4, 32, True, "--asym", "--checkpoint-format", "gptq_v2")
    check(client, tiny, v2, 4)


@pytest.mark.parametrize(("bits", "group", "desc_act"), VARIANTS)
def test_smollm2(
    client: Client, smollm2_hf: Path, text: Path, tmp_path: Path, bits: int, group: int, desc_act: bool
) -> None:
    """Its 576 inputs are no multiple of 128: the last group is short."""
    check(client, smollm2_hf, gptq(smollm2_hf, tmp_path / "out", text, bits, group, desc_act), bits)


RUN = """
import sys
sys.argv = ["quantmill", "gptq", *sys.argv[1:]]
from quantmill.tools.main import run
try:
    run()
finally:
    print(open("/proc/self/status").read())
"""


def test_one_layer_in_memory(tmp_path: Path) -> None:
    """A checkpoint of 1.05 GB, 2.1 in float32; its weights are holes in the file, zeros, which every input then is.
    Importing torch and transformers takes 400 MB of what is allowed, a layer with its Hessians 250."""
    folder = save_tiny_llama(tmp_path / "big", layers=1)
    config = json.loads((folder / "config.json").read_text())
    layers, hidden, ff = 50, 1024, 2048
    config |= {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": ff, "head_dim": 64,
               "num_attention_heads": 16, "num_key_value_heads": 16}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    block = {f"self_attn.{one}_proj": (hidden, hidden) for one in "qkvo"}
    block |= {"mlp.gate_proj": (ff, hidden), "mlp.up_proj": (ff, hidden), "mlp.down_proj": (hidden, ff)}
    block |= {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    shapes = {f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in block.items()}
    shapes |= {"model.embed_tokens.weight": (320, hidden), "lm_head.weight": (320, hidden)}
    shapes["model.norm.weight"] = (hidden,)
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    assert end > 1e9
    args = ["-c", "32", "--chunks", "1", "--quiet", "--save-every", "0", "--threads", "1"]
    words = [sys.executable, "-c", RUN, str(folder), str(tmp_path / "out"), *args]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    # Not ru_maxrss: a child starts with that of the process that made it, here of all tests before this one.
    peak_mb = int(done.stdout.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    print(f"peak resident memory {peak_mb:.0f} MB")
    assert peak_mb < 900
