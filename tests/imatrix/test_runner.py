"""The layer-wise runner against the same transformers model run whole, and against llama.cpp's figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from oracles.tiny import save_tiny_llama
from quantmill.formats.errors import QuantmillError, UnknownArchitecture, UnmatchedTensor
from quantmill.formats.hf.load import read_hf
from quantmill.formats.ir import Bytes, Model, Tensor
from quantmill.imatrix import skeleton
from quantmill.imatrix.activations import Activations
from quantmill.imatrix.collect import Collector
from quantmill.imatrix.corpus import Corpus, cut
from quantmill.imatrix.evaluate import Record
from quantmill.imatrix.runner import DTYPES, ComputeOptions, Runner
from quantmill.imatrix.weights import Weights


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"), tied=request.param, attention_bias=True)


def corpus(n: int = 5, n_ctx: int = 24) -> Corpus:
    return cut(np.random.default_rng(3).integers(2, 320, n * n_ctx), n_ctx, bos=0)


def runner(weights: Weights, text: Corpus, folder: Path, limit: int = 1 << 30, **options: Any) -> Runner:
    how = ComputeOptions(**options)
    shape = (text.n_chunks, text.n_ctx, weights.hidden_width)
    return Runner(weights, text, how, Activations(shape, DTYPES[how.dtype], folder, limit))


def all_logits(run: Runner, collector: Collector | None = None) -> torch.Tensor:
    return torch.stack([logits for _, logits, _ in run.logits(collector)])


def changed(model: Model, name: str, change: Any) -> Model:
    """The model with a tensor's F32 values changed."""

    def wrap(tensor: Tensor) -> Tensor:
        def read(a: int, b: int) -> Bytes:
            values = tensor.rows(a, b).copy().view("<f4")
            change(values)
            return values.view(np.uint8)

        return replace(tensor, read=read)

    return replace(model, tensors=tuple(wrap(t) if t.name == name else t for t in model.tensors))


def inputs_by_hooks(folder: Path, text: Corpus) -> tuple[dict[str, np.ndarray], torch.Tensor]:  # type: ignore[type-arg]
    """Sums of squares of every linear module's inputs, float64, and the logits, of the whole model at once."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sums: dict[str, np.ndarray] = {}  # type: ignore[type-arg]

    def hook(name: str) -> Any:
        def see(module: Any, args: Any) -> None:
            sums[name] = sums.get(name, 0) + (args[0].double() ** 2).sum((0, 1)).numpy()

        return see

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(hook(name))
    with torch.inference_mode():
        logits = model(torch.from_numpy(text.inputs).long()).logits
    return sums, logits


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["memory", "files"])
def test_layer_by_layer_is_the_whole_model(tiny: Path, tmp_path: Path, limit: int) -> None:
    weights = Weights(read_hf(tiny))
    text = corpus()
    expected, logits = inputs_by_hooks(tiny, text)
    run = runner(weights, text, tmp_path / "state", limit, batch=2)
    assert run.activations.spills == (limit == 0)
    assert run.batches == [[0, 1], [2, 3], [4]]
    collector = Collector()
    run.embed()
    run.finish(collector)
    torch.testing.assert_close(all_logits(run, collector), logits[:, 12:-1], rtol=1e-4, atol=1e-4)
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
             "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}  # fmt: skip
    assert len(collector.sums) == len(expected) == 22
    for name, values in expected.items():
        parts = name.split(".")
        head = "token_embd.weight" if weights.tied else "output.weight"
        entry = collector.sums[f"blk.{parts[2]}.{names[parts[-1]]}.weight" if len(parts) > 1 else head]
        np.testing.assert_allclose(entry.values[0], values, rtol=1e-4)
        assert entry.counts.tolist() == [5 * 24]
    run.activations.close()
    assert list(tmp_path.rglob("*.bin")) == []
    assert all(p.is_meta for layer in run.skeleton.layers for p in layer.parameters())  # no block kept its weights


def test_a_large_output_matrix_is_read_in_slices(tiny: Path, tmp_path: Path, monkeypatch: Any) -> None:
    weights = Weights(read_hf(tiny))
    run = runner(weights, corpus(2), tmp_path)
    run.embed()
    run.finish()
    kept = all_logits(run)
    monkeypatch.setattr(skeleton, "_KEPT_HEAD", 0)
    monkeypatch.setattr(skeleton, "_HEAD_ROWS", 37)
    torch.testing.assert_close(all_logits(run), kept)


def test_two_halves_are_the_whole(tiny: Path, tmp_path: Path) -> None:
    weights = Weights(read_hf(tiny))
    text = corpus(6)
    parts = [text, replace(text, inputs=text.inputs[:3]), replace(text, inputs=text.inputs[3:])]
    parts = [replace(part, tokens=text.tokens[: len(part.inputs)]) for part in parts]
    found = []
    for part in parts:
        collector, run = Collector(), runner(weights, part, tmp_path, batch=1)
        run.embed()
        run.finish(collector)
        found.append(collector.sums)
    for name, whole in found[0].items():
        assert whole.counts == found[1][name].counts + found[2][name].counts
        np.testing.assert_allclose(whole.values, found[1][name].values + found[2][name].values, rtol=1e-12)


def test_bad_activations_name_layer_and_chunk(tiny: Path, tmp_path: Path) -> None:
    """A token whose embedding is infinite spoils its chunk, and no other."""
    text = corpus(4)
    bad = int(text.inputs[2, 7])
    keep = [chunk for chunk in range(4) if bad not in text.inputs[chunk]]
    assert 0 < len(keep) < 4

    def spoil(rows: Any) -> None:
        if len(rows) == 320:
            rows[bad] = np.inf

    model = changed(read_hf(tiny), "token_embd.weight", spoil)
    run = runner(Weights(model), text, tmp_path, batch=4)
    run.embed()
    with pytest.raises(QuantmillError, match=r"NaN or Inf in the activations of layer 0, chunk \d .*--skip-bad-chunks"):
        run.finish(Collector())
    run = runner(Weights(model), text, tmp_path, batch=4, skip_bad=True)
    collector = Collector()
    run.embed()
    run.finish(collector)
    assert sorted(run.dropped) == [chunk for chunk in range(4) if chunk not in keep]
    assert "blk.0.attn_q.weight" in run.dropped[2]
    assert {int(entry.counts[0]) for entry in collector.sums.values()} == {len(keep) * 24}
    assert all(np.isfinite(entry.values).all() for entry in collector.sums.values())
    if not Weights(model).tied:
        assert torch.isfinite(all_logits(run)).all()


def test_what_cannot_be_run(tiny: Path, tmp_path: Path) -> None:
    model = read_hf(tiny)
    with pytest.raises(UnknownArchitecture, match="unknown architecture 'gloom'"):
        Weights(replace(model, arch="gloom"))
    without = replace(model, tensors=tuple(t for t in model.tensors if t.name != "blk.1.ffn_up.weight"))
    run = runner(Weights(without), corpus(1), tmp_path)
    run.embed()
    with pytest.raises(UnmatchedTensor, match=r"blk\.1: the model has no weights for mlp\.up_proj\.weight"):
        run.finish()
    weights = Weights(model)
    weights.__dict__["class_config"] = {**weights.class_config, "model_type": "gloom"}
    with pytest.raises(UnknownArchitecture, match="transformers cannot build this model"):
        runner(weights, corpus(1), tmp_path)


@pytest.fixture(scope="module")
def two_chunks(smollm2: Weights, topics: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Any:
    text = replace(topics, tokens=topics.tokens[:2], inputs=topics.inputs[:2])
    run, collector = runner(smollm2, text, tmp_path_factory.mktemp("run")), Collector()
    run.embed()
    run.finish(collector)
    return run, collector


def check_sums(collector: Collector, golden: dict[str, Any], n: int, step: int, tolerance: float) -> None:
    assert sorted(collector.sums) == golden["names"].tolist()
    at = 0
    for name, norm, count in zip(golden["names"], golden[f"norms{n}"], golden[f"counts{n}"], strict=True):
        entry = collector.sums[name]
        assert entry.counts.tolist() == [count]
        assert np.linalg.norm(entry.values) == pytest.approx(norm, rel=tolerance)
    for name in golden["sampled"]:
        ours = collector.sums[name].values[0, ::step]
        theirs = golden[f"sums{n}"][at : at + len(ours)].astype(np.float64)
        at += len(ours)
        assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs), name
    assert at == len(golden[f"sums{n}"])


def test_sums_are_llama_cpps(two_chunks: Any, llama_sums: dict[str, Any]) -> None:
    check_sums(two_chunks[1], llama_sums, 2, 9, 1e-3)


def test_divergence_is_llama_cpps(
    two_chunks: Any, smollm2: Weights, tmp_path: Path, llama_figures: dict[str, Any]
) -> None:
    """Against the model with its blocks' matrices rounded to Q4_0, as llama-perplexity --kl-divergence measures it."""
    q4_0 = gguf.GGMLQuantizationType.Q4_0

    def rounded(tensor: Tensor) -> Tensor:
        def read(a: int, b: int) -> Bytes:
            rows = tensor.rows(a, b).view("<f2").astype(np.float32)
            back = gguf.quants.dequantize(gguf.quants.quantize(rows, q4_0), q4_0).astype(np.float16)
            return np.ascontiguousarray(back).view(np.uint8)

        matrix = tensor.name.startswith("blk.") and len(tensor.shape) > 1
        return replace(tensor, read=read) if matrix else tensor

    base = two_chunks[0]
    worse = Weights(replace(smollm2.model, tensors=tuple(rounded(t) for t in smollm2.model.tensors)))
    run = runner(worse, base.corpus, tmp_path)
    run.embed()
    run.finish()
    record, alone = Record(), Record()
    for (_, ours, wanted), (_, theirs, _) in zip(run.logits(), base.logits(), strict=True):
        record.add_against(ours, theirs, wanted)
        alone.add(theirs, wanted)
    figures, expected = record.report(), llama_figures["kld"][1]
    assert expected["chunks"] == 2
    for key in ("perplexity", "kld_mean", "dp_rms", "perplexity_error", "kld_mean_error", "dp_rms_error"):
        assert getattr(figures, key) == pytest.approx(expected[key], rel=0.005), key
    assert figures.log_ppl_ratio == pytest.approx(expected["log_ppl_ratio"], abs=5e-4)
    assert figures.log_ppl_ratio_error == pytest.approx(expected["log_ppl_ratio_error"], rel=0.01)
    assert figures.top1 == pytest.approx(expected["top1"], abs=0.006)  # 3 of 510 near-ties may fall otherwise
    assert alone.report().perplexity == pytest.approx(llama_figures["perplexity"]["2"], rel=0.005)


def test_bfloat16_correlates(smollm2: Weights, topics: Corpus, tmp_path: Path) -> None:
    """On a short text and the first blocks: processors without bfloat16 units are slow at it."""
    text = cut(topics.tokens[0], 64)
    found = []
    for dtype in DTYPES:
        run, collector = runner(smollm2, replace(text, tokens=text.tokens[:2], inputs=text.inputs[:2]), tmp_path,
                                dtype=dtype), Collector()  # fmt: skip
        run.embed()
        for _ in range(6):
            run.advance(collector)
        found.append(collector.sums)
    assert len(found[0]) == 42
    for name in found[0]:
        assert np.corrcoef(found[0][name].values[0], found[1][name].values[0])[0, 1] > 0.9999, name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_twenty_chunks_are_llama_cpps(
    dtype: str, smollm2: Weights, topics: Corpus, tmp_path: Path, llama_sums: Any, llama_figures: Any
) -> None:
    run, collector = runner(smollm2, topics, tmp_path, dtype=dtype), Collector()
    run.embed()
    run.finish(collector)
    if dtype == "f32":
        check_sums(collector, llama_sums, 20, 1, 1e-3)
    record, at = Record(), 0
    for _, logits, wanted in run.logits():
        record.add(logits, wanted)
    assert record.perplexity() == pytest.approx(llama_figures["perplexity"]["20"], rel=0.005)
    for name in llama_sums["sampled"]:
        ours = collector.sums[name].values[0]
        assert np.corrcoef(ours, llama_sums["sums20"][at : at + len(ours)])[0, 1] > 0.9999, name
        at += len(ours)
