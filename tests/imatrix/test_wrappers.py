"""The layer-wise runner on classes around a text model: the whole model's logits, and an entry for each weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from oracles.proofs import all_proofs, save_proof
from quantmill.formats.hf.load import read_hf
from quantmill.imatrix.activations import Activations
from quantmill.imatrix.collect import Collector
from quantmill.imatrix.corpus import cut
from quantmill.imatrix.runner import DTYPES, ComputeOptions, Runner
from quantmill.imatrix.weights import Weights
from quantmill.quantize.choose import may_quantize

CASES = ("qwen2vl", "qwen3vlmoe")


@pytest.mark.parametrize("case", CASES)
def test_layer_by_layer_is_the_whole_model(case: str, tmp_path: Path) -> None:
    proof = next(proof for proof in all_proofs() if proof.id == case)
    save_proof(proof, tmp_path / "hf")
    text = cut(np.random.default_rng(3).integers(2, 320, 4 * 24), 24, bos=1)
    whole = getattr(transformers, proof.model).from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = whole(torch.from_numpy(text.inputs).long()).logits
    weights = Weights(read_hf(tmp_path / "hf"))
    how = ComputeOptions(batch=2)
    shape = (text.n_chunks, text.n_ctx, weights.embedding.width)
    run = Runner(weights, text, how, Activations(shape, DTYPES[how.dtype], tmp_path / "state", 1 << 30))
    collector = Collector()
    run.embed()
    run.finish(collector)
    found = torch.stack([logits for _, logits, _ in run.logits(collector)])
    torch.testing.assert_close(found, expected[:, 12:-1], rtol=1e-4, atol=1e-4)
    wanted = {tensor.name for tensor in weights.model if may_quantize(tensor, weights.model.arch)}
    assert wanted - {"token_embd.weight"} <= collector.sums.keys()
