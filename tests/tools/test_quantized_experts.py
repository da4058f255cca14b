"""GPTQ and AWQ of experts: those of one tensor, those that saw few tokens, and what the client makes of the folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from oracles.gptq import Client
from oracles.quantized import TOKENS, decoded, logits, run, save
from oracles.tiny import TEXT
from quantmill.quantize.gptq.layouts import LAYOUTS

COMMON = ("-c", 64, "--chunks", 12, "--group-size", 32, "--threads", 1)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 20)
    return path


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_one_tensor_of_all_experts_gives_the_same_as_one_for_each(method: str, tmp_path: Path, text: Path) -> None:
    fused, apart = save("qwen35moe-fused", tmp_path / "fused"), tmp_path / "apart"
    shutil.copytree(fused, apart)
    tensors = load_file(fused / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        stem, stack = name.rpartition(".")[0], tensors.pop(name)
        for expert, weight in enumerate(stack):
            halves = dict(zip(("gate_proj", "up_proj"), weight.chunk(2), strict=True)) if "gate" in name else {}
            for part, value in (halves or {"down_proj": weight}).items():
                tensors[f"{stem}.{expert}.{part}.weight"] = value.clone()
    save_file(tensors, apart / "model.safetensors", {"format": "pt"})
    for folder in (fused, apart):
        run(method, folder, tmp_path / f"{folder.name}-out", "-f", text, *COMMON, "--chunks", 3, "--quiet")
    one, two = (load_file(tmp_path / f"{name}-out" / "model.safetensors") for name in ("fused", "apart"))
    assert "model.layers.0.mlp.experts.0.gate_proj.qweight" in one
    assert not any(name.endswith("gate_up_proj") for name in one)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    back = load_file(decoded(tmp_path / "fused-out", tmp_path / "back") / "model.safetensors")
    exact = load_file(apart / "model.safetensors")
    for name in ("gate_proj", "up_proj", "down_proj"):
        weight, found = exact[key := f"model.layers.0.mlp.experts.1.{name}.weight"].float(), back[key].float()
        if method == "gptq":  # AWQ's inputs are scaled
            assert (found - weight).square().mean() < 0.05 * weight.square().mean()


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_experts_that_saw_few_tokens_are_rounded_to_nearest(method: str, tmp_path: Path, text: Path) -> None:
    model = save("qwen3moe", tmp_path / "model")
    ask = (model, tmp_path / "out", "-f", text, *COMMON, "--json", "--force")
    every = json.loads(run(method, *ask, "--quiet").stdout)
    assert every["rounded_to_nearest"] == [row["name"] for row in every["linears"] if row["tokens"] < 32]
    done = run(method, *ask, "--min-tokens", 100_000)
    found = json.loads(done.stdout)
    experts = [row["name"] for row in found["linears"] if ".experts." in row["name"]]
    assert found["rounded_to_nearest"] == experts
    assert len(experts) == 2 * 5 * 3
    assert "experts.*.gate_proj: saw fewer than 100000 tokens, rounded to nearest: 0, 1, " in done.stderr
    few = load_file(tmp_path / "out" / "model.safetensors")
    if method == "awq":  # no scales, no clipping of theirs: the grid of the weights, which the norm's scales moved
        assert all(row["exponent"] == 0 for row in found["linears"] if row["role"] == "ffn_down_exps")
        return
    from quantmill.formats.hf.packed.gptq import unpack_rows
    from quantmill.quantize.gptq.layer import round_to_nearest
    from quantmill.quantize.gptq.settings import GPTQSettings

    exact = load_file(model / "model.safetensors")
    for name in experts[:4]:
        wanted = round_to_nearest(exact[f"{name}.weight"], GPTQSettings(group_size=32), name)
        assert np.array_equal(unpack_rows(few[f"{name}.qweight"].numpy(), 4), wanted.codes)


def test_one_line_for_each_mistake(refused: Callable[..., str], tmp_path: Path, text: Path) -> None:
    model, out = save("qwen3moe", tmp_path / "model", moe_intermediate_size=32), tmp_path / "out"
    line = refused("awq", model, out, "-f", text, "-c", 64, "--group-size", 64)
    assert "mlp.experts.0.down_proj: groups of 64 do not divide its 32 inputs (--group-size 32)" in line
    line = refused("gptq", model, out, "-f", text, "-c", 64, "--min-tokens", 0)
    assert "0 tokens are not enough for an expert (--min-tokens 1 or more)" in line
    line = refused("gptq", save("mistral4", tmp_path / "stack", hidden_size=256), out, "-f", text, "-c", 64)
    assert "mlp.experts.gate_up_proj: the checkpoint keeps all experts in one tensor" in line
    assert "(quantize to GGUF instead)" in line


def _gptqmodels(name: str) -> str:
    for ours, theirs in (("block_sparse_moe", "mlp"), ("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
        name = name.replace(f".{ours}.", f".{theirs}.")
    return name


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("name", ["qwen3moe", "mixtral"])
def test_client_computes_what_we_decode(client: Client, name: str, method: str, tmp_path: Path, text: Path) -> None:
    """GPTQModel takes its experts apart into modules of their own, and fills them with ours.

    Of Mixtral it knows its own modules' names only, and not those of published checkpoints, as vLLM reads them.
    """
    run(method, save(name, tmp_path / "model"), tmp_path / "out", "-f", text, *COMMON, "--quiet")
    if name == "mixtral":
        tensors = load_file(tmp_path / "out" / "model.safetensors")
        assert "model.layers.0.block_sparse_moe.experts.0.w1.qweight" in tensors
        save_file({_gptqmodels(key): tensor for key, tensor in tensors.items()}, tmp_path / "out" / "model.safetensors")
    found = client.logits(tmp_path / "out", TOKENS, kind=method, experts=True)
    assert sum(".experts." in one for one in client.names) == 2 * 5 * 3
    rounded = torch.float16 if method == "gptq" else torch.float32  # as the client has the weights
    wanted = logits(decoded(tmp_path / "out", tmp_path / "back"), rounded).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4 * max(1.0, float(np.abs(wanted).max())))


def test_hessians_are_bounded(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four Hessians of experts at a time, as large as one of attention, and the same bytes as with all five."""
    from quantmill.quantize.gptq.block import GPTQBlock
    from quantmill.tools.api import gptq as api

    method, most = api._method, 0

    class Watched(GPTQBlock):
        def see(self, group: Any, x: torch.Tensor) -> None:
            nonlocal most
            super().see(group, x)
            most = max(most, sum(4 * each.width**2 for each in self.hessians))

    def bounded(stored: Any, settings: Any, kind: Any) -> Any:
        made = method(stored, settings, kind)
        return replace(made, quantizer=lambda _: Watched(settings, LAYOUTS[kind], 1, stored), stage_bytes=limit)

    monkeypatch.setattr(api, "_method", bounded)
    model, limit, peaks = save("qwen3moe", tmp_path / "model"), 1 << 30, []
    for limit in (1 << 30, 4 * 4 * 64 * 64):
        run("gptq", model, tmp_path / str(limit), "-f", text, *COMMON, "--chunks", 3, "--quiet")
        peaks.append(most)
        most = 0
    assert peaks == [5 * 4 * 64 * 64, 4 * 4 * 64 * 64]
    whole, parts = (load_file(tmp_path / str(size) / "model.safetensors") for size in (1 << 30, 4 * 4 * 64 * 64))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


RUN = """
import sys
sys.argv = ["quantmill", *sys.argv[1:]]
from quantmill.tools.main import run
try:
    run()
finally:
    print("PEAK", open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_one_layer_of_many_experts_in_memory(method: str, tmp_path: Path, text: Path) -> None:
    """64 experts in each of 2 layers, and of 8: what six layers more take in float32, 300 MB, is not in memory."""
    peaks = {}
    for layers in (2, 8):
        wide = {"hidden_size": 256, "moe_intermediate_size": 256, "num_experts": 64, "num_hidden_layers": layers}
        model = save("qwen3moe", tmp_path / f"model{layers}", **wide)
        args = ["-c", "64", "--chunks", "8", "--group-size", "64", "--threads", "1", "--save-every", "0", "--quiet"]
        words = [method, str(model), str(tmp_path / f"out{layers}"), "-f", str(text), *args]
        done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True, check=True)
        peaks[layers] = int(done.stdout.split("PEAK")[1]) * 1024 / 1e6
    print({layers: f"{peak:.0f} MB" for layers, peak in peaks.items()})
    assert peaks[8] < peaks[2] + 60
