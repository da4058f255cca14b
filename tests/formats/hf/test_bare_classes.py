"""The classes without a head, of every architecture: llama.cpp computes transformers' hidden states, and back again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from oracles.llama import Llama, LlamaError
from oracles.proofs import Proof, all_proofs, run_proof, same_logits, save_proof, text_weights, tokens_of
from quantmill.formats.errors import FormatError, UnmatchedTensor
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.hf.archs import BY_CLASS
from quantmill.formats.hf.load import BARE, read_hf
from quantmill.formats.hf.save import arch_of_model, write_hf
from quantmill.formats.hf.shapes import read_shapes
from quantmill.formats.ir import Model

# One for each class with a head; the first proof of each has most features switched on.
PROOFS = {proof.model: proof for proof in reversed(all_proofs()) if proof.predicts}
HEADLESS = [proof for proof in PROOFS.values() if not BY_CLASS[proof.model].needs_head]
# llama.cpp aborts where it is asked for embeddings: it takes them for as wide as all residual streams. Its logits tell.
STREAMS = {"qwen4exp"}
LOGITS = "where logits are asked for, llama.cpp takes the embedding"
NEEDY = [proof for proof in PROOFS.values() if BY_CLASS[proof.model].needs_head]


def bare_class(proof: Proof) -> Any:
    """transformers' own, which AutoModel makes of the config."""
    return transformers.MODEL_MAPPING[getattr(transformers, proof.model).config_class]


def save_bare(proof: Proof, folder: Path) -> torch.nn.Module:
    return save_proof(replace(proof, model=bare_class(proof).__name__, further=None), folder)


def hidden(proof: Proof, model: torch.nn.Module) -> np.ndarray:
    return run_proof(replace(proof, embeds=True), model)


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def edit_config(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config_of(folder) | changes))


def equal(a: Path, b: Path, proof: Proof | None = None) -> bool:
    """Whether two folders hold the same bits under the same names; of a proof's, without its towers."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (a, b))
    theirs = text_weights(proof, b) if proof else theirs
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name].view(torch.uint8), weight.view(torch.uint8)) for name, weight in theirs.items()
    )


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    folder = tmp_path_factory.mktemp("first")
    save_bare(PROOFS["LlamaForCausalLM"], folder / "hf")
    write_gguf(folder / "first.gguf", read_hf(folder / "hf"))
    with Llama(folder / "first.gguf") as llama:
        yield llama


@pytest.mark.parametrize("proof", HEADLESS, ids=lambda proof: proof.id)
def test_hidden_states_and_the_way_back(proof: Proof, peer: Llama, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model = save_bare(proof, tmp_path / "hf")
    expected = hidden(proof, model)
    source = read_hf(tmp_path / "hf")
    assert "output.weight" not in {tensor.name for tensor in source}
    write_gguf(tmp_path / "bare.gguf", source)
    if not proof.encodes:  # a decoder's hidden states are not to be had from llama.cpp
        peer.open(tmp_path / "bare.gguf")
        if proof.arch in STREAMS:
            embedding = load_file(tmp_path / "hf" / "model.safetensors")["embed_tokens.weight"].numpy()
            found, wanted = peer.logits(tokens_of(proof)), expected @ embedding.T
        else:
            found, wanted = peer.embeddings(tokens_of(proof)), expected
        assert bool(np.abs(found - wanted).max() < 2e-3 * np.ptp(wanted)) is not proof.other_logits
    if reason := arch_of_model(source)[0].one_way:
        with pytest.raises(FormatError, match=f"makes no checkpoint: {reason}"):
            write_hf(read_gguf(tmp_path / "bare.gguf"), tmp_path / "back")
        return
    write_hf(read_gguf(tmp_path / "bare.gguf"), tmp_path / "back")
    assert equal(tmp_path / "back", tmp_path / "hf", proof)
    written, original = config_of(tmp_path / "back"), config_of(tmp_path / "hf")
    assert written["architectures"] == original["architectures"] == [bare_class(proof).__name__]
    assert written.get("tie_word_embeddings") == original.get("tie_word_embeddings")
    back, report = bare_class(proof).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert bool(report["missing_keys"]) == bool(proof.towers)
    assert not report["unexpected_keys"]
    assert np.array_equal(hidden(proof, back.eval()), expected)


@pytest.mark.parametrize("proof", NEEDY, ids=lambda proof: proof.id)
def test_llama_cpp_needs_the_head_where_we_say_so(proof: Proof, tmp_path: Path) -> None:
    save_bare(proof, tmp_path / "hf")
    with pytest.raises(UnmatchedTensor, match=r"a bare model, without .*, which llama\.cpp's .* needs \(save it with"):
        read_hf(tmp_path / "hf")
    save_proof(proof, tmp_path / "whole")
    whole = read_hf(tmp_path / "whole")
    write_gguf(tmp_path / "bare.gguf", replace(whole, tensors=tuple(t for t in whole if t.name != "output.weight")))
    with pytest.raises(LlamaError, match=r"output\.weight"), Llama(tmp_path / "bare.gguf"):
        pass


def as_qwen3_embedding(folder: Path, *, tied: bool) -> np.ndarray:
    """Qwen3-Embedding's layout: the class has a head, the names are of the one without; the larger are not tied."""
    proof = replace(PROOFS["Qwen3ForCausalLM"], config=dict(PROOFS["Qwen3ForCausalLM"].config))
    expected = hidden(proof, save_bare(proof, folder))
    edit_config(folder, architectures=["Qwen3ForCausalLM"], tie_word_embeddings=tied)
    return expected


@pytest.mark.parametrize("tied", [True, False], ids=["0.6B", "8B"])
def test_qwen3_embedding(tied: bool, peer: Llama, tmp_path: Path) -> None:
    expected = as_qwen3_embedding(tmp_path / "hf", tied=tied)
    said: list[str] = []
    write_gguf(tmp_path / "m.gguf", read_hf(tmp_path / "hf", say=said.append))
    assert said == ([] if tied else [f"{tmp_path}/hf: a bare model, without lm_head.weight: {LOGITS}"])
    peer.open(tmp_path / "m.gguf")
    assert np.abs(peer.embeddings(tokens_of(PROOFS["Qwen3ForCausalLM"])) - expected).max() < 2e-3 * np.ptp(expected)
    write_hf(read_gguf(tmp_path / "m.gguf"), tmp_path / "back")
    assert equal(tmp_path / "back", tmp_path / "hf")
    written = config_of(tmp_path / "back")
    assert (written["architectures"], written["tie_word_embeddings"]) == (["Qwen3ForCausalLM"], tied)
    for auto in (transformers.AutoModel, transformers.AutoModelForCausalLM):
        back, report = auto.from_pretrained(tmp_path / "back", output_loading_info=True)
        assert report["missing_keys"] == (set() if tied or auto is transformers.AutoModel else {"lm_head.weight"})
        inner = getattr(back, "model", back)
        assert np.array_equal(hidden(PROOFS["Qwen3ForCausalLM"], inner.eval()), expected)
    assert [t.name for t in read_shapes(tmp_path / "hf/config.json")].count("output.weight") == (not tied)


@pytest.mark.parametrize("model", ["GPT2LMHeadModel", "BloomForCausalLM", "LlamaForCausalLM", "MambaForCausalLM"])
def test_a_class_with_a_head_and_names_without_the_base(model: str, peer: Llama, tmp_path: Path) -> None:
    """As gpt2 and bloom are published: logits, and the same folder back."""
    proof = PROOFS[model]
    expected = run_proof(proof, save_proof(proof, tmp_path / "hf"))
    base = BY_CLASS[model].base
    state = {name.removeprefix(base): t for name, t in load_file(tmp_path / "hf/model.safetensors").items()}
    save_file(state, tmp_path / "hf/model.safetensors", metadata={"format": "pt"})
    source = read_hf(tmp_path / "hf")
    assert source.get(BARE) is True
    write_gguf(tmp_path / "m.gguf", source)
    peer.open(tmp_path / "m.gguf")
    assert np.abs(peer.logits(tokens_of(proof)) - expected).max() < 2e-3 * np.ptp(expected)
    write_hf(read_gguf(tmp_path / "m.gguf"), tmp_path / "back")
    assert equal(tmp_path / "back", tmp_path / "hf")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert same_logits(proof, back.eval(), expected)


def test_a_bare_class_around_a_tower(tmp_path: Path) -> None:
    """Gemma3Model: its text model's names begin with language_model, and its tower's weights are not the text's."""
    proof = PROOFS["Gemma3ForCausalLM"]
    save_bare(proof, tmp_path / "text")
    text = read_hf(tmp_path / "text")
    config = config_of(tmp_path / "text")
    outer = {"architectures": ["Gemma3Model"], "model_type": "gemma3", "text_config": config}
    folder = tmp_path / "whole"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(outer))
    state = {f"language_model.{name}": t for name, t in load_file(tmp_path / "text/model.safetensors").items()}
    save_file({**state, "vision_tower.x.weight": torch.ones(3)}, folder / "model.safetensors")
    model = read_hf(folder)
    assert {t.name for t in model} == {t.name for t in text}
    assert model.get("quantmill.hf.class") == "Gemma3TextModel"
    write_hf(model, tmp_path / "back")
    assert equal(tmp_path / "back", tmp_path / "text")


def test_a_bare_class_whose_names_have_the_base(tmp_path: Path) -> None:
    """transformers takes it off, whatever the class; we give the names back."""
    save_proof(PROOFS["Qwen2ForCausalLM"], tmp_path / "hf")
    edit_config(tmp_path / "hf", architectures=["Qwen2Model"])
    model = read_hf(tmp_path / "hf")
    assert "output.weight" in {t.name for t in model}
    write_hf(model, tmp_path / "back")
    assert equal(tmp_path / "back", tmp_path / "hf")


def test_a_missing_head_of_a_model_that_is_not_bare_is_an_error(tmp_path: Path) -> None:
    save_proof(PROOFS["Qwen2ForCausalLM"], tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state.pop("lm_head.weight")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UnmatchedTensor, match=r"missing lm_head\.weight"):
        read_hf(tmp_path)


@pytest.mark.parametrize("model", ["Gemma2ForCausalLM", "CohereForCausalLM", "GemmaForCausalLM"])
def test_where_llama_cpp_has_no_head_a_bare_model_lacks_none(model: str, tmp_path: Path) -> None:
    """Whatever the config says of a tie that is no part of the model."""
    save_bare(PROOFS[model], tmp_path / "hf")
    edit_config(tmp_path / "hf", tie_word_embeddings=False)
    said: list[str] = []
    write_gguf(tmp_path / "m.gguf", read_hf(tmp_path / "hf", say=said.append))
    assert said == [f"{tmp_path}/hf: a bare model, without lm_head.weight: {LOGITS}"]
    write_hf(read_gguf(tmp_path / "m.gguf"), tmp_path / "back")
    assert equal(tmp_path / "back", tmp_path / "hf")
    assert config_of(tmp_path / "back")["tie_word_embeddings"] is False


def test_shapes_of_a_bare_model(tmp_path: Path) -> None:
    save_bare(PROOFS["LlamaForCausalLM"], tmp_path)
    model: Model = read_shapes(tmp_path / "config.json")
    assert {t.name for t in model} == {t.name for t in read_hf(tmp_path)}


def test_an_architecture_null_is_of_its_type(tmp_path: Path) -> None:
    """And without a head where the names show that there is none."""
    save_bare(PROOFS["LlamaForCausalLM"], tmp_path / "hf")
    named = read_hf(tmp_path / "hf")
    shutil.copytree(tmp_path / "hf", tmp_path / "null")
    edit_config(tmp_path / "null", architectures=None)
    said: list[str] = []
    model = read_hf(tmp_path / "null", say=said.append)
    assert [t.name for t in model] == [t.name for t in named]
    assert [line.partition(": ")[2][:22] for line in said] == ["names no model class: ", "a bare model, without "]
