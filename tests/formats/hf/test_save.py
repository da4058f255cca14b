"""Writing checkpoints: casts, what a foreign GGUF lacks, and every refusal before a byte is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from quantmill.formats.errors import (
    FormatError,
    QuantmillError,
    TokenizerError,
    UnknownArchitecture,
    UnmatchedTensor,
    WeightError,
)
from quantmill.formats.examples import tiny_llama
from quantmill.formats.floats import from_f32, to_f32
from quantmill.formats.gguf.vocab import tokenizer_from_metadata, tokenizer_to_metadata
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import write_hf
from quantmill.formats.ir import Model
from quantmill.formats.qtypes import BF16, BY_NAME, F16, F32

Make = Callable[[str], Path]


def message(model: Model, folder: Path, kind: type[QuantmillError] = FormatError, dtype: str = "auto") -> str:
    with pytest.raises(kind) as error:
        write_hf(model, folder, dtype=dtype)
    return str(error.value)


def without(model: Model, *keys: str) -> Model:
    return replace(model, metadata={k: v for k, v in model.metadata.items() if k not in keys})


@given(st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_casts_are_torch_s(values: list[float]) -> None:
    row = np.array([values], np.float32)
    numbers = ~np.isnan(row)
    for qtype, dtype in ((F16, torch.float16), (BF16, torch.bfloat16), (F32, torch.float32)):
        ours = to_f32(from_f32(row, qtype), qtype)
        theirs = torch.from_numpy(row.copy()).to(dtype).float().numpy()
        assert np.array_equal(ours[numbers].view(np.uint32), theirs[numbers].view(np.uint32))
        assert np.array_equal(np.isnan(ours), np.isnan(theirs))


def test_a_dtype_asked_for_is_given_to_all(checkpoint: Make, tmp_path: Path) -> None:
    write_hf(read_hf(checkpoint("gqa")), tmp_path / "out", dtype="bf16")
    with (
        safe_open(tmp_path / "out/model.safetensors", "pt") as ours,
        safe_open(checkpoint("gqa") / "model.safetensors", "pt") as theirs,
    ):
        for name in theirs.keys():  # noqa: SIM118
            assert torch.equal(ours.get_tensor(name), theirs.get_tensor(name).to(torch.bfloat16))
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_weight_too_large_is_named(checkpoint: Make, tmp_path: Path) -> None:
    model = read_hf(checkpoint("gqa"))
    up = next(t for t in model if t.name == "blk.1.ffn_up.weight")
    values = up.rows(0, up.n_rows).view("<f4").copy()
    values[5, 3] = 1e6
    spoiled = replace(up, read=lambda a, b: values[a:b].view(np.uint8))
    model = replace(model, tensors=tuple(spoiled if t is up else t for t in model))
    assert message(model, tmp_path / "out", WeightError, "f16") == (
        f"{up.source}: 1000000.0 at [5, 3] is too large for F16 (write BF16 or F32)"
    )


def test_the_shortest_decimal_comes_back(checkpoint: Make, tmp_path: Path) -> None:
    model = read_hf(checkpoint("gqa"))
    key = "llama.attention.layer_norm_rms_epsilon"
    stored = replace(model.metadata[key], data=float(np.float32(1e-5)))  # as a GGUF reader gives it: 9.99999975e-06
    write_hf(replace(model, metadata={**model.metadata, key: stored}), tmp_path / "out")
    assert '"rms_norm_eps": 1e-05,' in (tmp_path / "out/config.json").read_text()


def test_refusals_come_before_any_writing(checkpoint: Make, tmp_path: Path) -> None:
    model = read_hf(checkpoint("gqa"))
    out = tmp_path / "out"
    where = model.path
    unknown = message(replace(model, arch="gptx"), out, UnknownArchitecture)
    assert unknown.startswith(f"{where}: general.architecture: unknown architecture 'gptx' (known: ")
    assert unknown.endswith("; see docs/adding-an-architecture.md)")
    assert " llama, " in unknown
    assert message(without(model, "llama.block_count"), out) == (
        f"{where}: llama.block_count: is missing (set it with gguf-set-metadata)"
    )
    quantized = replace(model.tensors[0], qtype=BY_NAME["Q8_0"])
    assert message(replace(model, tensors=(quantized, *model.tensors[1:])), out) == (
        f"{where}: output.weight: Q8_0 must be decoded before a checkpoint is written"
    )
    stranger = replace(model.tensors[0], name="blk.0.ssm_a")
    assert message(replace(model, tensors=(*model.tensors, stranger)), out, UnmatchedTensor) == (
        f"{where}: no rule of llama matches blk.0.ssm_a"
    )
    lacking = tuple(t for t in model if "attn_k" not in t.name)
    assert message(replace(model, tensors=lacking), out, UnmatchedTensor) == (
        f"{where}: missing blk.0.attn_k.weight, blk.1.attn_k.weight"
    )
    short = tuple(replace(t, shape=(16, 64)) if t.name == "blk.0.attn_k.weight" else t for t in model)
    assert message(replace(model, tensors=short), out) == (
        f"{where}: blk.0.attn_k.weight: its shape is [16, 64], the metadata makes it [32, 64] (the file is damaged)"
    )
    assert message(model, out, dtype="q4_0") == (f"{where}: a checkpoint cannot be q4_0 (one of auto, F32, F16, BF16)")
    assert not out.exists()


def test_frequency_factors_are_those_of_the_config(checkpoint: Make, tmp_path: Path) -> None:
    """No checkpoint can hold others, so another model would come out."""
    model, plain = read_hf(checkpoint("llama3")), read_hf(checkpoint("linear"))
    factors = model.tensors[0]
    other = (factors.rows(0, 1).view("<f4") * np.float32(1.5)).view(np.uint8)
    changed = replace(factors, read=lambda a, b: other[a:b])
    write_hf(model, tmp_path / "whole")
    for tensors in (
        (changed, *model.tensors[1:]),
        model.tensors[1:],
    ):
        assert "rope_freqs.weight: the rope parameters in the metadata do not give these frequency factors" in message(
            replace(model, tensors=tensors), tmp_path / "a"
        )
    assert "do not give these" in message(replace(plain, tensors=(factors, *plain.tensors)), tmp_path / "a")


def test_heads_that_differ_by_layer_are_refused(checkpoint: Make, tmp_path: Path) -> None:
    from quantmill.formats.gguf.keys import typed

    model = read_hf(checkpoint("gqa"))
    key = "llama.attention.head_count_kv"
    uneven = replace(model, metadata={**model.metadata, key: typed(key, [2, 4])})
    assert message(uneven, tmp_path / "out") == (
        f"{model.path}: {key}: differs from layer to layer, which this model class cannot say: [2, 4]"
    )
    even = replace(model, metadata={**model.metadata, key: typed(key, [2, 2])})
    write_hf(even, tmp_path / "even")
    assert json.loads((tmp_path / "even/config.json").read_text())["num_key_value_heads"] == 2


def test_damaged_private_keys_are_no_harm(checkpoint: Make, tmp_path: Path) -> None:
    from quantmill.formats.gguf.keys import typed

    model = read_hf(checkpoint("f16"))
    bad = {key: typed(key, "[]") for key in ("quantmill.hf.config", "quantmill.hf.class", "quantmill.hf.dtype")}
    bad["quantmill.hf.generation_config"] = typed("quantmill.hf.generation_config", "{")
    write_hf(replace(model, metadata={**model.metadata, **bad}), tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["torch_dtype"] == "float16"


def test_a_tokenizer_that_cannot_be_written_leaves_no_folder(tmp_path: Path) -> None:
    model = tiny_llama()
    tokenizer = tokenizer_from_metadata(model.metadata)
    assert tokenizer is not None
    twice = replace(tokenizer, tokens=(*tokenizer.tokens[:-1], tokenizer.tokens[-2]))
    model = replace(model, metadata={**model.metadata, **tokenizer_to_metadata(twice)})
    n = len(twice.tokens)
    said = message(model, tmp_path / "out", TokenizerError)
    assert said.startswith(f"{model.path}: tokenizer.ggml.tokens: tokens {n - 2} and {n - 1} are both ")
    assert not (tmp_path / "out").exists()
