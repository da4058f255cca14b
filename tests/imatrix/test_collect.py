"""Sums by hand, and of real expert modules of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from quantmill.imatrix.collect import Collector, NonFinite, sums_of_squares
from quantmill.imatrix.record_inputs import record_inputs
from quantmill.imatrix.sums import RecordedWeight, Sums, merged_sums, thin_experts, with_expert_prior

X = torch.tensor([[1.0, 2.0, -3.0], [0.5, 0.0, 1.0]])


def test_sums_by_hand() -> None:
    collector = Collector()
    both, other = RecordedWeight(("blk.0.attn_q.weight",)), RecordedWeight(("blk.0.attn_k.weight",))
    for target in (both, other):
        collector.see(target, 0, X)
    assert collector.sums == {}  # nothing counts before it is committed
    collector.commit()
    collector.see(both, 0, X[:1])
    collector.commit()
    entry = collector.sums["blk.0.attn_q.weight"]
    assert entry.values.tolist() == [[2.25, 8.0, 19.0]]
    assert entry.counts.tolist() == [3]
    assert collector.sums["blk.0.attn_k.weight"].values.tolist() == [[1.25, 4.0, 10.0]]


def test_a_failed_batch_leaves_no_trace() -> None:
    collector = Collector()
    collector.see(RecordedWeight(("a",)), 0, X)
    with pytest.raises(NonFinite) as caught:
        collector.see(RecordedWeight(("b",)), 0, torch.tensor([[1.0, float("nan")]]))
    assert caught.value.name == "b"
    collector.discard()
    collector.commit()
    assert collector.sums == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_squares_of_many_rows(dtype: torch.dtype) -> None:
    x = torch.randn(2, 700, 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = (x.double() ** 2).sum((0, 1)).numpy()
    np.testing.assert_allclose(sums_of_squares(x), expected, rtol=1e-6)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(1, 5))
def test_merged_parts_are_the_whole(counts: list[int], parts: int) -> None:
    rng = np.random.default_rng(len(counts) * 7 + parts)
    pieces = [{"w": Sums(rng.integers(0, 99, (len(counts), 4)).astype(float), np.array(counts))} for _ in range(parts)]
    whole = merged_sums(pieces)["w"]
    assert np.array_equal(whole.values, sum(piece["w"].values for piece in pieces))
    assert whole.counts.tolist() == [parts * count for count in counts]


def test_expert_prior_by_hand() -> None:
    """Expert 0 has seen enough, expert 1 half of it, expert 2 nothing: the layer's mean is (40+4) / 11 = 4."""
    entry = Sums(np.array([[40.0], [4.0], [0.0]]), np.array([10, 1, 0]))
    blended = with_expert_prior(entry, 2)
    assert blended.counts.tolist() == [10, 1, 1]
    assert blended.values.tolist() == [[40.0], [4.0], [4.0]]
    assert with_expert_prior(Sums(np.array([[40.0], [8.0]]), np.array([11, 1])), 2).values.tolist() == [[40.0], [6.0]]
    assert thin_experts({"w": entry, "dense": Sums(np.ones((1, 1)), np.array([1]))}, 2) == {"w": [(1, 1), (2, 0)]}


def mixtral() -> nn.Module:
    config = MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, sliding_window=None,
    )  # fmt: skip
    config._experts_implementation = "eager"
    return MixtralForCausalLM(config).eval()


def qwen2_moe() -> nn.Module:
    config = Qwen2MoeConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=24, num_hidden_layers=2,
        shared_expert_intermediate_size=40, num_attention_heads=4, num_key_value_heads=2, num_experts=6,
        num_experts_per_tok=3,
    )  # fmt: skip
    config._experts_implementation = "eager"
    return Qwen2MoeForCausalLM(config).eval()


@pytest.mark.parametrize(("make", "experts", "used"), [(mixtral, 4, 2), (qwen2_moe, 6, 3)])
def test_experts_counts_and_sums(make: Any, experts: int, used: int) -> None:
    """Counts add up to tokens x experts used, and each expert's sums are those of the tokens its router sent it."""
    torch.manual_seed(3)
    model = make()
    mlp = model.model.layers[1].mlp
    routed: list[Any] = []
    mlp.experts.register_forward_pre_hook(lambda module, args: routed.append(args))
    targets = {
        "mlp.gate.weight": RecordedWeight(("ffn_gate_inp",)),
        "mlp.experts.gate_up_proj": RecordedWeight(("ffn_gate_exps", "ffn_up_exps"), experts),
        "mlp.experts.down_proj": RecordedWeight(("ffn_down_exps",), experts),
    }
    collector = Collector()
    tokens = torch.randint(0, 64, (2, 21))
    with torch.inference_mode(), record_inputs(model.model.layers[1], targets, collector.see):
        model(tokens)
    collector.commit()
    x, chosen = routed[0][0].double(), routed[0][1]
    gate, down = collector.sums["ffn_gate_exps"], collector.sums["ffn_down_exps"]
    assert gate.counts.sum() == down.counts.sum() == tokens.numel() * used
    assert np.array_equal(gate.counts, down.counts)
    assert collector.sums["ffn_gate_inp"].counts.tolist() == [tokens.numel()]
    up = mlp.experts.gate_up_proj.detach().double()
    for expert in range(experts):
        mine = x[(chosen == expert).any(1)]
        assert gate.counts[expert] == len(mine)
        np.testing.assert_allclose(gate.values[expert], (mine**2).sum(0).numpy(), rtol=1e-5)
        g, u = (mine @ up[expert].T).chunk(2, 1)
        inner = nn.functional.silu(g) * u
        np.testing.assert_allclose(down.values[expert], (inner**2).sum(0).numpy(), rtol=1e-4, atol=1e-12)
    assert np.array_equal(collector.sums["ffn_up_exps"].values, gate.values)
