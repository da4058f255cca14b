"""Hybrids and routers in the layer-wise runner: the whole model's logits, and inputs in llama.cpp's order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from oracles.converter_folders import publish
from oracles.proofs import all_proofs, save_proof
from quantmill.formats.errors import UnknownArchitecture
from quantmill.formats.hf.load import read_hf
from quantmill.imatrix import carried
from quantmill.imatrix.activations import Activations
from quantmill.imatrix.collect import Collector
from quantmill.imatrix.corpus import cut
from quantmill.imatrix.further_tokens import collect_further
from quantmill.imatrix.runner import DTYPES, ComputeOptions, Runner
from quantmill.imatrix.weights import Weights
from quantmill.quantize.choose import may_quantize
from quantmill.quantize.importance import n_matrices

CASES = (
    "qwen3next", "qwen35", "qwen35moe", "qwen35moe-fused", "kimi-linear", "deepseek32", "nemotron_h_moe", "mimo2",
    "mistral4", "deepseek4", "bailingmoe3", "glm5-next", "minimax-m3", "gemma4-unified", "gemma4-experts", "gemma4",
    "jamba", "bamba", "mamba", "falcon-h1", "dots3note", "glm-dsa", "dbrx", "llama4", "gpt-oss", "gpt2", "falcon",
    "phi2", "apertus", "qwen4exp", "qwen4exp-loaded",
)  # fmt: skip
# What is looked up or added, not multiplied; and the mix of residual streams after the last block.
UNSEEN = ("token_embd.", "nextn.embed_tokens.", "output_hc_", "_compressor_ape.", "ple_conv1d.")


def test_blocks_that_run_several_times_are_refused(tmp_path: Path) -> None:
    save_proof(next(proof for proof in all_proofs() if proof.id == "hrm_text"), tmp_path)
    with pytest.raises(UnknownArchitecture, match="blocks of hrm_text run several times, in turn"):
        _ = Weights(read_hf(tmp_path)).layers_path


def test_positions_survive_the_arithmetic_s_type() -> None:
    """bfloat16 has eight bits for a number; the last position is repeated where fewer than usual are chosen."""
    chosen = torch.tensor([[[-1, 0, 255, 256, 511, 40_000]]])
    kept = carried._positions(carried._digits(chosen, 8).to(torch.bfloat16))
    assert kept.tolist() == [[[-1, 0, 255, 256, 511, 40_000, 40_000, 40_000]]]


def test_names_of_a_published_checkpoint(tmp_path: Path) -> None:
    """MiniMax M3's, which transformers renames and joins under the name of the class that sees."""
    proof = next(proof for proof in all_proofs() if proof.id == "minimax-m3")
    model = save_proof(proof, tmp_path)
    publish(proof, tmp_path)
    weights = Weights(read_hf(tmp_path))
    for layer, block in enumerate(model.model.layers):
        found = dict(weights.block(layer, block))
        for name, value in block.state_dict().items():
            np.testing.assert_allclose(found.pop(name), value.numpy(), atol=1e-7, err_msg=name)  # norms are 1 + w
        assert not found
        gate, up = (f"blk.{layer}.ffn_{part}{'_shexp' if layer else ''}.weight" for part in ("gate", "up"))
        assert (gate, up) in {each.names for each in weights.recorded_weights(layer, block).values()}


@pytest.mark.parametrize("case", CASES)
def test_layer_by_layer_is_the_whole_model(case: str, tmp_path: Path) -> None:
    proof = next(proof for proof in all_proofs() if proof.id == case)
    save_proof(proof, tmp_path / "hf")
    text = cut(np.random.default_rng(3).integers(2, 320, 4 * 24), 24, bos=1)
    whole = getattr(transformers, proof.model).from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    seen = []
    if hasattr(whole.base_model, "layers") and hasattr(whole.base_model.layers[0], "linear_attn"):
        out = whole.base_model.layers[0].linear_attn.out_proj
        out.register_forward_pre_hook(lambda _, args: seen.append(args[0].double()))
    with torch.inference_mode():
        expected = whole(torch.from_numpy(text.inputs).long()).logits
    weights = Weights(read_hf(tmp_path / "hf"))
    how = ComputeOptions(batch=2)
    shape = (text.n_chunks, text.n_ctx, weights.hidden_width)
    run = Runner(weights, text, how, Activations(shape, DTYPES[how.dtype], tmp_path / "state", 1 << 30))
    collector = Collector()
    run.embed()
    run.finish(collector)
    collect_further(run, collector)
    found = torch.stack([logits for _, logits, _ in run.logits(collector)])
    torch.testing.assert_close(found, expected[:, 12:-1], rtol=1e-4, atol=1e-4)

    wanted = {tensor.name for tensor in weights.model if may_quantize(tensor, weights.model.arch)}
    assert {name for name in wanted if not any(part in name for part in UNSEEN)} <= collector.sums.keys()
    for name, entry in collector.sums.items():
        assert entry.values.shape == (n_matrices(weights.tensors[name]), weights.tensors[name].width), name
        assert entry.counts.shape == entry.values.shape[:1]
    if not seen:
        return
    squares = (seen[0] ** 2).sum((0, 1)).numpy()
    if case.startswith(("qwen35", "qwen4exp")):  # of each key head the first value head, then the second, ...
        config = weights.config
        heads = (config["linear_num_key_heads"], -1, config["linear_value_head_dim"])
        squares = squares.reshape(heads).swapaxes(0, 1).reshape(-1)
    np.testing.assert_allclose(collector.sums["blk.0.ssm_out.weight"].values[0], squares, rtol=1e-4)


def test_latent_attention_s_halves_are_seen_as_llama_cpp_has_them(tmp_path: Path) -> None:
    """For each head the part of its query that does not turn, and what it makes of the latent vectors."""
    proof = next(proof for proof in all_proofs() if proof.id == "kimi-linear")
    model = save_proof(proof, tmp_path / "hf")
    text = cut(np.random.default_rng(3).integers(2, 320, 2 * 24), 24, bos=1)
    attention = model.model.layers[1].self_attn
    latents, queries, mixed = [], [], []
    attention.kv_b_proj.register_forward_pre_hook(lambda _, args: latents.append(args[0].double()))
    attention.q_proj.register_forward_hook(lambda _, args, out: queries.append(out.double()))
    attention.o_proj.register_forward_pre_hook(lambda _, args: mixed.append(args[0].double()))
    with torch.inference_mode():
        model(torch.from_numpy(text.inputs).long())
    weights = Weights(read_hf(tmp_path / "hf"))
    shape = (text.n_chunks, text.n_ctx, weights.hidden_width)
    run = Runner(weights, text, ComputeOptions(), Activations(shape, DTYPES["f32"], tmp_path / "state", 1 << 30))
    collector = Collector()
    run.embed()
    run.finish(collector)
    query = queries[0].unflatten(-1, (4, 80)).transpose(1, 2)
    keys = collector.sums["blk.1.attn_k_b.weight"]
    np.testing.assert_allclose(keys.values, (query[..., :48] ** 2).sum((0, 2)).numpy(), rtol=1e-4)
    assert keys.counts.tolist() == [48] * 4
    latent = latents[0].reshape(2, 24, 64)
    halves = attention.kv_b_proj.weight.detach().double().unflatten(0, (4, 112))
    values = torch.einsum("bsl,hvl->bhsv", latent, halves[:, 48:])
    out = mixed[0].unflatten(-1, (4, 64)).transpose(1, 2)  # = weights of the attention @ values
    spread = torch.linalg.lstsq(values.transpose(-1, -2), out.transpose(-1, -2)).solution.transpose(-1, -2)
    found = collector.sums["blk.1.attn_v_b.weight"].values
    np.testing.assert_allclose(found, ((spread @ latent[:, None]) ** 2).sum((0, 2)).numpy(), rtol=1e-3)
