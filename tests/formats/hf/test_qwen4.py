"""Qwen 4: the table that n-grams are looked up in, in one part or many, and the numbers that it is looked up with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from oracles.converter_folders import published_tensors
from oracles.proofs import all_proofs, save_proof
from quantmill.formats.errors import FormatError
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import write_hf
from quantmill.formats.hf.shapes import read_shapes
from quantmill.formats.hf.tables.ngrams import TableRows, primes_from
from quantmill.formats.ir import Model

PROOFS = {proof.id: proof for proof in all_proofs() if proof.arch == "qwen4exp"}
CONSTANTS = {
    "layer_multipliers": "layer_multipliers",
    "ngram_heads_offsets": "head_offsets",
    "ngram_heads_vocab_sizes": "head_vocab_sizes",
}
TABLE = "per_layer_token_embd.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen4") / "hf"
    save_proof(PROOFS["qwen4exp"], path)
    return path


def with_config(folder: Path, to: Path, **changed: Any) -> Path:
    to.mkdir()
    config = json.loads((folder / "config.json").read_text()) | changed
    (to / "config.json").write_text(json.dumps(config))
    (to / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return to


def same(ours: Model, theirs: Model) -> bool:
    a, b = ({one.name: one for one in model} for model in (ours, theirs))
    return a.keys() == b.keys() and all(
        np.array_equal(one.rows(0, one.n_rows), b[name].rows(0, one.n_rows)) for name, one in a.items()
    )


def test_the_table_may_come_in_parts(tmp_path: Path) -> None:
    proof = PROOFS["qwen4exp-loaded"]
    save_proof(proof, tmp_path / "whole")
    parts = with_config(tmp_path / "whole", tmp_path / "parts")
    weights = {name: weight.numpy() for name, weight in load_file(parts / "model.safetensors").items()}
    made = {name: torch.from_numpy(weight) for name, weight in published_tensors(proof, weights).items()}
    save_file(made, parts / "model.safetensors", {"format": "pt"})
    assert sum(".shard_" in name for name in made) == 4
    whole, joined = read_hf(tmp_path / "whole"), read_hf(parts)
    assert same(whole, joined)
    public = [{k: v for k, v in model.metadata.items() if k.startswith("qwen4exp.")} for model in (whole, joined)]
    assert str(public[0]) == str(public[1])


def test_constants_of_the_hashes_are_keys_to_the_last_bit(folder: Path) -> None:
    model, weights = read_hf(folder), load_file(folder / "model.safetensors")
    for name, key in CONSTANTS.items():
        numbers = weights[f"model.layers.1.ple.ple_embedding.{name}"].tolist()
        found = model.metadata[f"qwen4exp.ple.{key}"].items
        assert found.dtype == np.uint64
        assert found.tolist() == numbers
    assert max(model.metadata["qwen4exp.ple.layer_multipliers"].items) > 1 << 53  # more than a float holds
    shapes = read_shapes(folder / "config.json")
    assert [len(shapes.metadata[f"qwen4exp.ple.{key}"].items) for key in CONSTANTS.values()] == [3, 4, 4]


def test_a_file_of_others_comes_back(folder: Path, tmp_path: Path) -> None:
    """It does not say in how many parts its table was: they are as many as transformers takes for granted."""
    model = read_hf(folder)
    plain = {key: value for key, value in model.metadata.items() if not key.startswith("quantmill.")}
    write_hf(replace(model, metadata=plain), tmp_path / "back")
    back, weights = (load_file(path / "model.safetensors") for path in (tmp_path / "back", folder))
    assert sum(".shard_" in name for name in back) == 512
    for name in CONSTANTS:
        name = f"model.layers.1.ple.ple_embedding.{name}"
        assert back[name].dtype == torch.int64
        assert torch.equal(back[name], weights[name])
    assert same(read_hf(tmp_path / "back"), model)


def test_the_text_model_of_one_that_sees(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    text = {key: value for key, value in config.items() if key != "architectures"}
    text["layer_types"] = [word.replace("indexed", "full") for word in text["layer_types"]]  # as published
    outer = {
        "architectures": ["Qwen4ExpForConditionalGeneration"],
        "model_type": "qwen4_exp",
        "image_token_id": 7,
        "text_config": text,
    }
    (tmp_path / "config.json").write_text(json.dumps(outer))
    weights = load_file(folder / "model.safetensors")
    named = {name.replace("model.", "model.language_model.", 1): weight for name, weight in weights.items()}
    extra = {"model.visual.blocks.0.attn.qkv.weight": torch.ones(2, 2), "mtp.fc.weight": torch.ones(2, 2)}
    save_file(named | extra, tmp_path / "model.safetensors", {"format": "pt"})
    said: list[str] = []
    model = read_hf(tmp_path, say=said.append)
    assert same(model, read_hf(folder))
    assert model.get("qwen4exp.ple.image_token_id") == 7
    assert "vision tower (1 tensor" in said[0]
    assert "layers that predict further tokens (1 tensor" in said[0]


def test_the_first_end_of_text_ends_ngrams(folder: Path, tmp_path: Path) -> None:
    """As transformers has it; llama.cpp's converter takes the last of several."""
    model = read_hf(with_config(folder, tmp_path / "several", eos_token_id=[5, 2]))
    assert model.get("qwen4exp.ple.eos_token_id") == 5
    write_hf(model, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["eos_token_id"] == [5, 2]


def test_no_table_is_no_key(folder: Path, tmp_path: Path) -> None:
    bare = with_config(folder, tmp_path / "bare", ple_layer_ids=[])
    weights = load_file(folder / "model.safetensors")
    save_file({n: w for n, w in weights.items() if ".ple." not in n}, bare / "model.safetensors", {"format": "pt"})
    model = read_hf(bare)
    assert not any(".ple." in key for key in model.metadata)
    assert TABLE not in {tensor.name for tensor in model}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"ple_layer_ids": [1, 2]}, r"ple_layer_ids: \[1, 2\] is not what"),
        ({"ple_layer_ids": [3]}, r"ple_layer_ids: \[3\] is not what"),
        ({"ple_layer_ids": [0]}, r"ple_layer_ids: \[0\] is not what"),
        ({"ple_layer_ids": [9]}, r"ple_layer_ids: \[9\] is not what"),
        ({"ple_embed_dim": 512}, "ple_embed_dim: 512 is not what"),
        ({"output_gate_type": None}, "output_gate_type: is .*; llama.cpp's qwen4exp computes 'sigmoid'"),
        ({"output_gate_type": "silu"}, "output_gate_type: is .*silu.*; llama.cpp"),
        ({"indexer_kv_heads": 2}, "indexer_kv_heads: is 2"),
        ({"indexer_budget": 18}, "indexer_budget: .* is not what"),
        ({"indexer_n_heads": None}, "is not a valid size"),
        ({"split_ngram_parts": 7}, "split_ngram_parts: [0-9]+ rows do not come in 7 equal parts"),
        ({"ngram_size": 1, "heads_per_ngram": 4}, "0 is not a valid size"),
        ({"make_ngram_vocab_size_divisible_by": 0}, "make_ngram_vocab_size_divisible_by: 0 is not a valid size"),
        ({"eos_token_id": None}, "eos_token_id: missing: where n-grams end"),
        ({"ngram_vocab_size_base": 10}, "its shape is"),
    ],
)
def test_configs_that_llama_cpp_cannot_compute(
    folder: Path, tmp_path: Path, changed: dict[str, Any], problem: str
) -> None:
    with pytest.raises(FormatError, match=problem):
        read_hf(with_config(folder, tmp_path / "hf", **changed))


def test_sizes_of_the_table() -> None:
    sieve = [n for n in range(2, 3000) if all(n % d for d in range(2, int(n**0.5) + 1))]
    assert list(primes_from(0, len(sieve))) == sieve
    published = {"ngram_size": 3, "heads_per_ngram": 8, "ngram_vocab_size_base": 20_000_000}
    published |= {"make_ngram_vocab_size_divisible_by": 128, "split_ngram_parts": 512}
    assert TableRows()(published) == 320_001_536
    assert TableRows("split_ngram_parts")(published) == 625_003
    with pytest.raises(FormatError, match="1099511627776 rows are more than any table has"):
        primes_from(1 << 40, 1)
    with pytest.raises(FormatError, match="999 heads for n-grams of up to 3 are no model's"):
        TableRows()(published | {"heads_per_ngram": 999})
