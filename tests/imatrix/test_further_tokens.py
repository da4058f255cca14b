"""Layers that predict further tokens in the layer-wise runner: the inputs that transformers' own such layer has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import MtpModel

from oracles.proofs import all_proofs, save_proof
from quantmill.formats.errors import QuantmillError
from quantmill.formats.hf.load import read_hf
from quantmill.formats.ir import Model
from quantmill.imatrix.activations import Activations
from quantmill.imatrix.collect import Collector
from quantmill.imatrix.corpus import Corpus, cut
from quantmill.imatrix.further_tokens import collect_further, same_kind
from quantmill.imatrix.runner import DTYPES, ComputeOptions, Runner
from quantmill.imatrix.weights import Weights
from quantmill.quantize.choose import may_quantize

PROOFS = {proof.id: proof for proof in all_proofs()}


def collected(model: Model, text: Corpus, folder: Path, how: ComputeOptions) -> tuple[Runner, Collector, list[str]]:
    weights = Weights(model)
    shape = (text.n_chunks, text.n_ctx, weights.hidden_width)
    run, collector, lines = Runner(weights, text, how, Activations(shape, DTYPES[how.dtype], folder)), Collector(), []
    run.embed()
    run.finish(collector)
    collect_further(run, collector, lambda event: lines.append(str(event)))
    return run, collector, lines


def the_text() -> Corpus:
    return cut(np.random.default_rng(3).integers(2, 320, 4 * 24), 24, bos=1)


def test_the_inputs_are_those_of_transformers(tmp_path: Path) -> None:
    save_proof(PROOFS["glm4moe"], tmp_path / "hf")
    text = the_text()
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    whole._keys_to_ignore_on_load_unexpected = [r"model\.layers\.3\..*"]
    whole.set_experts_implementation("eager")
    layer = MtpModel.from_pretrained(whole, dtype=torch.float32).eval().layers[0]
    own = load_file(tmp_path / "hf" / "model.safetensors")["model.layers.3.embed_tokens.weight"]
    seen: dict[str, torch.Tensor] = {}
    block = layer.mtp_block
    for name, module in {
        "nextn.eh_proj": layer.eh_proj, "attn_q": block.self_attn.q_proj, "attn_output": block.self_attn.o_proj,
        "ffn_up_shexp": block.mlp.shared_experts.up_proj, "ffn_down_shexp": block.mlp.shared_experts.down_proj,
    }.items():  # fmt: skip
        module.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
    with torch.inference_mode():
        ids = torch.from_numpy(text.inputs).long()
        hidden = whole.model(ids).last_hidden_state
        before = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, :-1]], dim=1)
        embedded, positions = torch.nn.functional.embedding(ids, own), torch.arange(24)[None]
        mask = create_causal_mask(whole.config, inputs_embeds=embedded, attention_mask=None, past_key_values=None)
        turning = whole.model.rotary_emb(embedded, positions)
        seen["nextn.shared_head_head"] = layer(embedded, before, turning, mask, positions, None)

    run, collector, _ = collected(read_hf(tmp_path / "hf"), text, tmp_path / "state", ComputeOptions(batch=3))
    wanted = {tensor.name for tensor in run.weights.model if may_quantize(tensor, run.weights.model.arch)}
    assert wanted - collector.sums.keys() == {"token_embd.weight", "output.weight", "blk.3.nextn.embed_tokens.weight"}
    for name, inputs in seen.items():
        found = collector.sums[f"blk.3.{name}.weight"]
        np.testing.assert_allclose(found.values[0], (inputs.double() ** 2).sum((0, 1)).numpy(), rtol=1e-4, err_msg=name)
        assert found.counts.tolist() == [4 * 24]


def damaged(folder: Path, text: Corpus) -> None:
    """Make the layer's embedding of a token that only the third chunk has infinite."""
    others = set(np.delete(text.inputs, 2, axis=0).reshape(-1).tolist())
    token = next(token for token in text.inputs[2].tolist() if token not in others)
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.3.embed_tokens.weight"][token] = torch.inf
    save_file(weights, path, metadata={"format": "pt"})


def test_a_chunk_that_is_not_finite_there(tmp_path: Path) -> None:
    save_proof(PROOFS["glm4moe"], tmp_path / "hf")
    text = the_text()
    damaged(tmp_path / "hf", text)
    model = read_hf(tmp_path / "hf")
    with pytest.raises(QuantmillError, match="chunk 2") as error:
        collected(model, text, tmp_path / "state", ComputeOptions(batch=4))
    assert error.value.where == "blk.3.nextn.eh_proj.weight"
    run, collector, _ = collected(model, text, tmp_path / "state", ComputeOptions(batch=4, skip_bad=True))
    assert list(run.dropped) == [2]
    assert collector.sums["blk.3.nextn.eh_proj.weight"].counts.tolist() == [3 * 24]


def test_a_layer_like_none_of_the_model_s(tmp_path: Path) -> None:
    """Where all of the model's own layers have linear attention, none can run the block of full attention."""
    proof = PROOFS["qwen35"]
    config = proof.config | {"layer_types": ["linear_attention"] * 3 + ["full_attention"]}
    assert proof.further
    save_proof(replace(proof, config=config, further=replace(proof.further, like="model.layers.3.")), tmp_path / "hf")
    model = read_hf(tmp_path / "hf")
    thin = replace(model, tensors=tuple(t for t in model if t.name != "blk.3.attn_q_norm.weight"))
    assert same_kind(Weights(model), 4) == 3
    assert same_kind(Weights(thin), 4) is None
