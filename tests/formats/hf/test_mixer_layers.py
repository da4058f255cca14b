"""Hybrids whose layers have one mixer each: how configs say which, and the layouts of their weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from oracles.proofs import all_proofs, save_proof
from quantmill.formats.errors import FormatError
from quantmill.formats.hf.archs import BY_CLASS
from quantmill.formats.hf.classes import arch_of_config
from quantmill.formats.hf.config import complete_config
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import arch_of_model, write_hf
from quantmill.formats.hf.tables.dimensions import Number, at_layer
from quantmill.formats.hf.tables.hybrid_rows import ListedAttention, MixerLayers, PeriodicAttention
from quantmill.formats.hf.tables.layer_kinds import Alike, Contains
from quantmill.formats.hf.tables.layer_words import Length, Letters, Ones
from quantmill.formats.ir import Model
from quantmill.tools.api.architectures import architectures

PROOFS = {proof.id: proof for proof in all_proofs()}
PATH = Path("config.json")


def test_letters_are_words() -> None:
    letters = Letters("pattern", {"M": "mamba", "*": "attention"})
    assert letters({"pattern": "M*M", "num_hidden_layers": 3}) == ["mamba", "attention", "mamba"]
    assert letters({}) is None
    assert (Length("words")({"words": ["a", "b"]}), Length("words")({})) == (2, None)


def test_conditions_on_configs_as_they_stand() -> None:
    assert Contains("pattern", "E")({"pattern": "MEM"})
    assert Contains("words", "moe")({"words": ["moe"]})
    assert not any(Contains("pattern", "E")({"pattern": value}) for value in ("M*", ["EE"], None, 3, {"E": 1}))
    assert Alike("a", "b")({"a": 1e-5, "b": 1e-5})
    assert not Alike("a", "b")({"a": 1e-5, "b": 1e-6})


def test_layers_of_one_mixer() -> None:
    row = MixerLayers("mlp", "intermediate_size")
    words = ["linear_attention", "mlp", "full_attention"]
    written = dict(row.to_gguf({"layer_types": words, "num_key_value_heads": 2, "intermediate_size": 96}))
    assert written == {"attention.head_count_kv": [0, 0, 2], "feed_forward_length": [0, 96, 0]}
    back = row.to_hf(lambda suffix, each=False: written[suffix])
    assert back == {"layer_types": words, "num_key_value_heads": 2, "intermediate_size": 96}
    assert row.to_hf(lambda suffix, each=False: None) == {}
    none = row.to_hf(lambda suffix, each=False: [0, 0])
    assert none == {"layer_types": ["linear_attention", "linear_attention"]}


def test_layers_with_attention_by_a_list_or_a_period() -> None:
    listed, periodic = ListedAttention("layers"), PeriodicAttention("period", "offset")
    sizes = {"num_key_value_heads": 2, "num_hidden_layers": 5}

    def back(row: ListedAttention | PeriodicAttention, heads: Any) -> dict[str, Any]:
        return row.to_hf(lambda suffix, each=False: heads)

    given = {"period": 3, "offset": 1}
    made = [dict(row.to_gguf(sizes | given | {"layers": [1, 4]})) for row in (listed, periodic)]
    assert made == [{"attention.head_count_kv": [0, 2, 0, 0, 2]}] * 2
    heads = made[0]["attention.head_count_kv"]
    assert back(listed, heads) == {"layers": [1, 4], "num_key_value_heads": 2}
    assert back(periodic, heads) == given | {"num_key_value_heads": 2}
    assert back(periodic, [0, 2, 0]) == {"period": 3, "offset": 1, "num_key_value_heads": 2}
    assert back(periodic, [0, 0]) == {"period": 3, "offset": 2}
    assert dict(listed.to_gguf(sizes | {"layers": None})) == {"attention.head_count_kv": [0] * 5}
    assert back(listed, 2) == back(periodic, 2) == {}
    with pytest.raises(FormatError, match=r"layers: not all of its layers are in 0 to 4: \[5\]"):
        dict(listed.to_gguf(sizes | {"layers": [5]}))


_SIZES = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "vocab_size": 32,
}


@pytest.mark.parametrize(
    ("name", "wrong", "problem"),
    [
        ("JambaForCausalLM", {"attn_layer_offset": 8}, "attn_layer_offset: 8 is not what llama.cpp's jamba takes"),
        ("JambaForCausalLM", {"expert_layer_offset": 2}, "expert_layer_offset: 2 is not what llama.cpp's jamba takes"),
        ("JambaForCausalLM", {"num_experts": 1}, "num_experts_per_tok: 2 is not what llama.cpp's jamba takes"),
        ("JambaForCausalLM", {"head_dim": 32}, "head_dim: 32 is not what llama.cpp's jamba takes for granted"),
        ("JambaForCausalLM", {"mamba_expand": 3}, "mamba_expand: is 3; llama.cpp's jamba computes 2"),
        ("BambaForCausalLM", {"attn_rotary_emb": 16}, "attn_rotary_emb: 16 is not what llama.cpp's granitehybrid"),
        ("BambaForCausalLM", {"attn_layer_indices": 3}, "attn_layer_indices: 3 is not a list of whole numbers"),
        (
            "FalconH1ForCausalLM",
            {"mamba_rms_norm": True},
            "mamba_norm_before_gate: True is not what llama.cpp's falcon",
        ),
        ("FalconH1ForCausalLM", {"tie_word_embeddings": True}, "tie_word_embeddings: is True; llama.cpp's falcon-h1"),
        ("FalconH1ForCausalLM", {"ssm_multipliers": [1.0]}, "ssm_multipliers: [1.0] is not what llama.cpp's falcon-h1"),
        ("FalconH1ForCausalLM", {"ssm_multipliers": "x"}, "ssm_multipliers: 'x' is not a list of numbers"),
        ("FalconMambaForCausalLM", {"mixer_rms_eps": 1e-3}, "mixer_rms_eps: 0.001 is not what llama.cpp's mamba"),
    ],
)
def test_what_llama_cpp_cannot_is_one_line(name: str, wrong: dict[str, Any], problem: str) -> None:
    arch = BY_CLASS[name]
    complete_config(_SIZES, arch, arch.classes[name], PATH)
    with pytest.raises(FormatError) as error:
        complete_config(_SIZES | wrong, arch, arch.classes[name], PATH)
    assert str(error.value).startswith(f"{PATH}: {problem}")


@pytest.mark.parametrize("case", ["mamba", "falcon-mamba", "bamba", "granitehybrid-dense", "granitehybrid"])
def test_architectures_of_one_name_in_gguf_are_told_apart(case: str, tmp_path: Path) -> None:
    save_proof(PROOFS[case], tmp_path)
    model = read_hf(tmp_path)
    assert arch_of_model(model)[0].name == PROOFS[case].arch
    foreign = {key: value for key, value in model.metadata.items() if not key.startswith("quantmill.")}
    assert arch_of_model(replace(model, metadata=foreign))[0].name == PROOFS[case].arch


_NEMOTRON = {"architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "num_hidden_layers": 4}


@pytest.mark.parametrize(
    ("layers", "arch"),
    [
        ({"hybrid_override_pattern": "M-*-"}, "nemotron_h"),
        ({"hybrid_override_pattern": "MEME"}, "nemotron_h_moe"),
        ({"layers_block_type": ["mamba", "mlp", "attention", "mamba"]}, "nemotron_h"),
        ({"layers_block_type": ["mamba", "moe", "attention", "mamba"]}, "nemotron_h_moe"),
    ],
)
def test_layers_choose_among_architectures_of_one_class(layers: dict[str, Any], arch: str) -> None:
    config = _NEMOTRON | layers
    for given in (config, {**config, "architectures": None}, {**config, "model_type": None}):
        found, name = arch_of_config(given, PATH)
        assert found.name == arch
        whole = complete_config(given, found, found.classes[name], PATH)
        assert len(whole["layer_types"]) == whole["num_hidden_layers"] == 4
    assert arch_of_config({**config, "architectures": ["NemotronHModel"]}, PATH)[0].name == arch


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"hybrid_override_pattern": "M-X*"}, "hybrid_override_pattern: 'X' has no meaning here (known: *, -, M)"),
        ({"hybrid_override_pattern": "ME-*"}, "hybrid_override_pattern: '-' has no meaning here (known: *, E, M)"),
        ({"hybrid_override_pattern": "M-*"}, "hybrid_override_pattern: 3 letters for 4 layers (is config.json of one"),
        ({"layers_block_type": ["moe", "mlp", "moe", "moe"]}, "layer_types: 'mlp' has no meaning here (known: att"),
        ({"layers_block_type": ["mamba"]}, "layer_types: 1 words for 4 layers"),
        (
            {"hybrid_override_pattern": "M-*-", "layers_block_type": ["mamba", "mlp", "mlp", "mlp"]},
            "hybrid_override_pattern: 'M-*-' is not what llama.cpp's nemotron_h takes for granted",
        ),
        ({}, "layer_types: None is not what llama.cpp's nemotron_h takes for granted"),
        ({"hybrid_override_pattern": "M-*-", "rms_norm_eps": 1e-6}, "rms_norm_eps: 1e-06 is not what llama.cpp's"),
        ({"hybrid_override_pattern": "M-*-", "attention_bias": True}, "attention_bias: is True; llama.cpp's nemotron"),
        ({"hybrid_override_pattern": "M-*-", "time_step_limit": [0.0, 0.1]}, "time_step_limit: is [0.0, 0.1]; llama"),
        ({"hybrid_override_pattern": "MEME", "mlp_bias": True}, "mlp_bias: is True; llama.cpp's nemotron_h_moe"),
        ({"hybrid_override_pattern": 3}, "hybrid_override_pattern: 3 is not a text"),
    ],
)
def test_contradictions_are_one_line(wrong: dict[str, Any], problem: str) -> None:
    config = _NEMOTRON | wrong
    found, name = arch_of_config(config, PATH)
    with pytest.raises(FormatError) as error:
        complete_config(config, found, found.classes[name], PATH)
    assert str(error.value).startswith(f"{PATH}: {problem}")


def test_numbers_of_a_config_and_of_a_list_in_it() -> None:
    config = {"one": 0.5, "list": [2, 0.25], "flag": True}
    assert (Number("one")(config), Number("list", 1)(config), Number("list", 0)(config)) == (0.5, 0.25, 2.0)
    assert Number("list", 1)(at_layer(config, 0, 2)) == 0.25  # a list of two is none of two layers
    assert Ones(3)(config) == [1.0, 1.0, 1.0]
    for wrong in (Number("none"), Number("flag"), Number("list"), Number("list", 2), Number("one", 0)):
        with pytest.raises(FormatError, match=f"^{wrong.key}.*: .* is not a number"):
            wrong(config)


def test_falcon_h1_is_one_way_and_says_so(tmp_path: Path) -> None:
    save_proof(PROOFS["falcon-h1"], tmp_path)
    said: list[str] = []
    model = read_hf(tmp_path, say=said.append)
    reason = "the model's multipliers are in the weights"
    assert said == [f"{tmp_path}: proven by llama.cpp's own converter alone, not by logits: {reason}"]
    assert not any(key.startswith("quantmill.hf.original") for key in model.metadata)
    with pytest.raises(FormatError) as error:
        write_hf(model, tmp_path / "back")
    assert str(error.value).startswith(f"{tmp_path}: makes no checkpoint: {reason}, and dividing by them does not")
    (found,) = architectures("falcon-h1")
    assert (found.proof, found.proven) == ("converter", ("converter", "levels"))


def contents(model: Model) -> dict[str, bytes]:
    return {tensor.name: bytes(np.ascontiguousarray(tensor.rows(0, tensor.n_rows))) for tensor in model}


def test_nemotron_s_names_may_begin_as_in_transformers(tmp_path: Path) -> None:
    save_proof(PROOFS["nemotron_h_moe"], tmp_path)
    model = read_hf(tmp_path)
    theirs = contents(model)
    state = load_file(tmp_path / "model.safetensors")
    assert "backbone.layers.0.mixer.A_log" in state
    state = {name.replace("backbone.", "model."): tensor for name, tensor in state.items()}
    config = json.loads((tmp_path / "config.json").read_text())
    del config["layers_block_type"]  # as published
    config |= {"hybrid_override_pattern": "ME*E", "num_hidden_layers": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    other = read_hf(tmp_path)
    assert contents(other) == theirs
    ours = {key: value for key, value in model.metadata.items() if not key.startswith("quantmill.")}
    assert all(np.array_equal(other.metadata[key].data, value.data) for key, value in ours.items())
