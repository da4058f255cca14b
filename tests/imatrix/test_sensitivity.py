"""Sensitivities against what noise in the weights does to a model's predictions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oracles.proofs import all_proofs, save_proof
from oracles.tiny import save_tiny_llama
from quantmill.formats.hf.load import read_hf
from quantmill.imatrix.corpus import Corpus
from quantmill.imatrix.floats import read_floats
from quantmill.imatrix.sensitivity import MeasuredSensitivity, apart, measure_sensitivity
from quantmill.imatrix.skeleton import Skeleton
from quantmill.imatrix.weights import Weights

MODULES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def corpus(chunks: int, seed: int = 3) -> Corpus:
    tokens = np.random.default_rng(seed).integers(2, 320, (chunks, 48), dtype=np.int32)
    return Corpus(tokens, tokens, 0, "random tokens")


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def folder(one_thread: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("sensitivity") / "tiny", layers=2, tied=request.param)


@pytest.fixture(scope="module")
def figures(folder: Path) -> dict[str, MeasuredSensitivity]:
    return measure_sensitivity(Weights(read_hf(folder)), corpus(16))


def kl_of_noise(model: Any, weight: torch.nn.Parameter, relative: float, draws: int = 3) -> tuple[float, float]:
    """Mean KL divergence a token with noise of that size in rows of that size, and the mean sum of its squares."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.from_numpy(corpus(8, seed=9).tokens).long()
    clean = weight.detach().clone()
    found, power = 0.0, 0.0
    with torch.inference_mode():
        base = torch.log_softmax(model(ids).logits.double(), -1)
        size = clean.pow(2).mean(1, keepdim=True).sqrt() * relative
        for _ in range(draws):
            noise = torch.randn(clean.shape, generator=generator) * size
            weight.copy_(clean + noise)
            noisy = torch.log_softmax(model(ids).logits.double(), -1)
            found += float((base.exp() * (base - noisy)).sum(-1).mean()) / draws
            power += float(noise.double().pow(2).sum()) / draws
        weight.copy_(clean)
    return found, power


def test_figures_predict_what_noise_does(folder: Path, figures: dict[str, MeasuredSensitivity]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tied = bool(model.config.tie_word_embeddings)
    ratios = {}
    for layer, block in enumerate(model.model.layers):
        for part, module in MODULES.items():
            name = f"blk.{layer}.{part}.weight"
            kl, power = kl_of_noise(model, block.get_submodule(module).weight, 0.02)
            assert figures[name].columns is None
            ratios[name] = float(figures[name].scales[0]) * power / kl
    head, embedding = model.lm_head.weight, model.model.embed_tokens.weight
    for name, weight in (("token_embd.weight", embedding), *([] if tied else [("output.weight", head)])):
        kl, power = kl_of_noise(model, weight, 0.02)
        assert figures[name].columns is not None
        assert figures[name].columns.mean() == pytest.approx(1)
        ratios[name] = float(figures[name].scales[0]) * power / kl
    assert ("output.weight" in figures) is not tied
    assert all(0.4 < ratio < 2.5 for ratio in ratios.values()), ratios
    assert 0.7 < np.exp(np.mean(np.log(list(ratios.values())))) < 1.4, ratios


def test_the_same_text_gives_the_same_figures(folder: Path, figures: dict[str, MeasuredSensitivity]) -> None:
    again = measure_sensitivity(Weights(read_hf(folder)), corpus(16))
    assert {name: float(row.scales[0]) for name, row in again.items()} == {
        name: float(row.scales[0]) for name, row in figures.items()
    }


def test_experts_have_figures_of_their_own(tmp_path: Path) -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(3)
    config = Qwen3MoeConfig(
        vocab_size=320, hidden_size=64, intermediate_size=64, moe_intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=4, num_experts_per_tok=1,
        norm_topk_prob=True, initializer_range=0.3,
    )  # fmt: skip
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "moe")
    found = measure_sensitivity(Weights(read_hf(tmp_path / "moe")), corpus(2))
    for part in ("gate", "up", "down"):
        scales = found[f"blk.0.ffn_{part}_exps.weight"].scales
        assert scales.shape == (4,)
        assert (scales >= 0).all()
        assert len(set(scales)) == 4


@pytest.mark.parametrize("case", ["gpt2", "gpt-oss", "llama4", "dbrx", "qwen3vlmoe"])
def test_parameters_are_taken_apart_as_the_file_has_them(case: str, tmp_path: Path) -> None:
    """Those of experts, and those that transformers keeps as [inputs, outputs]."""
    save_proof(next(proof for proof in all_proofs() if proof.id == case), tmp_path)
    weights = Weights(read_hf(tmp_path))
    skeleton = Skeleton(weights, torch.float32, "cpu")
    n = 0
    with skeleton.block(0) as module:
        parameters = dict(module.named_parameters())
        for name, weight in weights.recorded_weights(0, module).items():
            tensors = [weights.tensors[one] for one in weight.names]
            for tensor, part in zip(tensors, apart(parameters[name].detach(), weight, tensors), strict=True):
                torch.testing.assert_close(part.reshape(tensor.shape), torch.from_numpy(read_floats(tensor)))
                n += 1
    assert n >= 4
