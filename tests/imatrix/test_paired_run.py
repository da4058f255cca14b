"""A model beside what it becomes: what enters each weight is what transformers gives it, all before it replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from oracles.tiny import save_tiny_llama, save_tiny_mixtral
from quantmill.formats.arrays import tensor_from_array
from quantmill.formats.errors import QuantmillError
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import write_hf
from quantmill.formats.ir import Tensor
from quantmill.imatrix.activations import Activations, ActivationsPart
from quantmill.imatrix.corpus import Corpus
from quantmill.imatrix.floats import read_floats
from quantmill.imatrix.paired_run import Pair, PairedRun
from quantmill.imatrix.paired_stages import Input
from quantmill.imatrix.runner import ComputeOptions, Runner
from quantmill.imatrix.weights import Weights

from .test_runner import corpus

ASIDE = [1, 4]


class Halve:
    """Rounds every weight to halves of whole numbers, and keeps all that it sees."""

    def __init__(self, weights: Weights, spoil: str = "") -> None:
        self.weights, self.spoil = weights, spoil
        self.pairs: dict[tuple[str, int], list[Pair]] = {}
        self.stages: list[list[str]] = []
        self.made: dict[str, np.ndarray] = {}  # type: ignore[type-arg]

    def begin(self, layer: int, inputs: Sequence[Input]) -> None:
        self.stages.append([name for one in inputs for name in one.names])

    def see(self, one: Input, pair: Pair) -> None:
        for name in one.names:
            mine = pair.residuals.get(name)
            copy = replace(
                pair, changed=pair.changed.clone(), original=None if pair.original is None else pair.original.clone(),
                residuals={} if mine is None else {name: mine.clone()},
            )  # fmt: skip
            self.pairs.setdefault((name, one.matrix), []).append(copy)

    def replace(self, inputs: Sequence[Input]) -> dict[str, Tensor]:
        new = {}
        for name in {name for one in inputs for name in one.names}:
            weight = np.round(read_floats(self.weights.tensors[name]) * 2) / 2
            if name == self.spoil:
                weight[0] = np.nan
            self.made[name] = weight
            new[name] = tensor_from_array(name, weight)
        return new


def paired(folder: Path, text: Corpus, tmp_path: Path, *, limit: int = 1 << 30, threads: int = 1) -> PairedRun:
    both = Activations(
        (2 * text.n_chunks, text.n_ctx, Weights(read_hf(folder)).hidden_width), torch.float32, tmp_path, limit
    )
    runs = [
        Runner(Weights(read_hf(folder)), text, ComputeOptions(batch=2), ActivationsPart(both, part * text.n_chunks))
        for part in range(2)
    ]
    return PairedRun(runs[0], runs[1], both, ASIDE, threads)


def walk(folder: Path, text: Corpus, tmp_path: Path, **how: Any) -> tuple[PairedRun, Halve]:
    run = paired(folder, text, tmp_path, **how)
    visitor = Halve(run.original.weights)
    wanted = [
        name for name in run.original.weights.tensors if "blk" in name and "norm" not in name and "inp" not in name
    ]
    run.embed()
    for _ in range(run.n_layers):
        assert run.walk_block(visitor, wanted) <= set(wanted)
    return run, visitor


def entering(folder: Path, text: Corpus) -> dict[str, torch.Tensor]:
    """What enters each linear layer of the whole model and each block (``layers.0``): [chunks, n_ctx, width]."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        short = name.removeprefix("model.")
        if isinstance(module, torch.nn.Linear) or short.removeprefix("layers.").isdecimal():
            module.register_forward_pre_hook(
                lambda _, args, kwargs, short=short: found.update(
                    {short: args[0] if args else kwargs["hidden_states"]}
                ),
                with_kwargs=True,
            )
    with torch.inference_mode():
        model(torch.from_numpy(text.inputs).long())
    return found


PLACES = {
    "blk.0.attn_q.weight": "layers.0.self_attn.q_proj",
    "blk.1.attn_output.weight": "layers.1.self_attn.o_proj",
    "blk.1.ffn_up.weight": "layers.1.mlp.up_proj",
    "blk.2.ffn_down.weight": "layers.2.mlp.down_proj",
}


@pytest.mark.parametrize(("limit", "threads"), [(1 << 30, 1), (0, 1), (1 << 30, 3)], ids=["memory", "files", "threads"])
def test_inputs_are_those_of_transformers(tmp_path: Path, limit: int, threads: int) -> None:
    folder, text = save_tiny_llama(tmp_path / "tiny"), corpus()
    run, visitor = walk(folder, text, tmp_path / "work", limit=limit, threads=threads)
    assert visitor.stages[:4] == [
        ["blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"],
        ["blk.0.attn_output.weight"],
        ["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"],
        ["blk.0.ffn_down.weight"],
    ]
    model = run.original.weights.model
    tensors = [tensor_from_array(t.name, visitor.made[t.name]) if t.name in visitor.made else t for t in model.tensors]
    (tmp_path / "changed").mkdir()
    write_hf(replace(model, tensors=tuple(tensors)), tmp_path / "changed", dtype="F32")
    before, after = entering(folder, text), entering(tmp_path / "changed", text)
    order = [chunk for batch in run.batches for chunk in batch]
    assert sorted(order) == list(range(text.n_chunks))
    assert order[-2:] == ASIDE
    for name, place in PLACES.items():
        pairs = visitor.pairs[name, 0]
        assert [pair.kept_aside for pair in pairs] == [False, False, True]
        for of, seen in ((before, [p.original for p in pairs]), (after, [p.changed for p in pairs])):
            assert torch.allclose(torch.cat(seen), of[place][order].flatten(0, 1), rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]
    block = torch.cat(
        [pair.residuals["blk.1.attn_output.weight"] for pair in visitor.pairs["blk.1.attn_output.weight", 0]]
    )
    gone = (before["layers.1"] - after["layers.1"])[order].flatten(0, 1)
    assert gone.abs().max() > 0.1
    assert torch.allclose(block, gone, rtol=1e-3, atol=1e-3)
    down = torch.cat([pair.residuals["blk.1.ffn_down.weight"] for pair in visitor.pairs["blk.1.ffn_down.weight", 0]])
    assert down.shape == gone.shape
    assert not any(pair.residuals for pair in visitor.pairs["blk.1.ffn_up.weight", 0])
    heads = list(run.head_pairs())
    of = [after["lm_head"][batch].flatten(0, 1) for batch in run.batches]
    assert all(torch.allclose(p.changed, x, rtol=1e-3, atol=1e-4) for p, x in zip(heads, of, strict=True))


def test_experts_see_their_own_tokens(tmp_path: Path) -> None:
    """An expert's tokens may be others in the changed model, so only those of that are given, and no residual."""
    folder, text = save_tiny_mixtral(tmp_path / "moe"), corpus()
    _, visitor = walk(folder, text, tmp_path / "work")
    for name in ("blk.1.ffn_gate_exps.weight", "blk.1.ffn_down_exps.weight"):
        pairs = [visitor.pairs[name, expert] for expert in range(4)]
        assert sum(len(pair.changed) for part in pairs for pair in part) == 2 * text.inputs.size
        assert all(pair.original is None and not pair.residuals for part in pairs for pair in part)


def test_a_norm_between_product_and_sum_leaves_no_residual(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(3)
    config = Gemma2Config(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, initializer_range=0.3,
        query_pre_attn_scalar=16,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma")
    _, visitor = walk(tmp_path / "gemma", corpus(), tmp_path / "work")
    assert visitor.pairs["blk.1.ffn_down.weight", 0][0].original is not None
    assert not any(pair.residuals for pairs in visitor.pairs.values() for pair in pairs)


def test_what_is_not_finite_is_named(tmp_path: Path) -> None:
    run = paired(save_tiny_llama(tmp_path / "tiny"), corpus(), tmp_path / "work")
    visitor = Halve(run.original.weights, spoil="blk.0.attn_v.weight")
    run.embed()
    with pytest.raises(
        QuantmillError, match=r"blk\.0\.attn_output\.weight: NaN or Inf .* layer 0 of the quantized model"
    ):
        run.walk_block(visitor, ["blk.0.attn_v.weight", "blk.0.attn_output.weight"])
    run = paired(tmp_path / "tiny", corpus(), tmp_path / "work")
    run.embed()
    with pytest.raises(QuantmillError, match="the output of block 0: NaN or Inf"):
        run.walk_block(Halve(run.original.weights, spoil="blk.0.ffn_down.weight"), ["blk.0.ffn_down.weight"])
