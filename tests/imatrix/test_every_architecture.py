"""An importance matrix of every architecture's proof: an entry for each tensor that may be quantized, or the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oracles.proofs import Proof, all_proofs, save_proof
from oracles.second_device import SecondDevice
from quantmill.formats.errors import UnknownArchitecture
from quantmill.formats.hf.load import read_hf
from quantmill.imatrix.activations import Activations
from quantmill.imatrix.collect import Collector
from quantmill.imatrix.corpus import cut
from quantmill.imatrix.further_tokens import collect_further
from quantmill.imatrix.runner import DTYPES, ComputeOptions, Runner
from quantmill.imatrix.weights import Weights
from quantmill.quantize.choose import may_quantize

# Of what nothing is collected, and why, by the proofs.
REFUSED = {
    "has an encoder and a decoder": ("t5",),
    "take what the first makes of distances": ("t5encoder",),
    "run several times, in turn": ("hrm_text",),
    "hand several predictions on": ("gemma3n",),
}
# Tensors without an entry, and why.
WITHOUT = {
    "token_embd.": "looked up", "nextn.embed_tokens.": "looked up", "per_layer_token_embd.": "looked up",
    "_compressor_ape.": "added", "output_hc_": "mixes residual streams after the last block",
    "ple_conv1d.": "a convolution",
    "cls.": "a classifier's head or a pooler, of which a run for tokens knows nothing",
}  # fmt: skip


def collected(folder: Path, device: str = "cpu") -> tuple[Weights, Collector]:
    weights = Weights(read_hf(folder / "hf"))
    text = cut(np.random.default_rng(3).integers(2, 320, 2 * 8), 8, bos=1)
    how = ComputeOptions(batch=2, device=device)
    shape = (text.n_chunks, text.n_ctx, weights.hidden_width)
    run = Runner(weights, text, how, Activations(shape, DTYPES[how.dtype], folder / "state", 1 << 30))
    collector = Collector()
    run.embed()
    run.finish(collector)
    collect_further(run, collector)
    for _ in run.last_hidden(collector) if weights.encodes else run.logits(collector):
        pass
    return weights, collector


@pytest.mark.slow
@pytest.mark.parametrize("proof", all_proofs(), ids=lambda proof: proof.id)
def test_every_tensor_has_an_entry(proof: Proof, tmp_path: Path) -> None:
    """On a second device every sum is the same, and no operation mixes devices."""
    save_proof(proof, tmp_path / "hf")
    reasons = [reason for reason, ids in REFUSED.items() if proof.id in ids]
    if reasons:
        with pytest.raises(UnknownArchitecture, match=reasons[0]):
            collected(tmp_path)
        return
    weights, collector = collected(tmp_path)
    with SecondDevice() as device:
        _, there = collected(tmp_path, "cuda")
    assert device.n_operations > 0
    assert there.sums.keys() == collector.sums.keys()
    for name, entry in collector.sums.items():
        np.testing.assert_array_equal(there.sums[name].values, entry.values, err_msg=name)
    wanted = {tensor.name for tensor in weights.model if may_quantize(tensor, weights.model.arch)}
    assert {name for name in wanted - collector.sums.keys() if not any(part in name for part in WITHOUT)} == set()


def test_reasons_are_given_of_proofs_that_there_are() -> None:
    named = [one for ids in REFUSED.values() for one in ids]
    assert len(named) == len({*named})
    assert {*named} <= {proof.id for proof in all_proofs()}
