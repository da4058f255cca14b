"""Sizes, conditions and rows by hand; and checkpoints of many kinds: nested, renamed, computed, in shards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from oracles.proofs import Proof, all_proofs, run_proof, same_logits, save_proof
from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.hf.load import ORIGINAL, read_hf
from quantmill.formats.hf.save import write_hf
from quantmill.formats.hf.tables.dimensions import (
    EMBD,
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    LAYER_INDEX,
    Condition,
    Dim,
    Equal,
    If,
    Is,
    LayerIn,
    LayerOverrides,
    LayerPattern,
    at_layer,
)
from quantmill.formats.hf.tables.layer_rows import PerLayer
from quantmill.formats.hf.tables.rows import Computed, Constant, GreaterThan, Key, LayerFlags, Mapped, Rope
from quantmill.formats.ir import Model

CONFIG = {
    "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": [2, 1, 4], "head_dim": 16,
    "num_hidden_layers": 3, "layer_types": ["full", "sliding", "full"], "dense": [1], "first": 2, "on": False,
}  # fmt: skip


def test_sizes() -> None:
    assert ((HEADS + 2) * HEAD_DIM)(CONFIG) == 96
    assert (3 * EMBD - 1)(CONFIG) == 191
    assert (EMBD // HEADS % 7)(CONFIG) == 2
    assert [KV_HEADS(at_layer(CONFIG, layer, 3)) for layer in range(3)] == [2, 1, 4]
    with pytest.raises(FormatError, match="missing: None is not a valid size"):
        Dim("missing")(CONFIG)
    assert LayerPattern("a", "b", Dim(2))(CONFIG) == ["a", "b", "a"]
    assert [If(Is("on"), HEADS, EMBD)({**CONFIG, "on": on}) for on in (True, False)] == [4, 64]


def test_exceptions_of_a_kind_of_layers() -> None:
    exceptions = LayerOverrides("sliding", {"head_dim": "narrow", "hidden_size": "absent"})({**CONFIG, "narrow": 8})
    assert exceptions == {"1": {"head_dim": 8}}
    seen = [at_layer({**CONFIG, "per_layer_config": exceptions}, layer, 3) for layer in range(3)]
    assert [(EMBD * HEAD_DIM)(layer) for layer in seen] == [64 * 16, 64 * 8, 64 * 16]


@pytest.mark.parametrize(
    ("condition", "layers"),
    [
        (Is("layer_types", "full"), [0, 2]),
        (~Is("layer_types", "full"), [1]),
        (Dim("first") > LAYER_INDEX, [0, 1]),
        (Dim("first") <= LAYER_INDEX, [2]),
        (LayerIn("dense"), [1]),
        (Equal((LAYER_INDEX + 1) % 2, Dim(0)), [1]),
        (Is("on"), []),
        (Is("layer_types", "full") & (LAYER_INDEX < 1), [0]),
        (Is("layer_types", "sliding") | (LAYER_INDEX < 1), [0, 1]),
    ],
    ids=str,
)
def test_conditions(condition: Condition, layers: list[int]) -> None:
    assert [layer for layer in range(3) if condition(at_layer(CONFIG, layer, 3))] == layers


QUARTER = {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0, "partial_rotary_factor": 0.25}}


@pytest.mark.parametrize(
    ("row", "config", "keys", "back"),
    [
        (Key("a", "x"), {"a": 5}, {"x": 5}, {"a": 5}),
        (Key("a", "x"), {"a": None}, {}, {}),
        (Key("a", "x", when=Is("b")), {"a": 5, "b": False}, {}, {}),
        (Key("a", "x", null=0), {"a": None}, {"x": 0}, {"a": None}),
        (Constant("x", 7), {}, {"x": 7}, {}),
        (Computed("x", 2 * Dim("a")), {"a": 3}, {"x": 6}, {}),
        (Mapped("a", "x", {"softmax": 1, "sigmoid": 2}), {"a": "sigmoid"}, {"x": 2}, {"a": "sigmoid"}),
        (Mapped("a", "x", {"softmax": 1}), {"a": "other"}, {}, {}),
        (PerLayer("a", "x"), {"a": [1, 2]}, {"x": [1, 2]}, {"a": [1, 2]}),
        (
            LayerFlags("a", "x"),
            {"a": ["sliding_attention", "full_attention"]},
            {"x": [True, False]},
            {"a": ["sliding_attention", "full_attention"]},
        ),
        (LayerFlags("a", "x", every="n"), {"n": 6}, {"x": 6}, {"n": 6}),
        (
            Rope(dimension=True),
            {
                "rope_parameters": {"rope_type": "default", "rope_theta": 5.0, "partial_rotary_factor": 0.25},
                "head_dim": 8,
            },
            {"rope.freq_base": 5.0, "rope.dimension_count": 2},
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0, "partial_rotary_factor": 0.25}},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rows(row: Any, config: dict[str, Any], keys: dict[str, Any], back: dict[str, Any]) -> None:
    assert dict(row.to_gguf(config)) == keys
    more = {"attention.key_length": 8} if isinstance(row, Rope) else {}
    assert row.to_hf(lambda suffix, each=False: {**keys, **more}.get(suffix)) == back


@pytest.mark.parametrize(("value", "back"), [(None, {}), (1, {"a": False}), (2, {"a": True})])
def test_more_is_read_back_only(value: int | None, back: dict[str, bool]) -> None:
    row = GreaterThan("a", "x", 1)
    assert list(row.to_gguf({"a": True})) == []
    assert row.to_hf(lambda suffix, each=False: value) == back


def proof_of(arch: str) -> Proof:
    return next(proof for proof in all_proofs() if proof.arch == arch)


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma3")
    save_proof(proof_of("gemma3"), folder)
    return folder


def same(a: Model, b: Model) -> bool:
    theirs = {tensor.name: tensor for tensor in b}
    return {t.name for t in a} == set(theirs) and all(
        np.array_equal(t.rows(0, t.n_rows), theirs[t.name].rows(0, t.n_rows)) for t in a
    )


@pytest.mark.parametrize("name", ["stablelm-12b", "olmo3", "phi3-long factors", "falcon-40b", "gptneox-sequential"])
def test_files_of_other_converters_come_back(name: str, tmp_path: Path) -> None:
    """Without our keys tensors tell flags, keys the class, and the logits are the same."""
    proof = next(proof for proof in all_proofs() if proof.id == name)
    if proof.arch == "phi3":  # the class's own padding token is beyond this vocabulary
        proof = replace(proof, config={**proof.config, "vocab_size": 32064})
    expected = run_proof(proof, save_proof(proof, tmp_path / "hf"))
    model = read_hf(tmp_path / "hf")
    bare = {key: value for key, value in model.metadata.items() if not key.startswith("quantmill.")}
    write_hf(replace(model, metadata=bare), tmp_path / "back")
    back = getattr(transformers, proof.model).from_pretrained(tmp_path / "back", dtype=torch.float32)
    assert same_logits(proof, back.eval(), expected)


def test_a_class_that_is_llama_by_another_name(tmp_path: Path) -> None:
    """InternLM3: its config class is in transformers, its model is Llama's."""
    proof = proof_of("llama")
    expected = run_proof(proof, save_proof(proof, tmp_path / "hf"))
    as_llama = read_hf(tmp_path / "hf")
    path = tmp_path / "hf/config.json"
    config = json.loads(path.read_text())
    config |= {"qkv_bias": config.pop("attention_bias"), "bias": config.pop("mlp_bias"), "model_type": "internlm3"}
    path.write_text(json.dumps(config | {"architectures": ["InternLM3ForCausalLM"]}))
    model = read_hf(tmp_path / "hf")
    assert same(model, as_llama)
    write_hf(model, tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text())["qkv_bias"] is True
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert back.config.model_type == "internlm3"
    assert same_logits(proof, back.eval(), expected)


@pytest.mark.parametrize("root", ["model.language_model.", "language_model.model."])
def test_a_text_model_inside_a_wrapper(root: str, gemma3: Path, tmp_path: Path) -> None:
    config = json.loads((gemma3 / "config.json").read_text())
    outer = {key: config.pop(key) for key in ("architectures", "tie_word_embeddings", "eos_token_id")}
    outer |= {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": config, "model_type": "gemma3"}
    outer |= {"vision_config": {"hidden_size": 9}}
    (tmp_path / "config.json").write_text(json.dumps(outer))
    (tmp_path / "generation_config.json").write_text((gemma3 / "generation_config.json").read_text())
    state = {name.replace("model.", root, 1): t for name, t in load_file(gemma3 / "model.safetensors").items()}
    save_file({**state, "vision_tower.patch.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    model, plain = read_hf(tmp_path), read_hf(gemma3)
    assert same(model, plain)
    told = [key for key, value in plain.metadata.items() if not key.startswith("general.") and value.item is None]
    assert {key: model.get(key) for key in told} == {key: plain.get(key) for key in told}
    write_hf(model, tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text())["architectures"] == ["Gemma3ForCausalLM"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_computed_norms_come_back_bit_for_bit(dtype: torch.dtype, gemma3: Path, tmp_path: Path) -> None:
    """Numbers that one plus a weight forgets among them: tiny ones, and the zero with a sign."""
    (tmp_path / "config.json").write_text((gemma3 / "config.json").read_text())
    state = {name: tensor.to(dtype) for name, tensor in load_file(gemma3 / "model.safetensors").items()}
    state["model.norm.weight"][:4] = torch.tensor([1e-7, -0.0, 3e-5, -6e-8])
    save_file(state, tmp_path / "model.safetensors")
    model = read_hf(tmp_path)
    kept = {key.removeprefix(ORIGINAL) for key in model.metadata if key.startswith(ORIGINAL)}
    assert kept == {"model.norm.weight"} | kept
    write_gguf(tmp_path / "model.gguf", model)
    write_hf(read_gguf(tmp_path / "model.gguf"), tmp_path / "back")
    back = load_file(tmp_path / "back/model.safetensors")
    assert all(torch.equal(back[name].view(torch.uint8), tensor.view(torch.uint8)) for name, tensor in state.items())


def test_what_was_changed_since_is_not_overwritten_by_the_original(gemma3: Path, tmp_path: Path) -> None:
    model = read_hf(gemma3)
    norm = next(t for t in model if t.name == "output_norm.weight")
    twos = np.full((1, norm.width), 2, "<f4").view(np.uint8)
    changed = replace(norm, read=lambda a, b: twos[a:b])
    write_hf(replace(model, tensors=tuple(changed if t is norm else t for t in model)), tmp_path / "out")
    assert load_file(tmp_path / "out/model.safetensors")["model.norm.weight"].unique().tolist() == [1.0]


def test_other_roots_and_shards(tmp_path: Path) -> None:
    """GPT-2 as its first checkpoints have it: no root, masks among the weights; here in shards too."""
    source = tmp_path / "gpt2"
    save_proof(proof_of("gpt2"), source)
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text((source / "config.json").read_text())
    state = {name.removeprefix("transformer."): t for name, t in load_file(source / "model.safetensors").items()}
    state["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    names = list(state)
    for i in range(2):
        save_file({name: state[name] for name in names[i::2]}, old / f"model-0000{i + 1}-of-00002.safetensors")
    assert same(read_hf(old), read_hf(source))


@pytest.mark.parametrize(
    "arch",
    ["gemma2", "gemma3", "gemma4", "llama4", "mistral3", "mixtral", "qwen2moe", "qwen3next", "qwen35", "qwen35moe"],
)
def test_a_file_without_our_keys_comes_back(arch: str, tmp_path: Path) -> None:
    """As llama.cpp's converter writes them: the standard keys and the tensors tell all that a model computes."""
    proof = proof_of(arch)
    expected = run_proof(proof, save_proof(proof, tmp_path / "hf"))
    model = read_hf(tmp_path / "hf")
    foreign = {key: value for key, value in model.metadata.items() if not key.startswith("quantmill.")}
    write_hf(replace(model, metadata=foreign), tmp_path / "back")
    back = getattr(transformers, proof.model).from_pretrained(tmp_path / "back")
    assert np.abs(run_proof(proof, back.eval()) - expected).max() < 1e-5 * np.ptp(expected)


@pytest.mark.parametrize(
    ("arch", "changes", "message"),
    [
        (
            "gemma3",
            {"query_pre_attn_scalar": 256},
            "query_pre_attn_scalar: 256 is not what llama.cpp's gemma3 takes for granted",
        ),
        ("gemma3", {"attention_bias": True}, "attention_bias: is True; llama.cpp's gemma3 computes False"),
        (
            "gemma3",
            {"num_hidden_layers": 1 << 30, "layer_types": None},
            "num_hidden_layers: 13958643712 tensors are more than any model has",
        ),
        ("gemma3", {"intermediate_size": "x"}, "intermediate_size: 'x' is not a positive integer"),
    ],
)
def test_configs_that_cannot_be(arch: str, changes: dict[str, Any], message: str, gemma3: Path, tmp_path: Path) -> None:
    config = json.loads((gemma3 / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(load_file(gemma3 / "model.safetensors"), tmp_path / "model.safetensors")
    with pytest.raises(FormatError) as error:
        read_hf(tmp_path)
    assert str(error.value) == f"{tmp_path}/config.json: {message}"
