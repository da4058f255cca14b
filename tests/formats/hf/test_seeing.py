"""Whole models that see: of a text with an image in it, llama.cpp's last logits are transformers'."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from oracles.mtmd import Mtmd
from oracles.small_tokenizers import train_bpe
from oracles.tower_proofs import TowerProof, all_tower_proofs, image_of, patches, pixels_of, save_tower_proof
from quantmill import MmprojOptions, convert
from quantmill.formats.gguf.reader import read_gguf

PROOFS = {proof.id: proof for proof in all_tower_proofs()}
SPECIAL = (
    "<pad>", "<s>", "</s>", "<image>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>", "[IMG_BREAK]",
    "[IMG_END]", "<start_of_image>", "<end_of_image>",
)  # fmt: skip
IMAGE, BREAK = SPECIAL.index("<image>"), SPECIAL.index("[IMG_BREAK]")
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def tokenizer() -> dict[str, Any]:
    """tokenizer.json: the tokens above, then all bytes, without merges."""
    document = train_bpe(None, vocab_size=256, text="a")
    units = sorted(document["model"]["vocab"], key=document["model"]["vocab"].get)
    document["model"]["vocab"] = {unit: i for i, unit in enumerate((*SPECIAL, *units))}
    document["model"]["merges"] = []
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    document["added_tokens"] = [{"id": i, "content": one, **plain, "special": True} for i, one in enumerate(SPECIAL)]
    document["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    return document


@dataclass(frozen=True)
class Whole:
    """A tower's proof, and what its model is given with an image.

    Args:
        proof: the id of the tower's proof.
        config: what the wrapper's config says besides.
        text: what the text's config says besides.
        given: the arguments about the image, of the model, float32 [1, 3, height, width] and the tokens [1, n].
        columns: image tokens between two [IMG_BREAK]s, for a model that has them.
    """

    proof: str
    config: Mapping[str, Any]
    given: Callable[[Any, torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]
    text: Mapping[str, Any] = field(default_factory=dict)
    columns: int = 0


def _grid(model: Any, pixels: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    values, grid = patches(pixels, model.config.vision_config)
    return {"pixel_values": values, "image_grid_thw": grid, "mm_token_type_ids": (tokens == IMAGE).int()}


def _sized(model: Any, pixels: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"pixel_values": pixels, "image_sizes": torch.tensor([pixels.shape[2:]])}


_MISTRAL = {"image_token_id": IMAGE, "image_token_index": IMAGE}
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5]}
_QWEN = {"image_token_id": IMAGE, "video_token_id": 6, "vision_start_token_id": 4, "vision_end_token_id": 5}
WHOLE = {
    "gemma3": Whole(
        "gemma3",
        {"image_token_id": IMAGE, "image_token_index": IMAGE, "boi_token_index": 9, "eoi_token_index": 10},
        lambda model, pixels, tokens: {"pixel_values": pixels, "token_type_ids": (tokens == IMAGE).int()},
    ),
    "mistral3": Whole("pixtral", _MISTRAL, _sized, columns=4),
    "mistral3-tied": Whole(  # by the wrapper's flag, which its text's contradicts
        "pixtral", _MISTRAL | {"tie_word_embeddings": True}, _sized, {"tie_word_embeddings": False}, columns=4
    ),
    "qwen2.5vl": Whole("qwen2.5vl_merger", _QWEN, _grid, {"rope_parameters": _ROPE}),
    "qwen3vl": Whole("qwen3vl_merger", _QWEN, _grid, {"num_hidden_layers": 4, "rope_parameters": _ROPE}),
    "qwen3.5": Whole("qwen3vl_merger-qwen35", _QWEN, _grid),
}


def proof_of(whole: Whole) -> TowerProof:
    proof = PROOFS[whole.proof]
    text = {**proof.config["text_config"], **whole.text}
    files = {
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>",
            "added_tokens_decoder": {str(i): {"content": one, "special": True} for i, one in enumerate(SPECIAL)},
            "chat_template": TEMPLATE,
        },
    }  # fmt: skip
    return replace(proof, config={**proof.config, **whole.config, "text_config": text}, files={**proof.files, **files})


def tokens_of(whole: Whole, chunks: list[list[int] | int]) -> torch.Tensor:
    """The tokens of chunks as transformers wants them: [1, n], with an image's token in place of each embedding."""
    every = whole.columns + 1
    parts = (
        chunk if isinstance(chunk, list)
        else [BREAK if whole.columns and i % every == whole.columns else IMAGE for i in range(chunk)]
        for chunk in chunks
    )  # fmt: skip
    return torch.tensor([list(chain.from_iterable(parts))])


@pytest.mark.parametrize("name", WHOLE)
def test_an_image_in_a_text(name: str, tmp_path: Path) -> None:
    whole = WHOLE[name]
    proof, folder, text, beside = proof_of(whole), tmp_path / "hf", tmp_path / "text.gguf", tmp_path / "mmproj.gguf"
    model: Any = save_tower_proof(proof, folder)
    convert(folder, text, "F32", mmproj=MmprojOptions(beside, level="F32"))
    with Mtmd(text, whole=True) as peer:
        peer.open(beside, proof.min_tokens)
        chunks, found = peer.read("Look: ", image_of(proof), " what is it?")
    tokens = tokens_of(whole, chunks)
    pixels = torch.from_numpy(pixels_of(proof))
    with torch.no_grad():
        expected = model(tokens, **whole.given(model, pixels, tokens)).logits[0, -1].float().numpy()
        blind = model(tokens).logits[0, -1].float().numpy()
    difference = float(np.abs(found[: expected.size] - expected).max() / np.ptp(expected))
    print(f"{name}: {difference:.1e}")
    assert difference < 2e-3
    assert np.abs(blind - expected).max() > 0.05 * np.ptp(expected)  # the image is seen


@pytest.mark.parametrize("name", WHOLE)
def test_tokens_and_template_of_a_whole_model_come_back(name: str, tmp_path: Path) -> None:
    proof = proof_of(WHOLE[name])
    folder, text, beside, back = (tmp_path / part for part in ("hf", "text.gguf", "mmproj.gguf", "back"))
    save_tower_proof(proof, folder)
    convert(folder, text, "F32", mmproj=MmprojOptions(beside, level="F32"))
    assert read_gguf(text).get("tokenizer.chat_template") == TEMPLATE
    convert(text, back, mmproj=MmprojOptions(beside))
    ours, theirs = (json.loads((path / "config.json").read_text()) for path in (back, folder))
    ids = [key for key in theirs if "token_i" in key]
    assert ids
    assert ours.get("tie_word_embeddings") == theirs.get("tie_word_embeddings")
    texts = [AutoConfig.from_pretrained(path).text_config for path in (back, folder)]
    assert texts[0].rope_parameters == texts[1].rope_parameters
    assert {key: ours.get(key) for key in ids} == {key: theirs[key] for key in ids}
