"""HF -> GGUF -> HF is the identity; and llama.cpp computes from our GGUF what transformers computes from the source."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from oracles.llama import Llama
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.hf.files.safetensors import StoredTensor, read_safetensors
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import _cast, write_hf
from quantmill.formats.ir import Model
from quantmill.formats.qtypes import F16, F32

VARIANTS = [
    *("mha", "gqa", "tied", "attention_bias", "mlp_bias", "head_dim"),
    *("linear", "dynamic", "yarn", "llama3", "tinyllama", "mistral"),
    *("bf16", "f16", "layers12"),
]


def as_level(model: Model, level: str) -> Model:
    """The model as llama.cpp's F32 or F16 files have it: vectors in F32 in both."""
    tensors = (_cast(t, F16 if level == "F16" and len(t.shape) > 1 else F32) for t in model)
    return replace(model, tensors=tuple(tensors))


def there_and_back(source: Path, folder: Path, level: str, *, private: bool = True) -> Path:
    model = as_level(read_hf(source), level)
    if not private:
        kept = {key: value for key, value in model.metadata.items() if not key.startswith("quantmill.")}
        model = replace(model, metadata=kept)
    write_gguf(folder / "model.gguf", model)
    write_hf(read_gguf(folder / "model.gguf"), folder / "back")
    return folder / "back"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def assert_same_weights(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor.view(torch.uint8), right[name].view(torch.uint8)), name


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = AutoConfig.from_pretrained(folder).to_dict()
    return {k: v for k, v in config.items() if k not in ("_name_or_path", "transformers_version", "initializer_range")}


def generation_of(folder: Path) -> dict[str, Any]:
    """Without the notes that transformers leaves when it makes one from the model's config."""
    notes = ("_from_model_config", "output_attentions", "output_hidden_states", "use_cache", "transformers_version")
    diff: dict[str, Any] = GenerationConfig.from_pretrained(folder).to_diff_dict()
    return {key: value for key, value in diff.items() if key not in notes}


def logits_of(folder: Path, tokens: list[int]) -> np.ndarray:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager")
    with torch.no_grad():
        out: np.ndarray = model(torch.tensor([tokens])).logits[0].float().numpy()
    return out


TOKENS = np.random.default_rng(0).integers(3, 90, 60).tolist()


@pytest.mark.parametrize("variant", VARIANTS)
def test_f32_and_back_is_the_identity(variant: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = checkpoint(variant)
    back = there_and_back(source, tmp_path, "F32")
    assert_same_weights(source, back)
    assert config_of(source) == config_of(back)
    assert generation_of(source) == generation_of(back)
    assert np.array_equal(logits_of(source, TOKENS), logits_of(back, TOKENS))


def test_f16_and_back_is_the_identity(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    back = there_and_back(checkpoint("f16"), tmp_path, "F16")
    assert {t.qtype.name for t in read_gguf(tmp_path / "model.gguf")} == {"F32", "F16"}
    assert_same_weights(checkpoint("f16"), back)
    assert json.loads((back / "config.json").read_text())["torch_dtype"] == "float16"


@pytest.mark.parametrize("variant", ["f16", "gqa", "tied", "attention_bias", "linear", "yarn", "llama3"])
def test_a_file_without_our_keys_comes_back(variant: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """As llama.cpp writes them: the weights and what they compute are the same."""
    source = checkpoint(variant)
    back = there_and_back(source, tmp_path, "F16" if variant == "f16" else "F32", private=False)
    assert_same_weights(source, back)
    assert np.array_equal(logits_of(source, TOKENS), logits_of(back, TOKENS))


@pytest.mark.parametrize("variant", VARIANTS[:12])
def test_llama_cpp_computes_the_same(variant: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = checkpoint(variant)
    write_gguf(tmp_path / "model.gguf", as_level(read_hf(source), "F32"))
    expected = logits_of(source, TOKENS)
    with Llama(tmp_path / "model.gguf") as llama:
        found = llama.logits(TOKENS)
    assert np.abs(found - expected).max() < 2e-3 * np.ptp(expected)


def test_shards_come_back_whatever_their_size(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = checkpoint("layers12")
    write_hf(read_hf(source), tmp_path / "many", max_shard_bytes=100_000)
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 5
    assert_same_weights(source, tmp_path / "many")
    assert np.array_equal(logits_of(source, TOKENS), logits_of(tmp_path / "many", TOKENS))
    write_hf(read_hf(tmp_path / "many"), tmp_path / "one")
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_bin_reads_as_safetensors_does(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = checkpoint("bf16")
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    state = load_file(source / "model.safetensors")
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)  # as checkpoints of 2023 have it
    state["model.layers.0.mlp.up_proj.weight"] = state["model.layers.0.mlp.up_proj.weight"].T.contiguous().T
    torch.save(state, tmp_path / "pytorch_model.bin")
    ours, theirs = ({t.name: t for t in read_hf(folder)} for folder in (tmp_path, source))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert np.array_equal(tensor.rows(0, tensor.n_rows), theirs[name].rows(0, tensor.n_rows)), name


def test_mixed_dtypes_and_stored_tied_head_come_back(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source = tmp_path / "mixed"
    source.mkdir()
    state = load_file(checkpoint("bf16") / "model.safetensors")
    state = {name: t.float() if "norm" in name else t for name, t in state.items()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((checkpoint("bf16") / "config.json").read_text()) | {"tie_word_embeddings": True}
    (source / "config.json").write_text(json.dumps(config))
    back = there_and_back(source, tmp_path, "F32")
    assert_same_weights(source, back)
    assert json.loads((back / "config.json").read_text())["tie_word_embeddings"] is True


def test_inexact_weights_keep_their_dtype(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Recorded as F16, but the weights are no F16 numbers (decoded from a quantized file, say): nothing is lost."""
    model = as_level(read_hf(checkpoint("f16")), "F32")
    up = next(t for t in model if t.name == "blk.0.ffn_up.weight")
    shifted = (up.rows(0, up.n_rows).view("<f4") + np.float32(1e-7)).view(np.uint8)
    changed = replace(up, read=lambda a, b: shifted[a:b])
    write_hf(replace(model, tensors=tuple(changed if t is up else t for t in model)), tmp_path / "out")
    stored = read_safetensors(tmp_path / "out" / "model.safetensors")
    assert stored["model.layers.0.mlp.up_proj.weight"].dtype == "F32"
    assert np.array_equal(stored["model.layers.0.mlp.up_proj.weight"].rows(0, up.n_rows), shifted)
    assert {entry.dtype for name, entry in stored.items() if "layers.0.mlp.up" not in name} == {"F16"}
    write_hf(replace(model, tensors=tuple(changed if t is up else t for t in model)), tmp_path / "f16", dtype="f16")
    assert {e.dtype for e in read_safetensors(tmp_path / "f16" / "model.safetensors").values()} == {"F16"}


def test_the_file_is_the_one_safetensors_writes(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = checkpoint("f16")
    write_hf(read_hf(source), tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    entry: StoredTensor = read_safetensors(source / "model.safetensors")["lm_head.weight"]
    assert entry.tensor().shape == (96, 64)
