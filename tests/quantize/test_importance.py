"""Importance and the tensors of a plan: what fits, what is missed, what goes without, and options asked for in vain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quantmill.formats.errors import PlanError
from quantmill.formats.ir import Model
from quantmill.quantize.importance import ImportanceFit
from quantmill.quantize.kernels import ENCODABLE, kernel_for
from quantmill.quantize.plan import Plan, PlanOptions, make_plan
from quantmill.quantize.recipes import IGNORES_IMPORTANCE, OWN_SEARCH

Shell = Callable[[dict[str, Any]], Model]


@pytest.fixture
def llama(goldens: dict[str, Any], shell: Shell) -> Model:
    """9 layers, 256 wide; output.weight is apart from the embeddings."""
    return shell(goldens["models"]["llama-9-gqa3"])


@pytest.fixture
def tied(llama: Model) -> Model:
    return replace(llama, tensors=tuple(t for t in llama if t.name != "output.weight"))


def full(model: Model) -> dict[str, Any]:
    return {t.name: np.ones(t.width * int(np.prod(t.shape[:-2])), np.float32) for t in model if len(t.shape) > 1}


def fit_of(plan: Plan) -> ImportanceFit:
    assert plan.importance_fit is not None
    return plan.importance_fit


def test_the_kernels_say_which_types_ignore_importance() -> None:
    from quantmill.formats.qtypes import BY_NAME

    ignore = {name for name in ENCODABLE if not kernel_for(BY_NAME[name]).uses_importance}
    assert ignore == IGNORES_IMPORTANCE | {"F32", "F16", "BF16"}
    assert {name for name in ENCODABLE if kernel_for(BY_NAME[name]).own_search} == OWN_SEARCH


def test_everything_matches(llama: Model) -> None:
    plan = make_plan(llama, "Q4_K_M", PlanOptions(importance=full(llama)))
    fit = fit_of(plan)
    assert (len(fit.matched), fit.missed, len(fit.weighed), fit.lacking) == (65, (), 65, ())
    assert str(fit) == "importance: 65 entries matched, 0 missed; 65 tensors encoded with it, 0 without"
    assert plan.remarks == ()
    assert make_plan(llama, "Q4_K_M").importance_fit is None


def test_some_are_missed_and_some_go_without(llama: Model) -> None:
    """As llama-imatrix leaves it: no entry for the output; and one of a layer that the model does not have."""
    given = full(llama) | {"blk.9.attn_q.weight": np.ones(256, np.float32)}
    for name in ("output.weight", "token_embd.weight"):
        del given[name]
    fit = fit_of(make_plan(llama, "Q4_K_M", PlanOptions(importance=given)))
    assert fit.missed == ("blk.9.attn_q.weight",)
    assert fit.lacking == ("output.weight", "token_embd.weight")
    assert str(fit) == (
        "importance: 63 entries matched, 1 missed (blk.9.attn_q.weight); "
        "63 tensors encoded with it, 2 without (output.weight, token_embd.weight)"
    )


def test_an_entry_of_the_output_where_it_is_tied(llama: Model, tied: Model) -> None:
    assert fit_of(make_plan(tied, "Q4_K_M", PlanOptions(importance=full(llama)))).missed == ("output.weight",)


def test_an_entry_that_counts_tokens_is_missed(llama: Model) -> None:
    """llama-quantize passes over such an entry of the embeddings; of any other tensor it is refused."""
    given = full(llama) | {"token_embd.weight": np.ones(7, np.float32)}
    fit = fit_of(make_plan(llama, "Q4_K_M", PlanOptions(importance=given)))
    assert (fit.missed, fit.lacking) == (("token_embd.weight",), ("token_embd.weight",))


def test_entries_of_tensors_that_stay_float_count(llama: Model) -> None:
    """llama-imatrix records routers too, and llama-quantize counts their entries."""
    given = {"blk.0.attn_q.weight": np.ones(256, np.float32), "output_norm.weight": np.ones(256, np.float32)}
    fit = fit_of(make_plan(llama, "Q4_K_M", PlanOptions(importance=given)))
    assert (set(fit.matched), fit.weighed) == (set(given), ("blk.0.attn_q.weight",))


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.q_proj.weight", "blk.99.attn_q.weight", "output_norm.weight"]
)
def test_nothing_matches(llama: Model, name: str) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(llama, "Q4_K_M", PlanOptions(importance={name: np.ones(256, np.float32)}))
    line = str(caught.value)
    assert line.startswith("importance: holds no tensor of this model that can be quantized: it has ")
    assert name in line
    assert "the model has token_embd.weight" in line
    assert "imatrix -m MODEL" in line


@pytest.mark.parametrize("level", ["F16", "Q8_0", "TQ2_0"])
def test_a_level_that_ignores_importance_says_so(llama: Model, level: str) -> None:
    options = PlanOptions(importance=full(llama), embedding_type=level, output_type=level)
    plan = make_plan(llama, level, options)
    assert plan.remarks == (f"--imatrix changes nothing: no tensor of {level} is encoded with importance",)
    assert not any(step.uses_importance for step in plan.steps)
    assert len(fit_of(plan).matched) == 65


def test_entries_only_of_what_is_not_quantized_anew(llama: Model) -> None:
    options = PlanOptions(importance={"output.weight": np.ones(256, np.float32)}, leave_output=True)
    (line,) = make_plan(llama, "Q4_K_M", options).remarks
    assert line.startswith("--imatrix changes nothing: it has no entry for what Q4_K_M quantizes (token_embd.weight, ")


def types(model: Model, *pairs: tuple[str, str], level: str = "Q4_K_M") -> dict[str, str]:
    return {s.tensor.name: s.type.name for s in make_plan(model, level, PlanOptions(tensor_types=pairs)).steps}


@pytest.mark.parametrize(
    ("pattern", "hit", "spared"),
    [
        (r"blk\.\d\.attn_q\D", "blk.3.attn_q.weight", "blk.3.attn_k.weight"),
        (r"ATTN_Q\W", "blk.3.attn_q.weight", "blk.3.attn_output.weight"),
        (r"attn_[^\W\d]\S", "blk.3.attn_q.weight", "blk.3.ffn_up.weight"),
        (r"\Ablk\.3\.attn_q\.weight\Z", "blk.3.attn_q.weight", "blk.2.attn_q.weight"),
        (r"(?P<n>attn)_q", "blk.3.attn_q.weight", "blk.3.attn_k.weight"),
        (r"BLK\.[0-3]\.Attn_[QK]", "blk.3.attn_q.weight", "blk.4.attn_q.weight"),
        (r"blk\.3\.(?!ffn)", "blk.3.attn_q.weight", "blk.3.ffn_up.weight"),
    ],
)
def test_a_pattern_means_what_it_says(llama: Model, pattern: str, hit: str, spared: str) -> None:
    found = types(llama, (pattern, "Q5_1"))
    assert (found[hit], found[spared] == "Q5_1") == ("Q5_1", False)


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("attn_[", "unterminated character set at position 5"),
        (r"blk\.(\d", "missing ), unterminated subpattern at position 5"),
        ("*", "nothing to repeat at position 0"),
        ("[[:digit:]]", "possible nested set at position 1"),
        ("a{99999999999}", "a repetition is too large"),
        ("(" * 5000 + ")" * 5000, "groups are too deep"),
    ],
)
def test_an_invalid_pattern_names_the_place(llama: Model, pattern: str, place: str) -> None:
    for _ in range(2):  # what is compiled is remembered
        with pytest.raises(PlanError, match="is not a valid regular expression") as caught:
            types(llama, (pattern, "Q8_0"))
        assert place in str(caught.value)


@pytest.mark.parametrize(
    ("level", "options", "line"),
    [
        ("Q4_K_M", {"tensor_types": [("norm", "Q8_0")]}, r"norm=Q8_0 changes nothing: it matches only what is never"),
        ("F16", {"tensor_types": [("attn_v", "Q8_0")]}, r"attn_v=Q8_0 changes nothing: .* F16 is not one"),
        ("Q4_K_M", {"tensor_types": [("attn", "Q8_0"), ("attn_v", "Q6_K")]}, "attn_v=Q6_K changes nothing: other opt"),
        (
            "Q4_K_M",
            {"tensor_types": [("^output", "Q8_0")], "output_type": "Q6_K"},
            "output=Q8_0 changes nothing: other",
        ),
        ("F16", {"pure": True}, "--pure changes nothing: F16"),
    ],
)
def test_what_was_asked_in_vain(llama: Model, level: str, options: dict[str, Any], line: str) -> None:
    import re

    (said,) = make_plan(llama, level, PlanOptions(**options)).remarks
    assert re.search(line, said)


def test_what_was_asked_in_vain_where_embeddings_are_tied(tied: Model) -> None:
    (line,) = make_plan(tied, "Q4_K_M", PlanOptions(leave_output=True)).remarks
    assert line == "--leave-output-tensor changes nothing: the model has no output.weight"
    assert make_plan(tied, "Q4_K_M", PlanOptions(output_type="Q8_0")).remarks == ()  # the embeddings take it
    (line,) = make_plan(tied, "Q4_K_M", PlanOptions(output_type="Q8_0", embedding_type="Q4_K")).remarks
    assert line == "--output-tensor-type Q8_0 changes nothing: no tensor takes its type from it"


def test_what_has_an_effect_is_not_said(llama: Model) -> None:
    options = PlanOptions(
        output_type="Q8_0", embedding_type="Q8_0", tensor_types=[("attn_v", "F16"), ("ffn", "Q6_K")], pure=True,
        allow_requantize=True, fallback_type="Q4_K", no_fallback=True,
    )  # fmt: skip
    assert make_plan(llama, "Q4_K_M", options).remarks == ()


def test_options_that_exclude_each_other(llama: Model) -> None:
    with pytest.raises(PlanError, match="--leave-output-tensor: excludes --output-tensor-type"):
        make_plan(llama, "Q4_K_M", PlanOptions(leave_output=True, output_type="Q8_0"))


def test_a_pattern_whose_type_does_not_fit_is_still_asked_for(goldens: dict[str, Any], shell: Shell) -> None:
    """The fallback by width keeps the option's place: a target size must not choose another type instead."""
    from quantmill.quantize.choose import choose_types
    from quantmill.quantize.recipes import find_recipe

    odd = shell(goldens["models"]["width-288-ff-320"])
    options = PlanOptions(tensor_types=[("attn_q", "Q4_K")])
    choice = choose_types(odd, find_recipe("Q8_0"), options)["blk.0.attn_q.weight"]
    assert (choice.type.name, choice.option) == ("Q5_0", "--tensor-type attn_q=Q4_K")
