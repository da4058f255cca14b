"""Types for a budget: the choice by hand and by brute force, losses, and plans that keep to their size."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantmill.formats.errors import PlanError
from quantmill.formats.ir import Model, Tensor
from quantmill.formats.qtypes import BY_NAME
from quantmill.quantize.budget.knapsack import Option, allocate
from quantmill.quantize.budget.losses import NARROW, WIDE, Sensitivity, candidates, losses
from quantmill.quantize.budget.plans import BudgetedPlan, expected_loss, make_budgeted_plan, of_bpw, of_size
from quantmill.quantize.estimate.levels import uniform_importance
from quantmill.quantize.plan import PlanOptions, make_plan

Q2_K, Q4_K, Q6_K, Q8_0, F16 = (BY_NAME[name] for name in ("Q2_K", "Q4_K", "Q6_K", "Q8_0", "F16"))

FEW = 1 << 12  # weights of a tensor tried, to be quick


def test_allocation_by_hand() -> None:
    """30 bytes: 10 more on the tensor that loses 5, not on the one that loses 4; both do not fit."""
    first = [Option(Q2_K, 10, 6.0), Option(Q4_K, 20, 1.0)]
    second = [Option(Q2_K, 10, 5.0), Option(Q4_K, 20, 1.0)]
    assert [option.nbytes for option in allocate([first, second], 39)] == [20, 10]
    assert [option.nbytes for option in allocate([first, second], 40)] == [20, 20]
    with pytest.raises(PlanError, match="smallest choice takes 20 bytes"):
        allocate([first, second], 19)


def test_worse_and_larger_is_never_taken() -> None:
    options = [Option(Q2_K, 10, 1.0), Option(Q4_K, 20, 2.0), Option(Q6_K, 30, 0.5)]
    assert allocate([options], 29)[0].type is Q2_K
    assert allocate([options], 30)[0].type is Q6_K


_options = st.lists(st.tuples(st.integers(1, 40), st.floats(0, 10)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(st.lists(_options, min_size=1, max_size=5), st.integers(0, 60))
def test_allocation_is_the_best_there_is(rows: list[list[tuple[int, float]]], spare: int) -> None:
    tensors = [[Option(Q4_K, size, loss) for size, loss in row] for row in rows]
    limit = sum(min(option.nbytes for option in row) for row in tensors) + spare
    picked = allocate(tensors, limit)
    assert sum(option.nbytes for option in picked) <= limit
    every = [pick for pick in product(*tensors) if sum(option.nbytes for option in pick) <= limit]
    best = min(sum(option.loss for option in pick) for pick in every)
    assert sum(option.loss for option in picked) == pytest.approx(best)


def test_what_rounding_leaves_is_spent() -> None:
    """Sizes far from the steps the budget is counted in: hundreds of tensors still fill it."""
    rng = np.random.default_rng(1)
    tensors = []
    for _ in range(300):
        n = int(rng.integers(10**6, 3 * 10**7))
        tensors.append([Option(Q4_K, n * bits // 8, float(n * 4.0**-bits)) for bits in (2, 3, 4, 5, 6, 8)])
    limit = sum(row[0].nbytes for row in tensors) * 2
    used = sum(option.nbytes for option in allocate(tensors, limit))
    assert limit * 0.9999 < used <= limit


def test_candidates_fit_and_need_nothing_they_lack(tensor: Callable[[str, Any], Tensor]) -> None:
    wide, narrow = tensor("a.weight", np.zeros((2, 512), "f2")), tensor("b.weight", np.zeros((2, 288), "f2"))
    odd = tensor("c.weight", np.zeros((2, 100), "f2"))
    assert candidates(wide, True) == (*WIDE, F16)
    assert not {"IQ1_S", "IQ2_XXS", "IQ3_XXS"} & {type.name for type in candidates(wide, False)}
    assert {"Q2_K", "IQ3_S"} <= {type.name for type in candidates(wide, False)}
    assert candidates(narrow, True) == (*NARROW, F16)
    assert candidates(odd, True) == (F16,)


def test_losses_by_hand(tensor: Callable[[str, Any], Tensor], model: Callable[..., Model]) -> None:
    """Two rows that Q8_0 rounds by a known amount: 127 steps of 1 hold 0.25 as 0."""
    rows = np.zeros((2, 32), "f4")
    rows[:, 0], rows[:, 1] = 127, 0.25
    known = Sensitivity(np.array([2.0]), np.arange(32) * 2.0 / 31)
    found = losses(model([tensor("blk.0.attn_q.weight", rows)]), {"blk.0.attn_q.weight": [Q8_0]}, {}, {
        "blk.0.attn_q.weight": known
    })  # fmt: skip
    assert found["blk.0.attn_q.weight"] == pytest.approx([2.0 * 2 * 0.25**2 * 2 / 31])


def test_losses_fall_with_size_whatever_the_threads(tiny: Model) -> None:
    types = {t.name: (Q2_K, Q4_K, Q6_K, F16) for t in tiny.tensors if len(t.shape) > 1}
    one = losses(tiny, types, {}, {}, threads=1)
    assert one == losses(tiny, types, {}, {}, threads=3)
    for row in one.values():
        assert row[0] > row[1] > row[2] > row[3] == 0


def test_experts_have_sensitivities_of_their_own(
    tensor: Callable[[str, Any], Tensor], model: Callable[..., Model], rng: np.random.Generator
) -> None:
    name = "blk.0.ffn_up_exps.weight"
    stack = model([tensor(name, rng.standard_normal((4, 32, 256)).astype("f2"))])
    each = [
        losses(stack, {name: [Q4_K]}, {}, {name: Sensitivity(np.eye(4)[i])})[name][0] for i in range(4)
    ]  # each nearly alone
    both = losses(stack, {name: [Q4_K]}, {}, {name: Sensitivity(np.array([1.0, 1.0, 0.0, 0.0]))})[name][0]
    assert both == pytest.approx(each[0] + each[1], rel=0.01)


def budgeted(tiny: Model, limit: Any, importance: bool = True, **options: Any) -> BudgetedPlan:
    vectors = uniform_importance(tiny) if importance else None
    return make_budgeted_plan(tiny, limit, PlanOptions(importance=vectors, **options), sample=FEW)


@pytest.mark.parametrize("bpw", [2.4, 3.0, 4.0, 5.5, 8.0, 12.0])
def test_budgets_are_kept_and_used(tiny: Model, bpw: float) -> None:
    found = budgeted(tiny, of_bpw(bpw))
    assert found.plan.bpw <= bpw
    assert found.limit * 0.995 <= found.plan.size <= found.limit
    again = budgeted(tiny, of_size(found.limit))
    assert [step.type for step in again.plan.steps] == [step.type for step in found.plan.steps]


def test_more_bytes_lose_less(tiny: Model) -> None:
    found = [budgeted(tiny, of_bpw(bpw)).loss for bpw in (2.5, 3.5, 4.5, 6.5)]
    assert found == sorted(found, reverse=True)


def test_no_mix_of_that_size_is_better(tiny: Model) -> None:
    for level in ("Q3_K_M", "Q4_K_M", "IQ3_XXS"):
        mix = make_plan(tiny, level, PlanOptions(importance=uniform_importance(tiny)))
        found = budgeted(tiny, of_size(mix.size))
        expected = expected_loss(found, mix)
        assert expected is not None
        assert found.loss <= expected


def test_without_importance_nothing_needs_it(tiny: Model) -> None:
    with pytest.raises(PlanError, match="too little: the smallest possible file has"):
        budgeted(tiny, of_bpw(2.0), importance=False)
    found = budgeted(tiny, of_bpw(3.2), importance=False)
    assert not {"IQ1_S", "IQ2_XXS", "IQ3_XXS"} & {step.type.name for step in found.plan.steps}


def test_types_asked_for_are_kept(tiny: Model) -> None:
    found = budgeted(tiny, of_bpw(4.5), output_type="Q8_0", tensor_types=(("attn_v", "Q6_K"),))
    types = {step.tensor.name: step.type.name for step in found.plan.steps}
    assert types["output.weight"] == "Q8_0"
    assert {types[name] for name in types if "attn_v" in name} == {"Q6_K"}
    assert "output.weight" not in found.losses


def test_a_sensitive_tensor_gets_more(tiny: Model) -> None:
    vectors = uniform_importance(tiny)
    name = "blk.1.ffn_up.weight"
    alike = {t.name: Sensitivity(np.ones(1)) for t in tiny.tensors if len(t.shape) > 1}
    bits = []
    for scale in (1e-3, 1.0, 1e3):
        known = alike | {name: Sensitivity(np.array([scale]))}
        options = PlanOptions(importance=vectors)
        found = make_budgeted_plan(tiny, of_bpw(4.0), options, sensitivity=lambda known=known: known, sample=FEW)
        bits.append(next(step.type.bpw for step in found.plan.steps if step.tensor.name == name))
    assert bits[0] < bits[1] < bits[2]


def test_impossible_budgets(tiny: Model) -> None:
    with pytest.raises(PlanError, match="smallest possible file has"):
        budgeted(tiny, of_size(1000))
    with pytest.raises(PlanError, match="more than the model has"):
        budgeted(tiny, of_bpw(17))


def test_quantized_sources_are_refused(tensor: Callable[[str, Any], Tensor], model: Callable[..., Model]) -> None:
    source = Tensor("blk.0.attn_q.weight", tensor("blk.0.attn_q.weight", np.zeros((1, 1), "f2")).role, 0, (4, 256),
                    Q4_K, lambda a, b: np.zeros((b - a, 144), np.uint8))  # fmt: skip
    quantized = model([source])
    with pytest.raises(PlanError, match="quantized already"):
        make_budgeted_plan(quantized, of_bpw(4), PlanOptions(allow_requantize=True))
