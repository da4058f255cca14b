"""Second moments against numpy's X^T X, of whole runs and of experts; blocks, sharing, merging, states."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from oracles.proofs import all_proofs, save_proof
from oracles.tiny import save_tiny_llama
from quantmill.formats.errors import PlanError, QuantmillError
from quantmill.formats.hf.load import read_hf
from quantmill.formats.moments_file import Moments, block_bounds
from quantmill.imatrix.activations import Activations
from quantmill.imatrix.collect import Collector, NonFinite
from quantmill.imatrix.corpus import Corpus, cut
from quantmill.imatrix.merge_moments import merged_moments, moments_with_prior
from quantmill.imatrix.runner import ComputeOptions, Runner
from quantmill.imatrix.second_moments import (
    DistinctInput,
    MomentSums,
    add_products,
    choose_block_width,
    distinct_inputs,
)
from quantmill.imatrix.sums import RecordedWeight, Sums, with_expert_prior
from quantmill.imatrix.weights import Weights


def corpus(n: int = 4, n_ctx: int = 24) -> Corpus:
    return cut(np.random.default_rng(3).integers(2, 320, n * n_ctx), n_ctx, bos=0)


def runner(model: Path, folder: Path, text: Corpus) -> Runner:
    weights = Weights(read_hf(model))
    shape = (text.n_chunks, text.n_ctx, weights.hidden_width)
    return Runner(weights, text, ComputeOptions(batch=2), Activations(shape, torch.float32, folder))


def gather(run: Runner, folder: Path, block_width: int) -> tuple[Moments, dict[str, Sums]]:
    """What the command does: a file after each layer."""
    gathered = MomentSums(block_width, folder)
    collector = Collector(moments=gathered)
    run.embed()
    while run.layer < run.n_layers:
        run.advance(collector)
        gathered.finish(f"{run.layer:05d}")
    for _ in run.logits(collector):
        pass
    gathered.finish("output")
    return gathered.moments(collector.sums), collector.sums


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"), layers=2)


@pytest.fixture(scope="module")
def expected(tiny: Path) -> dict[str, NDArray[np.float64]]:
    """X^T X of every linear module, of transformers' own run of the same text."""
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    found: dict[str, Any] = defaultdict(int)

    def listen(name: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            x = args[0].reshape(-1, args[0].shape[-1]).double().numpy()
            found[name] += x.T @ x

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(listen(name))
    with torch.inference_mode():
        model(torch.from_numpy(corpus().inputs).long())
    return dict(found)


NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


@pytest.mark.parametrize("block_width", [128, 64, 48])
def test_a_run_gathers_x_transposed_x(
    tiny: Path, expected: dict[str, NDArray[np.float64]], block_width: int, tmp_path: Path
) -> None:
    """Whole, in halves of ffn_down's 128 columns, and in blocks that leave a narrow last one (48, 16 of 64)."""
    moments, sums = gather(runner(tiny, tmp_path, corpus()), tmp_path, block_width)
    wanted = {f"blk.{i}.{ours}.weight": f"model.layers.{i}.{name}" for i in (0, 1) for ours, name in NAMES.items()}
    wanted["output.weight"] = "lm_head"
    assert set(moments.inputs) == set(wanted) == set(sums)
    for name, module in wanted.items():
        whole = expected[module]
        count = moments.count(name)
        assert count == 4 * 24
        bounds = block_bounds(len(whole), block_width)
        blocks = moments.blocks(name)
        assert len(blocks) == len(bounds)
        scale = np.abs(whole).max()
        for block, (start, end) in zip(blocks, bounds, strict=True):
            np.testing.assert_allclose(block * count / scale, whole[start:end, start:end] / scale, atol=2e-5)
        diagonal = np.concatenate([np.diag(block) for block in blocks]) * count
        np.testing.assert_allclose(diagonal, sums[name].values[0], rtol=2e-6)


def test_who_shares_an_input(tiny: Path, tmp_path: Path) -> None:
    moments, _ = gather(runner(tiny, tmp_path, corpus(2)), tmp_path, 128)
    assert {name: moments.holder(name) for name in moments.inputs if name.startswith("blk.1.")} == {
        "blk.1.attn_q.weight": "blk.1.attn_q.weight", "blk.1.attn_k.weight": "blk.1.attn_q.weight",
        "blk.1.attn_v.weight": "blk.1.attn_q.weight", "blk.1.attn_output.weight": "blk.1.attn_output.weight",
        "blk.1.ffn_gate.weight": "blk.1.ffn_gate.weight", "blk.1.ffn_up.weight": "blk.1.ffn_gate.weight",
        "blk.1.ffn_down.weight": "blk.1.ffn_down.weight",
    }  # fmt: skip
    assert len(moments.holders) == 2 * 4 + 1
    assert sorted(path.name for path in tmp_path.glob("moments-*")) == [
        "moments-00001.bin", "moments-00002.bin", "moments-output.bin"
    ]  # fmt: skip


def test_experts_have_their_own(tmp_path: Path) -> None:
    """A model of six experts: each one's moments are those of the tokens that its router sent it, routers have none."""
    config = Qwen2MoeConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, moe_intermediate_size=24, num_hidden_layers=1,
        shared_expert_intermediate_size=40, num_attention_heads=4, num_key_value_heads=2, num_experts=6,
        num_experts_per_tok=2, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(5)
    model = Qwen2MoeForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "model")
    routed: list[Any] = []
    mlp = model.model.layers[0].mlp
    mlp.experts.register_forward_pre_hook(lambda module, args: routed.append(args))
    text = corpus(2)
    with torch.inference_mode():
        model(torch.from_numpy(text.inputs).long())
    moments, sums = gather(runner(tmp_path / "model", tmp_path, text), tmp_path, 32)
    x, chosen = routed[0][0].double().numpy(), routed[0][1].numpy()
    gate, up, down = (f"blk.0.ffn_{name}_exps.weight" for name in ("gate", "up", "down"))
    assert moments.holder(up) == moments.holder(gate)
    assert moments.n_matrices(gate) == moments.n_matrices(down) == 6
    assert "blk.0.ffn_gate_inp.weight" in sums
    assert not any("ffn_gate_inp" in name for name in moments.inputs)
    weights = mlp.experts.gate_up_proj.detach().double().numpy()
    for expert in range(6):
        mine = x[(chosen == expert).any(1)]
        assert moments.count(up, expert) == len(mine)
        np.testing.assert_allclose(moments.blocks(up, expert)[0] * len(mine), mine.T @ mine, rtol=1e-4, atol=1e-4)
        g, u = np.split(mine @ weights[expert].T, 2, axis=1)
        inner = g / (1 + np.exp(-g)) * u
        np.testing.assert_allclose(moments.blocks(down, expert)[0] * len(mine), inner.T @ inner, rtol=1e-3, atol=1e-3)


X = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]])
Q = RecordedWeight(("blk.0.attn_q.weight",))


def test_a_failed_batch_leaves_no_trace(tmp_path: Path) -> None:
    gathered = MomentSums(2, tmp_path)
    collector = Collector(moments=gathered)
    collector.see(RecordedWeight(("blk.0.attn_output.weight",)), 0, X * 3)
    with pytest.raises(NonFinite):
        collector.see(Q, 0, torch.tensor([[1.0, float("nan"), 0.0]]))
    collector.discard()
    x = X.clone()
    collector.see(Q, 0, x)
    x += 7  # models write into what they were given
    collector.commit()
    gathered.finish("x")
    moments = gathered.moments(collector.sums)
    assert moments.inputs == {Q.names[0]: Q.names[0]}
    assert moments.packed(Q.names[0]).tolist() == [1, 2, 5, 10]


def test_products_in_panels() -> None:
    """Wider than a panel: all on and below the diagonal is there."""
    x = torch.randn(50, 700, generator=torch.Generator().manual_seed(1))
    blocks = [torch.zeros(600, 600), torch.zeros(100, 100)]
    for half in x.chunk(2):
        add_products(blocks, half, 600)
    whole = (x.double().T @ x.double()).numpy()
    for block, (start, end) in zip(blocks, block_bounds(700, 600), strict=True):
        np.testing.assert_allclose(np.tril(block), np.tril(whole[start:end, start:end]), atol=1e-4)


def test_the_block_width_fits_the_budget() -> None:
    """Two inputs of 1024 columns and eight experts of 512; bytes by hand."""
    inputs = [DistinctInput(1, 1024), DistinctInput(1, 1024), DistinctInput(8, 512)]
    whole = 4 * (2 * 1024 * 1025 // 2 + 8 * 512 * 513 // 2)
    at_768 = whole - 4 * 2 * (1024 * 1025 - 768 * 769 - 256 * 257) // 2
    at_256 = 4 * (2 * 4 + 8 * 2) * 256 * 257 // 2
    assert choose_block_width(inputs, whole) == 1024
    assert choose_block_width(inputs, whole - 1) == 768
    assert choose_block_width(inputs, at_768) == 768
    assert choose_block_width(inputs, at_768 - 1) == 512
    assert choose_block_width(inputs, at_256) == 256
    assert choose_block_width([DistinctInput(1, 576)], 10**9) == 576
    with pytest.raises(PlanError, match=rf"at least 3\.2 MB, in blocks of 256 columns .--moments-size {at_256}"):
        choose_block_width(inputs, at_256 - 1)


# Fused q, k and v; norms per head; attention beside the feed forward; routed, shared and no experts; latent attention.
KINDS = (
    "llama",
    "phi3",
    "command-r",
    "command-r-plus",
    "qwen2moe",
    "mixtral",
    "deepseek2",
    "stablelm",
    "qwen3next",
    "qwen35",
    "qwen35moe",
    "qwen35moe-fused",
)


@pytest.mark.slow
@pytest.mark.parametrize("proof", [proof for proof in all_proofs() if proof.id in KINDS], ids=lambda proof: proof.id)
def test_what_is_told_before_a_run_is_what_it_hears(proof: Any, tmp_path: Path) -> None:
    """Sharing is told from roles, and heard from tensors: for every kind of architecture both say the same."""
    save_proof(proof, tmp_path / "model")
    run = runner(tmp_path / "model", tmp_path, corpus(2, 48))
    told = distinct_inputs(run.skeleton, output=True)
    moments, _ = gather(run, tmp_path, 10**6)
    heard = [(moments.n_matrices(holder), moments.widths[holder]) for holder in moments.holders]
    assert sorted((one.n_matrices, one.width) for one in told) == sorted(heard)
    experts = proof.config.get("num_experts_per_tok", 1)
    assert {one.n_used for one in told} <= {1, experts, *(one.n_matrices for one in told)}
    assert experts == 1 or any(one.n_used == experts for one in told)


def made(values: list[list[float]], counts: list[int], path: str | None = None, **more: Any) -> Moments:
    """Moments of one tensor ``w`` of one column and so many experts, sums by hand."""
    load = lambda holder, matrix: np.array(values[matrix], np.float32)  # noqa: E731
    moments = Moments(1, {"w": "w"}, {"w": 1}, {"w": np.array(counts)}, load, Path(path) if path else None)
    return replace(moments, **more)


def sums(values: list[float], counts: list[int]) -> dict[str, Sums]:
    return {"w": Sums(np.array(values)[:, None], np.array(counts))}


def test_merged_by_hand() -> None:
    parts = [made([[3], [0]], [2, 0]), made([[4], [5]], [1, 6])]
    merged = merged_moments(parts, sums([7, 5], [3, 6]))
    assert [merged.packed("w", expert).tolist() for expert in (0, 1)] == [[7], [5]]
    assert [merged.count("w", expert) for expert in (0, 1)] == [3, 6]
    with pytest.raises(QuantmillError, match=r"b\.gguf: w: has other columns"):
        merged_moments([made([[1]], [1]), made([[1]], [1], "b.gguf", widths={"w": 2})], sums([2], [2]))
    with pytest.raises(QuantmillError, match="w: has second moments in some of the files only"):
        merged_moments(parts, sums([7, 5], [3, 9]))


def test_merged_parts_may_share_otherwise() -> None:
    """In one file v has q's moments, in the other its own: merged, it has its own."""
    counts = {name: np.array([1]) for name in "qv"}
    one = Moments(1, {"q": "q", "v": "q"}, {"q": 1}, counts, lambda holder, _: np.array([5], np.float32))
    own = {"q": np.array([1], np.float32), "v": np.array([2], np.float32)}
    two = Moments(1, {"q": "q", "v": "v"}, {"q": 1, "v": 1}, counts, lambda holder, _: own[holder])
    total = {name: Sums(np.zeros((1, 1)), np.array([2])) for name in "qv"}
    merged = merged_moments([one, two], total)
    assert dict(merged.inputs) == {"q": "q", "v": "v"}
    assert [merged.packed(name).tolist() for name in "qv"] == [[6], [7]]
    assert dict(merged_moments([one, one], total).inputs) == {"q": "q", "v": "q"}


def test_the_experts_prior_is_that_of_the_sums() -> None:
    values, counts = [40.0, 4.0, 0.0], [10, 1, 0]
    blended = moments_with_prior(made([[v] for v in values], counts), 4)
    like = with_expert_prior(sums(values, counts)["w"], 4)
    for expert in range(3):
        assert blended.count("w", expert) == like.counts[expert]
        assert blended.packed("w", expert).tolist() == pytest.approx(like.values[expert])
    assert blended.blocks("w", 2)[0].tolist() == [[4.0]]  # the layer's mean
    alone = moments_with_prior(made([[40.0]], [2]), 4)
    assert (alone.count("w"), alone.packed("w").tolist()) == (2, [40.0])


def test_a_state_is_taken_up_or_refused(tmp_path: Path) -> None:
    gathered = MomentSums(2, tmp_path)
    collector = Collector(moments=gathered)
    collector.see(Q, 0, X)
    collector.commit()
    finished = [gathered.finish("00001")]
    again = MomentSums(2, tmp_path)
    again.restore(finished)
    assert again.moments(collector.sums).packed(Q.names[0]).tolist() == [1, 2, 5, 10]
    file = tmp_path / "moments-00001.bin"
    damaged = bytearray(file.read_bytes())
    damaged[5] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"moments-00001\.bin"):
        MomentSums(2, tmp_path).restore(finished)
