"""Factors beside weights: where llama.cpp multiplies with them, and what they make of a model's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oracles.make_scaled_roles import applied
from oracles.proofs import Proof, all_proofs
from quantmill.formats.arrays import model_from_arrays, tensor_from_array
from quantmill.formats.errors import PlanError
from quantmill.formats.gguf.factors import factor_tensors, holds_factor, with_factors
from quantmill.formats.gguf.scaled_roles import SCALED_ROLES
from quantmill.formats.ir import Model, Role, Tensor
from quantmill.formats.qtypes import BY_NAME
from quantmill.quantize.decode import as_float
from quantmill.quantize.encode import encode
from quantmill.quantize.plan import make_plan
from quantmill.quantize.plan_options import PlanOptions

SOME = [proof for proof in all_proofs() if proof.id in ("qwen2", "qwen3moe")]


@pytest.mark.slow
@pytest.mark.parametrize("proof", SOME, ids=lambda proof: proof.id)
def test_the_table_is_llama_cpp_s(proof: Proof, tmp_path: Path) -> None:
    """qwen2's graph leaves out the factors of its feed-forward layers, though llama.cpp loads them."""
    arch, found = applied(proof, tmp_path)
    known = SCALED_ROLES[arch].split()
    assert {role: role in known for role in found} == found


def test_factors_of_a_matrix_and_of_a_stack() -> None:
    ones, stack = np.ones((4, 8), np.float32), np.ones((2, 4, 8), np.float32)
    whole = model_from_arrays("llama", {
        "blk.0.attn_q.weight": ones, "blk.0.attn_q.scale": np.array([3.0], np.float32),
        "blk.0.attn_q.input_scale": np.array([9.0], np.float32),
        "blk.0.ffn_up_exps.weight": stack, "blk.0.ffn_up_exps.scale": np.array([2.0, 5.0], np.float32),
        "blk.0.attn_norm.weight": np.ones(8, np.float32),
    })  # fmt: skip
    found = {tensor.name: tensor.rows(0, tensor.n_rows).view("<f4") for tensor in as_float(whole)}
    assert list(found) == ["blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight", "blk.0.attn_norm.weight"]
    assert (found["blk.0.attn_q.weight"] == 3).all()
    assert found["blk.0.ffn_up_exps.weight"][:, 0].tolist() == [2.0] * 4 + [5.0] * 4
    once = with_factors(whole)
    assert with_factors(once) is once


def test_gemma_4_has_a_tensor_of_that_name() -> None:
    """The factor of each expert is a weight of the model there, which its checkpoint has, too."""
    arrays = {
        "blk.0.ffn_down_exps.weight": np.ones((2, 4, 8), np.float32),
        "blk.0.ffn_down_exps.scale": np.array([2.0, 5.0], np.float32),
    }
    whole = model_from_arrays("gemma4", arrays)
    assert [tensor.name for tensor in as_float(whole)] == list(arrays)
    assert not holds_factor("gemma4", whole.tensors[0], set(arrays))


def test_where_a_factor_may_stand() -> None:
    whole = model_from_arrays("llama", {"blk.0.ffn_up.weight": np.ones((4, 8), np.float32)})
    (up,) = whole.tensors
    assert holds_factor("llama", up, {up.name})
    assert not holds_factor("llama", up, {up.name, "blk.0.ffn_up.bias"})  # which would be multiplied, too
    assert not holds_factor("qwen2", up, {up.name})
    assert not holds_factor("unheard-of", up, {up.name})
    assert not holds_factor("llama", replace(up, name="blk.0.ffn_up.bias"), {up.name})
    made = list(factor_tensors(up, np.array([2.0], np.float32), (4.0,)))
    assert [(tensor.name, tensor.role, tensor.shape) for tensor in made] == [
        ("blk.0.ffn_up.scale", up.role, (1,)),
        ("blk.0.ffn_up.input_scale", up.role, (1,)),
    ]


def test_a_head_s_factor_is_for_nvfp4_alone() -> None:
    blocks = encode(np.ones((4, 64), np.float32), "NVFP4")
    head = Tensor("output.weight", Role.OUTPUT, None, (4, 64), BY_NAME["NVFP4"], lambda a, b: blocks[a:b])
    scale = tensor_from_array("output.scale", np.array([2.0], np.float32))
    whole = Model("llama", {}, (head, scale), Path("head.gguf"))
    options = PlanOptions(allow_requantize=True)
    with pytest.raises(PlanError, match=r"multiplies with output.scale only where the head is of NVFP4 \(--output-t"):
        make_plan(whole, "Q8_0", options)
    kept = make_plan(whole, "Q8_0", replace(options, output_type="NVFP4"))
    assert [step.type.name for step in kept.steps if step.tensor.name == "output.weight"] == ["NVFP4"]
