"""``quantmill awq``: the folder it writes, scales that change only the rounding, and one line for each mistake."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from oracles.gptq import Client
from oracles.make_gptq_client import is_made
from oracles.proofs import Proof, all_proofs, save_proof
from oracles.tiny import TEXT, save_tiny_llama
from quantmill.formats.hf.packed.awq import pack, unpack
from quantmill.imatrix import layerwise
from quantmill.imatrix.block_linears import Linear
from quantmill.quantize.awq.block import AWQBlock
from quantmill.quantize.awq.grid import AWQWeight, quantize_to_grid
from quantmill.quantize.awq.settings import AWQSettings
from quantmill.tools.api import running
from quantmill.tools.api.awq import _method
from quantmill.tools.api.blockwise import _stored_dtype
from quantmill.tools.awq import command
from quantmill.tools.convert import command as convert

COMMON = ("-c", 64, "--chunks", 12, "--group-size", 32, "--threads", 1)
needs_client = pytest.mark.skipif(not is_made(), reason="no client: python tests/oracles/make_gptq_client.py")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grouped heads, biases, F32; some inputs much larger than others, one always zero."""
    folder = save_tiny_llama(tmp_path_factory.mktemp("tiny"), attention_bias=True)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("layernorm.weight"):
            tensor.uniform_(0.1, 0.3)
            tensor[::16] = 2.0
            tensor[5] = 0.0
        elif name.endswith("proj.weight"):
            tensor.div_(3)
        elif name.endswith("bias"):
            tensor.copy_((tensor.uniform_(-0.1, 0.1)).half())  # as clients hold them
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 20)
    return path


@pytest.fixture(scope="module")
def made(tiny: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("made") / "out"
    done = run(tiny, out, "-f", text, *COMMON, "--json")
    assert done.exit_code == 0, done.output
    return out, done


def run(*args: object) -> Any:
    threads = torch.get_num_threads()
    try:
        return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)
    finally:
        torch.set_num_threads(threads)


def decoded(folder: Path, target: Path) -> Path:
    """The checkpoint with float weights, by our own reader."""
    done = CliRunner().invoke(convert, [str(folder), str(target), "--outtype", "f32"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return target


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.arange(5, 69)[None]).logits[0]


def test_the_folder(tiny: Path, made: tuple[Path, Any], tmp_path: Path) -> None:
    out, done = made
    assert "layer 3/3: error attn_q" in done.stderr
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]  # no state left
    config = json.loads((out / "config.json").read_text())
    beside = json.loads((out / "quant_config.json").read_text())
    assert config.pop("quantization_config") == beside
    assert config == json.loads((tiny / "config.json").read_text())
    assert beside == {
        "quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm",
        "modules_to_not_convert": None,
    }  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (tiny / name).read_bytes()
    old, new = load_file(tiny / "model.safetensors"), load_file(out / "model.safetensors")
    linears = {name.removesuffix(".qweight") for name in new if name.endswith(".qweight")}
    assert linears == {name.removesuffix(".weight") for name in old if name.endswith("proj.weight")}
    down = {part: new[f"model.layers.2.mlp.down_proj.{part}"] for part in ("qweight", "qzeros", "scales")}
    assert {part: (list(t.shape), str(t.dtype)) for part, t in down.items()} == {
        "qweight": ([128, 8], "torch.int32"), "qzeros": ([4, 8], "torch.int32"), "scales": ([4, 64], "torch.float16"),
    }  # fmt: skip
    changed = {name for name in old if name in new and not torch.equal(old[name], new[name])}
    assert all(name.endswith(("layernorm.weight", "v_proj.bias")) for name in changed)
    assert "model.layers.0.input_layernorm.weight" in changed
    assert set(new) == {n for n in old if n.removesuffix(".weight") not in linears} | {
        f"{linear}.{part}" for linear in linears for part in ("qweight", "qzeros", "scales")
    }
    exact = logits(tiny)
    assert (logits(decoded(out, tmp_path / "back")) - exact).square().mean() < 0.05 * exact.square().mean()


def test_summary(made: tuple[Path, Any]) -> None:
    out, done = made
    found = json.loads(done.stdout)
    assert (found["bits"], found["group_size"], found["chunks"], len(found["linears"])) == (4, 32, 12, 21)
    assert found["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    rows = {row["name"]: row for row in found["linears"]}
    assert rows["model.layers.0.self_attn.q_proj"]["exponent"] > 0
    assert all(row["tokens"] == 768 and 0 < row["relative"] < 0.1 for row in found["linears"])


def test_without_searches_it_is_rounding_to_nearest(tiny: Path, text: Path, made: Any, tmp_path: Path) -> None:
    done = run(tiny, tmp_path / "out", "-f", text, *COMMON, "--no-scales", "--no-clip", "--quiet", "--json")
    old = load_file(tiny / "model.safetensors")
    new = load_file(tmp_path / "out" / "model.safetensors")
    for name, weight in old.items():
        stem = name.removesuffix(".weight")
        if not name.endswith("proj.weight"):
            assert torch.equal(new[name], weight)
            continue
        packed = quantize_to_grid(weight, 32)
        assert np.array_equal(unpack(new[f"{stem}.qweight"].numpy()), packed.codes.numpy().T)
        assert np.array_equal(new[f"{stem}.qzeros"].numpy(), pack(packed.zeros.numpy().T.copy()))
        assert torch.equal(new[f"{stem}.scales"].float(), packed.scales.T)
    plain, searched = (
        sum(row["loss"] for row in json.loads(one.stdout)["linears"] if "layers.0" in row["name"])
        for one in (done, made[1])
    )
    assert searched < 0.7 * plain


CASES = (
    ("llama", "float32"), ("llama", "bfloat16"), ("llama", "float16"), ("gemma", "bfloat16"), ("qwen2", "float16"),
    ("qwen3moe", "bfloat16"), ("qwen2moe", "float32"), ("command-r", "float16"), ("olmo2", "float32"),
)  # fmt: skip


@pytest.mark.parametrize(("case", "dtype"), CASES)
def test_scales_change_nothing_but_the_rounding(
    case: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block computes the same with its scales as without, also once norms are rounded to the checkpoint's type."""
    proof = next(proof for proof in all_proofs() if proof.id == case)
    save_proof(proof, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=getattr(torch, dtype))
    model.save_pretrained(tmp_path / "model")
    scaled = walk_without_rounding(proof, tmp_path, monkeypatch)
    # experts' routers are rounded to the checkpoint's type: a token between two experts may choose the other
    rounded = "moe" in case and dtype != "float32"
    loose, share = (5e-3, 0.98) if rounded else (2e-5, 1.0)
    for exponents, remarks, change in scaled:
        assert (change < loose).float().mean() >= share
        if case == "command-r":  # attention and feed forward read the same norm: only the folds inside them hold
            assert any("attn_norm cannot take the scales of attn_q" in remark for remark in remarks)
            assert exponents["attn_output"] or exponents["ffn_down"]
        elif case == "olmo2":  # norms stand behind the linears, not before
            assert set(exponents) == {"attn_output", "ffn_down"}
        else:
            assert not [remark for remark in remarks if "cannot" in remark]
            assert exponents["attn_q"] > 0


def walk_without_rounding(
    proof: Proof, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[dict[str, float], list[str], torch.Tensor]]:
    """For each block: exponents by role, remarks, and how much its scales change its output, for each token."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 320, (4 * 64,), generator=generator).tolist()
    runs = []
    for name in ("plain", "scaled"):
        weights = running.open_weights(folder / "model")
        corpus = running_corpus(tokens)
        runs.append(running.start_run(weights, corpus, folder / name, running.RunOptions()))
        runs[-1].embed()
    plain, scaled = runs
    method = _method(_stored_dtype(folder / "model"), AWQSettings(64))

    def keep(self: AWQBlock, linear: Linear, sample: object) -> AWQWeight:
        weight = linear.weight.clone()
        return type("Kept", (), {"decode": lambda self: weight})()  # type: ignore[return-value]

    monkeypatch.setattr(AWQBlock, "_pack", keep)
    found = []
    while plain.layer < plain.n_layers:
        quantizer = method.quantizer(scaled)
        layerwise.walk_block(scaled, quantizer, sequential=method.sequential, stage_bytes=method.stage_bytes)
        plain.advance()
        before, after = plain.activations.get([0, 1, 2, 3]), scaled.activations.get([0, 1, 2, 3])
        exponents = {row.role: row.exponent for row in quantizer.reports if row.exponent}
        found.append((exponents, quantizer.remarks, (after - before).norm(dim=-1) / before.norm(dim=-1)))
        scaled.activations.put([0, 1, 2, 3], before)
        scaled.activations.flip()
    return iter(found)


def running_corpus(tokens: list[int]) -> Any:
    from quantmill.imatrix.corpus import cut

    return cut(tokens, 64)


def test_experts(tmp_path: Path, text: Path) -> None:
    """Experts, their routers and names; read back, the model computes nearly what it did."""
    proof = next(proof for proof in all_proofs() if proof.id == "qwen3moe")
    model = save_proof(proof, tmp_path / "model")
    save_tiny_llama(tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    done = run(tmp_path / "model", tmp_path / "out", "-f", text, *COMMON)
    assert done.exit_code == 0, done.output
    new = load_file(tmp_path / "out" / "model.safetensors")
    assert "model.layers.0.mlp.experts.4.down_proj.qweight" in new
    assert not torch.equal(new["model.layers.0.mlp.gate.weight"], model.state_dict()["model.layers.0.mlp.gate.weight"])
    exact, ours = logits(tmp_path / "model"), logits(decoded(tmp_path / "out", tmp_path / "back"))
    # the median: a token between two experts may choose the other
    assert torch.nn.functional.cosine_similarity(exact, ours).median() > 0.95


@needs_client
def test_client_computes_what_we_decode(tiny: Path, text: Path, made: tuple[Path, Any], tmp_path: Path) -> None:
    tokens = list(range(5, 69))
    folders = {"32": made[0], "-1": tmp_path / "out"}
    assert run(tiny, tmp_path / "out", "-f", text, *COMMON, "--chunks", 2, "--group-size", -1).exit_code == 0
    with Client() as client:
        for size, folder in folders.items():
            ours = logits(decoded(folder, tmp_path / f"back{size}")).numpy()
            np.testing.assert_allclose(client.logits(folder, tokens, kind="awq", whole=True), ours, atol=1e-4)
            assert len(client.linears) == 1
            assert "Awq" in client.linears[0]
            half = client.logits(folder, tokens, kind="awq")  # as the client computes them
            assert np.abs(half - ours).max() < 0.02 * np.abs(ours).max()


def test_an_interrupted_run_goes_on(tiny: Path, text: Path, made: Any, tmp_path: Path) -> None:
    options = (tiny, tmp_path / "out", "-f", text, *COMMON, "--save-every", 1)
    walk, seen = layerwise.walk_block, []

    def stop(runner: Any, *args: Any, **more: Any) -> None:
        if runner.layer == 2 and not seen:
            seen.append(runner.layer)
            raise KeyboardInterrupt
        walk(runner, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layerwise, "walk_block", stop)
        assert run(*options).exit_code != 0
        assert not (tmp_path / "out").exists()
        done = run(*options)
    assert "going on at layer 3" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    for path in made[0].iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_one_line_for_each_mistake(refused: Callable[..., str], tiny: Path, text: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    short = tmp_path / "short.txt"
    short.write_text("too short")
    quantized = tmp_path / "quantized"
    quantized.mkdir()
    config = json.loads((tiny / "config.json").read_text()) | {"quantization_config": {"quant_method": "awq"}}
    (quantized / "config.json").write_text(json.dumps(config))
    save_file({"model.layers.0.mlp.up_proj.qweight": torch.zeros(4, 4).int()}, quantized / "model.safetensors")
    out = tmp_path / "out"
    ask = (tiny, out, "-c", 64, "-f", text)
    assert "no groups of 48 (one of 32, 64, 128, -1)" in refused("awq", *ask, "--group-size", 48)
    assert "q_proj: groups of 128 do not divide its 64 inputs (--group-size 64)" in refused("awq", *ask)
    assert "the text is empty" in refused("awq", tiny, out, "-f", empty, "--group-size", 32)
    assert "a chunk needs 64" in refused("awq", tiny, out, "-c", 64, "-f", short, "--group-size", 32)
    assert "is already quantized, by awq" in refused("awq", quantized, out)
    assert "config.json" in refused("awq", tmp_path / "none", out)
    assert "not empty" in refused("awq", tiny, tmp_path, "--group-size", 32)


def test_modules_that_no_client_replaces(refused: Callable[..., str], tmp_path: Path, text: Path) -> None:
    save_proof(next(proof for proof in all_proofs() if proof.id == "gpt2"), tmp_path / "model")
    save_tiny_llama(tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    line = refused("awq", tmp_path / "model", tmp_path / "out", "-f", text, "-c", 64)
    assert "is a Conv1D, and AWQ's clients replace nn.Linear only" in line


def test_weights_that_are_not_finite(refused: Callable[..., str], tiny: Path, text: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = torch.nan
    folder = tmp_path / "nan"
    folder.mkdir()
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    out = tmp_path / "deep" / "out"
    out.parent.mkdir()
    run_line = CliRunner().invoke(command, [str(a) for a in (folder, out, "-f", text, *COMMON, "--quiet")])
    assert isinstance(run_line.exception, Exception)
    assert "NaN or Inf" in str(run_line.exception)
    assert not out.exists()


@pytest.mark.slow
@needs_client
def test_smollm2(smollm2_hf: Path, tmp_path: Path) -> None:
    """Perplexity below round-to-nearest's on a text it was not calibrated with; the client agrees with our decode."""
    from pydoc_data.topics import topics

    words = "\n".join(topics.values())
    half = len(words) // 2
    for name, part in (("calibrate", words[:half]), ("test", words[half:])):
        (tmp_path / name).write_text(part)
    common = ("-f", tmp_path / "calibrate", "-c", 256, "--chunks", 8, "--group-size", 64, "--quiet")
    assert run(smollm2_hf, tmp_path / "awq", *common).exit_code == 0
    assert run(smollm2_hf, tmp_path / "rtn", *common, "--no-scales", "--no-clip").exit_code == 0
    perplexity = {}
    for name in ("awq", "rtn"):
        folder = tmp_path / f"{name}.eval"
        folder.mkdir()
        weights = running.open_weights(tmp_path / name)
        corpus = running.open_text(weights, tmp_path / "test", running.RunOptions(256, 16))
        runner = running.start_run(weights, corpus, folder, running.RunOptions())
        runner.embed()
        runner.finish()
        from quantmill.imatrix.evaluate import Record

        record = Record()
        for _, rows, wanted in runner.logits():
            record.add(rows, wanted)
        perplexity[name] = record.perplexity()
    print(perplexity)
    assert perplexity["awq"] < perplexity["rtn"]
    ours = logits(decoded(tmp_path / "awq", tmp_path / "back")).numpy()
    with Client() as client:
        theirs = client.logits(tmp_path / "awq", list(range(5, 69)), kind="awq", whole=True)
    # logits of up to 27, by float32 sums whose order is the processor's matter: 5e-4 apart on some
    np.testing.assert_allclose(theirs, ours, atol=2e-3)
