"""Encoders' classes: heads that are left out, classifiers and their labels, positions behind the padding's."""

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

from oracles.llama import Llama
from oracles.proofs import all_proofs, ask, run_proof, same_logits, save_proof, tokens_of
from quantmill.formats.errors import FormatError, QuantmillError, UnmatchedTensor
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.hf.load import ORIGINAL, read_hf
from quantmill.formats.hf.save import write_hf

PROOF = {proof.model: proof for proof in reversed(all_proofs())}
MASKED = ("Bert", "XLMRoberta", "Roberta", "Camembert", "DistilBert", "ModernBert")
_POSITIONS = "embeddings.position_embeddings.weight"


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("base", MASKED)
def test_a_head_that_predicts_masked_tokens_is_left_out(base: str, tmp_path: Path) -> None:
    """Said in a line; the rest is the bare model's, and is written back as one."""
    proof = replace(PROOF[f"{base}Model"], model=f"{base}ForMaskedLM")
    model = save_proof(proof, tmp_path / "hf")
    said: list[str] = []
    source = read_hf(tmp_path / "hf", say=said.append)
    assert [line.partition(": ")[2].partition(" (")[0] for line in said] == [
        "left out, as the text model is computed without it: "
        + ("heads of pretraining" if base == "Bert" else "head that predicts masked tokens")
    ]
    write_gguf(tmp_path / "m.gguf", source)
    inner = getattr(model, model.base_model_prefix)
    with Llama(tmp_path / "m.gguf") as llama:
        want = run_proof(replace(proof, embeds=True), inner)
        assert np.abs(llama.embeddings(tokens_of(proof)) - want).max() < 2e-3 * np.ptp(want)
    write_hf(read_gguf(tmp_path / "m.gguf"), tmp_path / "back")
    back = getattr(transformers, f"{base}Model").from_pretrained(tmp_path / "back").eval()
    assert same_logits(replace(proof, embeds=True), back, want)
    assert json.loads((tmp_path / "back/config.json").read_text())["architectures"] == [f"{base}Model"]


@pytest.mark.parametrize("labels", [1, 2])
def test_one_and_two_labels(labels: int, tmp_path: Path) -> None:
    """One result is a reranker's. Without names, transformers makes some up."""
    proof = replace(PROOF["BertForSequenceClassification"], config={"num_attention_heads": 4, "num_labels": labels})
    model = save_proof(proof, tmp_path / "hf")
    source = read_hf(tmp_path / "hf")
    assert source.get("bert.classifier.output_labels") == tuple(f"LABEL_{i}" for i in range(labels))
    write_gguf(tmp_path / "m.gguf", source)
    with Llama(tmp_path / "m.gguf") as llama:
        assert np.abs(ask(llama, proof) - run_proof(proof, model)).max() < 5e-3
    write_hf(read_gguf(tmp_path / "m.gguf"), tmp_path / "back")
    back = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "back").eval()
    saved = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    assert same_logits(proof, back, run_proof(proof, saved))


def test_names_without_the_model_s_own_give_the_same_file(tmp_path: Path) -> None:
    """Published BERTs have them with ``bert.``, those of sentence-transformers without; old ones say gamma and beta."""
    save_proof(PROOF["XLMRobertaModel"], tmp_path / "hf")
    one = read_hf(tmp_path / "hf")
    state = {f"roberta.{name}": weight for name, weight in load_file(tmp_path / "hf/model.safetensors").items()}
    save_file(state, tmp_path / "hf/model.safetensors", metadata={"format": "pt"})
    other = read_hf(tmp_path / "hf")
    for a, b in zip(one, other, strict=True):
        assert (a.name, a.shape) == (b.name, b.shape)
        assert np.array_equal(a.rows(0, a.n_rows), b.rows(0, b.n_rows))


def test_positions_before_the_padding_s(tmp_path: Path) -> None:
    """What is nothing there need not be kept; what is kept is only those rows; a changed file gives its own."""
    save_proof(PROOF["XLMRobertaModel"], tmp_path / "hf")
    model = read_hf(tmp_path / "hf")
    assert model.hparam("context_length") == 128
    kept = model.get(ORIGINAL + f"roberta.{_POSITIONS}")
    assert isinstance(kept, np.ndarray)
    assert kept.size == 2 * 256
    state = load_file(tmp_path / "hf/model.safetensors")
    state[_POSITIONS][:2] = 0
    save_file(state, tmp_path / "hf/model.safetensors", metadata={"format": "pt"})
    zeros = read_hf(tmp_path / "hf")
    assert zeros.get(ORIGINAL + f"roberta.{_POSITIONS}") is None
    write_hf(zeros, tmp_path / "back")
    assert torch.equal(load_file(tmp_path / "back/model.safetensors")[_POSITIONS], state[_POSITIONS])


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("BertForSequenceClassification", {"id2label": {"0": "a", "2": "b", "3": "c"}}, "not a name for each of 3"),
        ("BertForSequenceClassification", {"id2label": {"0": 1}}, "id2label: {'0': 1} is not an object of texts"),
        ("BertForSequenceClassification", {"id2label": {"0": "a"}}, "classifier.bias: its shape is [3], the"),
        ("Qwen3ForSequenceClassification", {"id2label": {"0": "a"}}, "num_labels: 1 is not what llama.cpp's qwen3"),
        ("BertModel", {"position_embedding_type": "relative_key"}, "position_embedding_type: 'relative_key' is not"),
        ("XLMRobertaModel", {"pad_token_id": 129}, "nothing is left of 130 rows without the first 130"),
        ("XLMRobertaModel", {"pad_token_id": None}, "pad_token_id: None is not a"),
        ("ModernBertForSequenceClassification", {"classifier_bias": True}, "classifier_bias: True is not what"),
    ],
)
def test_what_makes_no_encoder(model: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_proof(PROOF[model], tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(FormatError) as error:
        read_hf(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_jina_s_first_checkpoints(tmp_path: Path) -> None:
    """Their weights stand beside adapters, which are left out: the rest is the same file, and another class's."""
    save_proof(PROOF["JinaEmbeddingsV3Model"], tmp_path / "hf")
    plain = read_hf(tmp_path / "hf")
    state = {}
    for name, weight in load_file(tmp_path / "hf/model.safetensors").items():
        stem = f"roberta.{name.removesuffix('.weight')}"
        adapted = name.endswith(".weight") and ("mixer" in name or "mlp" in name or "_embeddings" in name)
        state[f"{stem}.parametrizations.weight.original" if adapted else f"roberta.{name}"] = weight
        if adapted:
            state |= {f"{stem}.parametrizations.weight.0.lora_{side}": torch.ones(5, 4, 256) for side in "AB"}
    save_file(state, tmp_path / "hf/model.safetensors", metadata={"format": "pt"})
    edit_config(tmp_path / "hf", **PROOF["JinaEmbeddingsV3Model"].published)
    said: list[str] = []
    model = read_hf(tmp_path / "hf", say=said.append)
    assert any(
        "left out, as the text model is computed without it: adapters of its tasks (28 tensors" in s for s in said
    )
    assert [t.name for t in model] == [t.name for t in plain]
    assert all(
        a.rows(0, a.n_rows).tobytes() == b.rows(0, b.n_rows).tobytes() for a, b in zip(model, plain, strict=True)
    )
    write_hf(model, tmp_path / "back")
    back = transformers.AutoModel.from_pretrained(tmp_path / "back").eval()
    assert type(back).__name__ == "JinaEmbeddingsV3Model"
    assert np.isfinite(run_proof(PROOF["JinaEmbeddingsV3Model"], back)).all()


def test_embedding_gemma_2_with_its_towers(tmp_path: Path) -> None:
    """As it is published: the text model is converted, and its projection is the output's matrix."""
    save_proof(PROOF["EmbeddingGemma2TextModel"], tmp_path / "hf")
    text = read_hf(tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    outer = {"architectures": ["EmbeddingGemma2Model"], "model_type": "embedding_gemma2", "text_config": config}
    (tmp_path / "hf/config.json").write_text(json.dumps(outer))
    state = {f"language_model.{name}": w for name, w in load_file(tmp_path / "hf/model.safetensors").items()}
    towers = {"vision_tower.x.weight": torch.ones(3), "embed_audio.embedding_projection.weight": torch.ones(3)}
    save_file(state | towers, tmp_path / "hf/model.safetensors", metadata={"format": "pt"})
    said: list[str] = []
    model = read_hf(tmp_path / "hf", say=said.append)
    assert [t.name for t in model] == [t.name for t in text]
    assert "output.weight" in {t.name for t in model}
    assert any("vision tower (1 tensor" in line and "audio tower (1 tensor" in line for line in said)
    assert model.get("quantmill.hf.class") == "EmbeddingGemma2TextModel"


def test_a_classifier_of_a_file_without_our_keys(tmp_path: Path) -> None:
    """Its tensors say what it is."""
    proof = PROOF["BertForSequenceClassification"]
    save_proof(proof, tmp_path / "hf")
    source = read_hf(tmp_path / "hf")
    kept = {key: value for key, value in source.metadata.items() if not key.startswith("quantmill.")}
    write_hf(replace(source, metadata=kept), tmp_path / "back")
    back = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "back").eval()
    assert back.config.id2label == {0: "no", 1: "perhaps", 2: "yes"}
    saved = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    assert same_logits(proof, back, run_proof(proof, saved))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("BertForSequenceClassification", True),
        ("XLMRobertaForSequenceClassification", True),
        ("ModernBertForSequenceClassification", True),
        ("Qwen3ForSequenceClassification", False),  # whose files say it themselves
    ],
)
def test_a_classifier_says_how_llama_cpp_ranks(model: str, says: bool, tmp_path: Path) -> None:
    save_proof(PROOF[model], tmp_path)
    said: list[str] = []
    source = read_hf(tmp_path, say=said.append)
    line = f"{tmp_path}: a classifier, which files of {source.arch} do not say: give llama.cpp --pooling rank"
    assert (line in said) == says
    assert (source.get(f"{source.arch}.pooling_type") == 4) != says


def test_labels_without_a_head(tmp_path: Path) -> None:
    save_proof(PROOF["BertForSequenceClassification"], tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    left = {name: weight for name, weight in state.items() if not name.startswith("classifier")}
    save_file(left, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnmatchedTensor, match=r"missing classifier\.weight, classifier\.bias"):
        read_hf(tmp_path)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("DistilBertForSequenceClassification", "its head has a ReLU where llama.cpp computes a tanh"),
        ("LlamaForSequenceClassification", "llama.cpp's llama loads no classifier"),
        ("EuroBertForSequenceClassification", "llama.cpp's eurobert loads no classifier"),
        ("UMT5ForConditionalGeneration", "llama.cpp leaves out the scale of its output"),
        ("Qwen2ForSequenceClassification", "llama.cpp's qwen2 loads no classifier"),
    ],
)
def test_classifiers_that_llama_cpp_lacks(model: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [model], "model_type": "llama"}))
    with pytest.raises(QuantmillError) as error:
        read_hf(tmp_path)
    assert f"architectures: {model}: {reason}" in str(error.value)
