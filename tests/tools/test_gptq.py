"""The command as a user meets it: the folder it writes, going on after a kill, and one line for each mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

from oracles.gptq import decoded
from oracles.proofs import all_proofs, save_proof
from oracles.tiny import TEXT, save_tiny_llama
from quantmill.tools.gptq import command

COMMON = ("-c", 64, "--chunks", 12, "--group-size", 32, "--threads", 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"), layers=4, attention_bias=True)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 20)
    return path


def run(*args: object) -> Any:
    threads = torch.get_num_threads()
    try:
        return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)
    finally:
        torch.set_num_threads(threads)


def test_the_folder(tiny: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(tiny, out, "-f", text, *COMMON)
    assert done.exit_code == 0, done.output
    assert "layer 4/4: error attn_q" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]  # no state left
    config = json.loads((out / "config.json").read_text())
    beside = json.loads((out / "quantize_config.json").read_text())
    assert config.pop("quantization_config") == beside
    assert config == json.loads((tiny / "config.json").read_text())
    wanted = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True, "lm_head": False,
              "checkpoint_format": "gptq"}  # fmt: skip
    assert wanted.items() <= beside.items()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (tiny / name).read_bytes()
    assert (
        AutoTokenizer.from_pretrained(out)("The fox").input_ids
        == AutoTokenizer.from_pretrained(tiny)("The fox").input_ids
    )

    old, new = load_file(tiny / "model.safetensors"), load_file(out / "model.safetensors")
    linears = {name.removesuffix(".qweight") for name in new if name.endswith(".qweight")}
    assert linears == {name.removesuffix(".weight") for name in old if name.endswith("proj.weight")}
    for name, tensor in old.items():
        if name.removesuffix(".weight") not in linears:
            assert torch.equal(new.pop(name), tensor), name
    assert len(new) == 4 * len(linears)
    down = {part: new[f"model.layers.3.mlp.down_proj.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx")}
    assert {part: (list(t.shape), str(t.dtype)) for part, t in down.items()} == {
        "qweight": ([16, 64], "torch.int32"), "qzeros": ([4, 8], "torch.int32"),
        "scales": ([4, 64], "torch.float16"), "g_idx": ([128], "torch.int32"),
    }  # fmt: skip

    for name, weight in decoded(out).items():
        assert (weight - old[name]).square().mean() < 0.05 * old[name].square().mean(), name


def test_two_formats_hold_the_same(tiny: Path, text: Path, tmp_path: Path) -> None:
    options = ("-f", text, *COMMON, "--asym", "--desc-act", "--bits", 3, "--quiet", "--chunks", 4)
    for kind in ("gptq", "gptq_v2"):
        assert run(tiny, tmp_path / kind, *options, "--checkpoint-format", kind).exit_code == 0
    one, two = decoded(tmp_path / "gptq"), decoded(tmp_path / "gptq_v2")
    assert one
    assert all(torch.equal(one[name], two[name]) for name in one)
    raw = [load_file(tmp_path / kind / "model.safetensors") for kind in ("gptq", "gptq_v2")]
    assert not torch.equal(*(each["model.layers.0.mlp.up_proj.qzeros"] for each in raw))
    g_idx = raw[0]["model.layers.0.mlp.up_proj.g_idx"]
    assert sorted(g_idx.tolist()) == [0] * 32 + [1] * 32
    assert g_idx.tolist() != sorted(g_idx.tolist())


def test_json(tiny: Path, text: Path, tmp_path: Path) -> None:
    done = CliRunner(catch_exceptions=False).invoke(
        command, [str(a) for a in (tiny, tmp_path / "out", "-f", text, *COMMON, "--chunks", 2, "--json", "--quiet")]
    )
    found = json.loads(done.stdout)
    assert (found["bits"], found["chunks"], found["ctx_size"], len(found["linears"])) == (4, 2, 64, 28)
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    first = found["linears"][0]
    assert (first["name"], first["tokens"]) == ("model.layers.0.self_attn.q_proj", 128)
    assert 0 < first["relative"] < 0.1
    assert found["linears"][-1]["name"] == "model.layers.3.mlp.down_proj"


def test_a_long_text_is_cut_unless_a_number_of_chunks_is_given(
    tiny: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantmill.tools.api.running._SAMPLE", 3 * 64)
    common = ("-f", text, "-c", 64, "--group-size", 32, "--threads", 1)
    done = run(tiny, tmp_path / "cut", *common)
    assert "3 of the text's 29 chunks of 64 tokens are used; --chunks -1 uses all" in done.output
    assert "are used" not in run(tiny, tmp_path / "three", *common, "--chunks", 3).output
    assert "are used" not in run(tiny, tmp_path / "four", *common, "--chunks", 4).output
    cut, three, four = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("cut", "three", "four"))
    assert cut == three != four


@pytest.mark.parametrize("spill", [False, True])
def test_killed_and_started_again_gives_the_same_bytes(tiny: Path, text: Path, tmp_path: Path, spill: bool) -> None:
    """kill -9 in the third layer; activations kept in memory, or in the state's files."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ("-f", text, *COMMON, "--save-every", 1)
    code = (
        "import sys, time; from quantmill.imatrix import layerwise, activations as hidden\n"
        f"if {spill}: hidden.Activations.__init__.__defaults__ = (0,)\n"
        "step, n = layerwise._Stage.run, 0\n"
        "def slow(self, runner, *args):\n"
        "    if runner.layer == 2 and self.groups[0].name.endswith('down_proj') and sys.argv[-1] == '--stop':\n"
        "        print('waiting', flush=True); time.sleep(600)\n"
        "    step(self, runner, *args)\n"
        "layerwise._Stage.run = slow\n"
        "from quantmill.tools.gptq import command; command([a for a in sys.argv[1:] if a != '--stop'])\n"
    )
    words = [sys.executable, "-c", code, *[str(arg) for arg in (tiny, killed, *options)]]
    child = subprocess.Popen([*words, "--stop"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    state = Path(f"{killed}.state")
    assert {"journal", "layer-00000.safetensors", "layer-00001.safetensors"} <= {path.name for path in state.iterdir()}
    assert not killed.exists()
    assert run(tiny, whole, *options).exit_code == 0
    journal = state / "journal"
    journal.write_bytes(journal.read_bytes() + b'{"layer": 2, "arr')  # a line cut short counts for nothing
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "going on at layer 3" in done.stderr
    for path in whole.iterdir():
        assert path.read_bytes() == (killed / path.name).read_bytes(), path.name
    assert not state.exists()


def test_a_state_that_is_damaged_or_anothers_is_not_used(tiny: Path, text: Path, tmp_path: Path) -> None:
    from quantmill.imatrix.layerwise import walk_block
    from quantmill.imatrix.run_state import RunState
    from quantmill.tools.api.running import RunOptions, open_run

    class Nothing:
        def see(self, group: Any, x: Any) -> None: ...
        def replace(self, layer: int, module: Any, stage: Any) -> None: ...

    def fresh() -> Any:
        return open_run(tiny, text, tmp_path / "state", RunOptions(64, 2))

    state, runner = RunState(tmp_path / "state", {"a": 1}), fresh()
    assert not state.resume(runner)
    runner.embed()
    for _ in range(2):
        walk_block(runner, Nothing())
        state.add(runner, {"x": np.arange(3)}, ["report"], keep_activations=runner.layer == 1)
    runner = fresh()
    assert RunState(tmp_path / "state", {"a": 1}).resume(runner)
    assert runner.layer == 1  # the second block's outputs were not kept
    assert not RunState(tmp_path / "state", {"a": 2}).resume(fresh())
    assert not RunState(tmp_path / "state", {"a": 1}).resume(fresh())  # the other began anew

    state, runner = RunState(tmp_path / "state", {"a": 1}), fresh()
    state.resume(runner)
    runner.embed()
    walk_block(runner, Nothing())
    state.add(runner, {"x": np.arange(3)}, [])
    for name in ("layer-00000.safetensors", "activations-a.bin"):
        path = tmp_path / "state" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "state", copy)
        assert not RunState(copy, {"a": 1}).resume(open_run(tiny, text, copy, RunOptions(64, 2))), name
        shutil.rmtree(copy)
        path.write_bytes(whole)
    assert RunState(tmp_path / "state", {"a": 1}).resume(fresh())


def test_state_saved_every_other_block(tmp_path: Path, text: Path) -> None:
    """A save that is cut off leaves the one before it, whichever blocks are saved."""
    from quantmill.imatrix.layerwise import walk_block
    from quantmill.imatrix.run_state import RunState
    from quantmill.tools.api.running import RunOptions, open_run

    class Nothing:
        def see(self, group: Any, x: Any) -> None: ...
        def replace(self, layer: int, module: Any, stage: Any) -> None: ...

    deep = save_tiny_llama(tmp_path / "deep", layers=4)
    state, runner = RunState(tmp_path / "state", {}), open_run(deep, text, tmp_path / "state", RunOptions(64, 2))
    assert not state.resume(runner)
    runner.embed()
    for _ in range(4):
        walk_block(runner, Nothing())
        state.add(runner, {"x": np.arange(3)}, [], keep_activations=runner.layer % 2 == 0)
    (tmp_path / "state" / state.entries[-1]["file"]).write_bytes(b"cut off")
    runner = open_run(deep, text, tmp_path / "state", RunOptions(64, 2))
    assert RunState(tmp_path / "state", {}).resume(runner)
    assert runner.layer == 2


def test_experts(text: Path, tmp_path: Path) -> None:
    """Each expert by the tokens that were routed to it; one that got none is rounded to nearest, and that is said."""
    torch.manual_seed(3)
    config = MixtralConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=1, max_position_embeddings=128,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    folder = save_tiny_llama(tmp_path / "moe", layers=1)
    (folder / "model.safetensors").unlink()
    model = MixtralForCausalLM(config)
    for layer in model.model.layers:  # equal rows tie, and the first of equals wins: the last expert gets nothing
        layer.mlp.gate.weight.data[3] = layer.mlp.gate.weight.data[2] = layer.mlp.gate.weight.data[1]
    model.save_pretrained(folder)
    done = run(folder, tmp_path / "out", "-f", text, *COMMON)
    assert done.exit_code == 0, done.output
    remark = "model.layers.0.block_sparse_moe.experts.*.w1: saw fewer than 32 tokens, rounded to nearest: "
    assert "3" in done.output.partition(remark)[2].splitlines()[0].split(", ")
    assert "were rounded to nearest (--json names them)" in done.output
    stored = load_file(tmp_path / "out" / "model.safetensors")
    names = {name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")}
    assert {f"model.layers.1.block_sparse_moe.experts.{e}.w{w}" for e in range(4) for w in (1, 2, 3)} < names
    assert len(names) == 2 * (4 + 12)
    original = load_file(folder / "model.safetensors")
    assert torch.equal(
        stored["model.layers.0.block_sparse_moe.gate.weight"], original["model.layers.0.block_sparse_moe.gate.weight"]
    )
    for name, weight in decoded(tmp_path / "out").items():
        exact = original[name]
        assert (weight - exact).square().mean() < 0.05 * exact.square().mean(), name


def test_short_groups_are_told(tiny: Path, text: Path, tmp_path: Path) -> None:
    done = run(tiny, tmp_path / "out", "-f", text, *COMMON, "--group-size", 96, "--chunks", 2)
    assert done.exit_code == 0, done.output
    assert "the last group of 64, 128 inputs is smaller than 96" in done.output
    assert load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.mlp.down_proj.scales"].shape == (2, 64)


def test_matrices_with_inputs_in_rows(refused: Callable[..., str], tiny: Path, text: Path, tmp_path: Path) -> None:
    save_proof(next(proof for proof in all_proofs() if proof.id == "gpt2"), tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / name, tmp_path / "model")
    line = refused("gptq", tmp_path / "model", tmp_path / "out", "-f", text, "-c", 64)
    assert "transformer.h.0.attn.c_attn: is a Conv1D, which keeps inputs in rows (quantize to GGUF)" in line


def test_one_line_for_each_mistake(tiny: Path, text: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    def line(*args: object, source: Path = tiny) -> str:
        return refused("gptq", source, tmp_path / "out", "-f", text, *COMMON, *args)

    assert "5 bits cannot be stored (one of 2, 3, 4, 8)" in line("--bits", 5)
    assert "invalid group size -2" in line("--group-size", -2)
    assert "invalid damping 2" in line("--damp", 2)
    assert "config.json" in line(source=tmp_path / "nothing")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert "the text is empty" in line("-f", empty)
    assert "a chunk needs 100000 (give more text, or -c 1024)" in line("-f", text, "-c", 100_000)
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious").write_text("x")
    assert "exists and is not empty (--force replaces it)" in refused("gptq", tiny, full, "-f", text)
    assert "--force will not delete it" in refused("gptq", tiny, full, "-f", text, "--force")
    done = tmp_path / "done"
    shutil.copytree(tiny, done)
    config = json.loads((done / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (done / "config.json").write_text(json.dumps(config))
    save_file({"model.layers.0.mlp.up_proj.qweight": torch.zeros(4, 4).int()}, done / "model.safetensors")
    assert "is already quantized, by gptq (give the original checkpoint)" in line(source=done)
    odd = save_tiny_llama(tmp_path / "odd", layers=1, hidden=36)
    assert "model.layers.0.self_attn.q_proj: 36 inputs of 4 bits do not fill words of 32 bits" in line(source=odd)
    bare = tmp_path / "bare"
    shutil.copytree(tiny, bare)
    state = {name.removeprefix("model."): tensor for name, tensor in load_file(tiny / "model.safetensors").items()}
    save_file(state, bare / "model.safetensors", {"format": "pt"})
    assert "has it under another name (load it with transformers and save it)" in line(source=bare)
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    state = load_file(tiny / "model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    code, err = _fails(broken, tmp_path / "out", "-f", text, *COMMON)
    assert code == 2
    assert "NaN or Inf" in err


def _fails(*args: object) -> tuple[int, str]:
    words = [sys.executable, "-c", "import sys; from quantmill.tools.main import run; run()", "gptq"]
    done = subprocess.run([*words, *map(str, args), "--quiet"], capture_output=True, text=True, check=False)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.returncode, done.stderr
