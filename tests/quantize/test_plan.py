"""The plan: offsets, totals, metadata, and every request that fails before a weight is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantmill.formats.errors import PlanError
from quantmill.formats.gguf.writer import layout
from quantmill.formats.ir import Model, Tensor, Value, ValueType
from quantmill.formats.qtypes import BF16, BY_NAME, F16, F32
from quantmill.quantize.plan import PlanOptions, make_plan

Shell = Callable[[dict[str, Any]], Model]


@pytest.fixture
def llama(goldens: dict[str, Any], shell: Shell) -> Model:
    """9 layers, 256 wide, ffn 512; every weight matrix has two rows, and none can be read."""
    return shell(goldens["models"]["llama-9-gqa3"])


@pytest.fixture
def odd(goldens: dict[str, Any], shell: Shell) -> Model:
    """8 layers, 288 wide, ffn 320: no 256-wide type fits."""
    return shell(goldens["models"]["width-288-ff-320"])


def importance_of(model: Model, value: float = 1.0) -> dict[str, np.ndarray]:
    return {t.name: np.full(t.width * int(np.prod(t.shape[:-2])), value, np.float32) for t in model if len(t.shape) > 1}


def retyped(model: Model, name: str) -> Model:
    tensors = (replace(t, qtype=BY_NAME[name]) if len(t.shape) > 1 else t for t in model)
    return replace(model, tensors=tuple(tensors))


def test_steps_are_packed_in_llama_cpps_order(llama: Model) -> None:
    plan = make_plan(llama, "Q4_K_M")
    names = [step.tensor.name for step in plan.steps]
    assert names[:4] == ["output.weight", "output_norm.weight", "token_embd.weight", "blk.0.attn_k.weight"]
    assert set(names) == {t.name for t in llama}
    for step, after in zip(plan.steps, plan.steps[1:], strict=False):
        assert after.offset == -(-(step.offset + step.nbytes) // 32) * 32
    assert plan.steps[0].offset == len(plan.layout.header)
    assert plan.size == -(-(plan.steps[-1].offset + plan.steps[-1].nbytes) // 32) * 32


def test_ten_layers_sort_by_number(goldens: dict[str, Any], shell: Shell) -> None:
    plan = make_plan(shell(goldens["models"]["llama-22-gqa8"]), "Q8_0")
    layers = [step.tensor.layer for step in plan.steps if step.tensor.layer is not None]
    assert layers == sorted(layers)


def test_bits_per_weight_by_hand(llama: Model) -> None:
    """Q8_0 is 34 bytes in 32 weights, and the 19 vectors of 256 are F32."""
    plan = make_plan(llama, "Q8_0")
    vectors, matrices = 19 * 256, 2 * 2 * 256 + 9 * (6 * 2 * 256 + 2 * 512)
    assert plan.n_weights == vectors + matrices
    assert plan.tensor_bytes == vectors * 4 + matrices * 34 // 32
    assert plan.bpw == pytest.approx(plan.tensor_bytes * 8 / plan.n_weights)
    assert plan.source_bytes == vectors * 4 + matrices * 2
    assert plan.fallbacks == ()


def test_what_fallbacks_cost(odd: Model) -> None:
    """Everything of 4.5 bits becomes 5.5, and of 6.5625 bits 8.5."""
    plan = make_plan(odd, "Q4_K_M")
    swaps = {(step.wanted.name, step.type.name) for step in plan.fallbacks if step.wanted}
    assert swaps == {("Q4_K", "Q5_0"), ("Q6_K", "Q8_0")}
    extra = sum({"Q5_0": 1.0, "Q8_0": 8.5 - 6.5625}[s.type.name] * s.tensor.n_weights for s in plan.fallbacks)
    assert plan.fallback_bpw == pytest.approx(extra / plan.n_weights)
    assert "288 columns" in plan.fallbacks[0].reason


def test_no_fallback(odd: Model) -> None:
    with pytest.raises(PlanError, match=r"token_embd.weight: rows of 288 weights"):
        make_plan(odd, "Q4_K_M", PlanOptions(no_fallback=True))


def test_no_type_fits(odd: Model) -> None:
    with pytest.raises(PlanError, match="no fallback"):
        make_plan(odd, "Q1_0")
    types = {step.type.name for step in make_plan(odd, "Q1_0", PlanOptions(fallback_type="Q4_0")).steps}
    assert types == {"F32", "Q4_0", "Q8_0"}


def test_metadata_as_llama_quantize_leaves_it(llama: Model) -> None:
    u32 = ValueType.UINT32
    before = {
        "general.file_type": Value(u32, 1),
        "split.no": Value(ValueType.UINT16, 0),
        "split.count": Value(ValueType.UINT16, 1),
        **llama.metadata,
    }
    origin = {"quantize.imatrix.file": Value(ValueType.STRING, "x.dat")}
    plan = make_plan(replace(llama, metadata=before), "Q4_K_M", PlanOptions(extra_metadata=origin))
    ours = ["general.quantization_version", "general.file_type", "quantize.imatrix.file"]
    assert list(plan.metadata) == [*llama.metadata, *ours]
    assert plan.metadata["general.file_type"] == Value(u32, 15)
    assert plan.metadata["general.quantization_version"] == Value(u32, 2)


def test_requantizing_must_be_allowed(llama: Model) -> None:
    source = retyped(llama, "Q8_0")
    with pytest.raises(PlanError, match=r"token_embd.weight: 65 tensors are quantized already .*--allow-requantize"):
        make_plan(source, "Q4_K_M")
    assert {s.type.name for s in make_plan(source, "Q8_0").steps} == {"F32", "Q8_0"}  # nothing changes
    assert "Q4_K" in {s.type.name for s in make_plan(source, "Q4_K_M", PlanOptions(allow_requantize=True)).steps}


def test_decoding_to_floats_needs_no_leave(llama: Model) -> None:
    source = replace(llama, tensors=tuple(replace(t, qtype=BY_NAME["Q8_0"]) if t.width > 1 else t for t in llama))
    for level in ("F32", "F16", "BF16"):
        types = {step.type.name for step in make_plan(source, level).steps if len(step.tensor.shape) > 1}
        assert types == {level}


def test_missing_importance_is_one_full_list(llama: Model) -> None:
    with pytest.raises(PlanError, match="53 tensors need importance") as caught:
        make_plan(llama, "IQ2_XXS")
    for i in range(9):
        assert f"blk.{i}.attn_q.weight (IQ2_XXS)" in str(caught.value)
    assert "token_embd" not in str(caught.value)
    with pytest.raises(PlanError, match=r"blk.0.attn_k.weight \(Q2_K\)"):
        make_plan(llama, "Q2_K_S")
    make_plan(llama, "Q2_K")  # the same type needs none in a file of this level


def test_fallback_type_for_what_lacks_importance(llama: Model) -> None:
    some = {name: vector for name, vector in importance_of(llama).items() if "attn_q" in name}
    plan = make_plan(llama, "IQ2_XXS", PlanOptions(importance=some, fallback_type="Q4_K"))
    types = {step.tensor.name: step.type.name for step in plan.steps}
    assert types["blk.3.attn_q.weight"] == "IQ2_XXS"
    assert types["blk.3.attn_k.weight"] == "Q4_K"
    assert types["token_embd.weight"] == "Q2_K"
    with pytest.raises(PlanError, match="IQ1_S needs importance itself"):
        make_plan(llama, "IQ2_XXS", PlanOptions(fallback_type="IQ1_S"))


def test_an_encoder_that_refuses_without_importance(llama: Model) -> None:
    with pytest.raises(PlanError, match=r"1 tensors need importance and have none: token_embd.weight \(IQ2_XS\)"):
        make_plan(llama, "Q4_K_M", PlanOptions(embedding_type="IQ2_XS"))


@pytest.mark.parametrize(
    ("value", "problem"),
    [(-1.0, "-1.0 at index 5 is negative"), (np.nan, "nan at index 5"), (np.inf, "inf at index 5")],
)
def test_bad_importance(llama: Model, value: float, problem: str) -> None:
    importance = importance_of(llama)
    importance["blk.2.ffn_up.weight"][5] = value
    with pytest.raises(PlanError, match=rf"blk.2.ffn_up.weight: importance {problem}"):
        make_plan(llama, "Q4_K_M", PlanOptions(importance=importance))


def test_importance_of_another_model(llama: Model) -> None:
    importance = importance_of(llama) | {"blk.2.ffn_up.weight": np.ones(512, np.float32)}
    with pytest.raises(PlanError, match=r"blk.2.ffn_up.weight: its importance has 512 values, its rows have 256"):
        make_plan(llama, "Q4_K_M", PlanOptions(importance=importance))
    embeddings = importance_of(llama) | {"token_embd.weight": np.ones(7, np.float32)}
    plan = make_plan(llama, "Q4_K_M", PlanOptions(importance=embeddings))  # llama-quantize passes over these
    used = {step.tensor.name for step in plan.steps if step.uses_importance}
    assert "token_embd.weight" not in used
    assert "blk.2.ffn_up.weight" in used


def test_every_expert_has_importance(goldens: dict[str, Any], shell: Shell) -> None:
    mixtral = shell(goldens["models"]["mixtral-32"])
    importance = importance_of(mixtral)
    assert importance["blk.0.ffn_up_exps.weight"].size == 8 * 256
    experts = [
        s for s in make_plan(mixtral, "IQ2_XXS", PlanOptions(importance=importance)).steps if "_exps" in s.tensor.name
    ]
    assert all(step.uses_importance for step in experts)
    assert len(experts) == 3 * 32
    with pytest.raises(PlanError, match="256 values, its rows have 2048"):
        make_plan(mixtral, "Q4_K_M", PlanOptions(importance={"blk.0.ffn_up_exps.weight": np.ones(256, np.float32)}))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"tensor_types": [("attn_[", "Q8_0")]}, "is not a valid regular expression"),
        ({"tensor_types": [("atn_v", "Q8_0")]}, "matches no tensor"),
        ({"tensor_types": [("attn_v", "Q8_9")]}, "unknown tensor type"),
        ({"output_type": "I32"}, "type I32 cannot hold quantized weights"),
        ({"embedding_type": "Q8_1"}, "type Q8_1 cannot hold quantized weights"),
        ({"fallback_type": "Q4K", "no_fallback": False, "level": "IQ1_S"}, "did you mean"),
        ({"level": "Q4_X"}, "unknown level 'Q4_X'"),
        ({"layout": partial(layout, version=4)}, "version 4"),
        ({"layout": partial(layout, byteorder="big")}, "needs GGUF version 3"),
    ],
)
def test_impossible_options(llama: Model, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(PlanError, match=problem):
        make_plan(llama, options.pop("level", "Q4_K_M"), PlanOptions(**options))


def test_an_options_type_that_fits_no_row(odd: Model) -> None:
    with pytest.raises(PlanError, match=r"output.weight: rows of 288 weights .* a type other than Q6_K"):
        make_plan(odd, "Q4_0", PlanOptions(output_type="Q6_K"))


def checkpoint(names: dict[str, tuple[tuple[int, ...], Any]]) -> list[Tensor]:
    from quantmill.formats.gguf.names import parse_name

    return [
        Tensor(name, *parse_name(name), shape, qtype, lambda a, b: pytest.fail("read"))
        for name, (shape, qtype) in names.items()
    ]


def test_a_checkpoint_becomes_what_the_converter_makes(model: Callable[..., Model]) -> None:
    names = {
        "blk.0.attn_q.weight": ((256, 256), BF16),
        "blk.0.attn_q.bias": ((256,), BF16),
        "blk.0.attn_norm.weight": ((256,), BF16),
        "blk.0.ffn_gate_inp.weight": ((8, 256), BF16),
        "token_embd.weight": ((64, 256), BF16),
    }
    source = replace(model(checkpoint(names)), from_checkpoint=True)
    f32 = {"blk.0.attn_q.bias", "blk.0.attn_norm.weight", "blk.0.ffn_gate_inp.weight"}
    for level, matrix in (("auto", "BF16"), ("F16", "F16"), ("BF16", "BF16"), ("F32", "F32")):
        plan = make_plan(source, level)
        assert [step.tensor.name for step in plan.steps] == list(names)  # the checkpoint's order
        assert {s.tensor.name: s.type.name for s in plan.steps} == {n: "F32" if n in f32 else matrix for n in names}
    types = {s.tensor.name: s.type.name for s in make_plan(source, "Q4_K_M").steps}
    assert types == {n: "F32" if n in f32 else "Q6_K" if n == "token_embd.weight" else "Q4_K" for n in names}


def test_a_model_knows_whether_it_is_a_checkpoints(tmp_path: Path) -> None:
    from quantmill.formats.gguf.reader import read_gguf
    from quantmill.formats.hf.load import read_hf
    from quantmill.formats.hf.shapes import read_shapes, with_vocabulary
    from quantmill.quantize.decode import as_float
    from quantmill.quantize.execute import execute

    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4, vocab_size=64
    )
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    source = read_hf(tmp_path)
    bare = with_vocabulary(read_shapes(tmp_path / "config.json"))
    for known in (source, as_float(source), replace(source, path=tmp_path / "x"), bare):
        assert known.from_checkpoint
        types = {step.tensor.name: step.type.name for step in make_plan(known, "Q4_K_M").steps}
        assert types["output_norm.weight"] == types["blk.0.attn_norm.weight"] == "F32"
    execute(make_plan(source, "BF16"), tmp_path / "x.gguf")
    assert not read_gguf(tmp_path / "x.gguf").from_checkpoint


def test_auto_guesses_from_the_matrices(model: Callable[..., Model]) -> None:
    vectors = {"output_norm.weight": ((256,), BF16)}
    for matrix, level in ((F16, "F16"), (F32, "F16"), (BF16, "BF16")):
        tensors = checkpoint(vectors | {"a.weight": ((2, 256), matrix)})
        source = replace(model(tensors), from_checkpoint=True)
        assert make_plan(source, "auto").level == level
