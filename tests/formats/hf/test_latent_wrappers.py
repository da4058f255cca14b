"""Latent attention beside a vision tower: Kimi K2.5 and Mistral 4, as transformers saves and others publish them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from oracles.llama import Llama
from oracles.proofs import SMALL, all_proofs, save_proof, tokens_of
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import write_hf
from quantmill.formats.ir import Model
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import make_plan

PROOFS = {proof.id: proof for proof in all_proofs()}
_TOWER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
# The proof of the text, the wrapper, the text's type, and the other settings of the wrapper's config.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "deepseek3": (
        "Kimi_K25ForConditionalGeneration",
        "deepseek_v3",
        {
            "vision_config": _TOWER | {"pos_emb_height": 4, "pos_emb_width": 4},
            "projection_hidden_size": 32,
            **{f"{name}_token_id": 3 + i for i, name in enumerate(("image", "video", "vision_start", "vision_end"))},
        },
    ),
    "mistral4": (
        "Mistral3ForConditionalGeneration",
        "mistral4",
        {
            "vision_config": _TOWER | {"model_type": "pixtral", "image_size": 28, "patch_size": 14},
            "image_token_index": 3,
        },
    ),
}


def save_whole(case: str, folder: Path) -> torch.nn.Module:
    name, kind, settings = CASES[case]
    cls = getattr(transformers, name)
    torch.manual_seed(5)
    text = {**SMALL, **PROOFS[case].config, "model_type": kind, "tie_word_embeddings": False}
    model = cls(cls.config_class(text_config=text, tie_word_embeddings=False, **settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.03)
    model.save_pretrained(folder)
    return model


def contents(model: Model) -> dict[str, bytes]:
    return {tensor.name: bytes(np.ascontiguousarray(tensor.rows(0, tensor.n_rows))) for tensor in model}


@pytest.mark.parametrize("case", CASES)
def test_the_text_model_of_a_whole_one(case: str, tmp_path: Path) -> None:
    proof, said = PROOFS[case], []
    whole = save_whole(case, tmp_path / "hf")
    source = read_hf(tmp_path / "hf", say=said.append)
    assert len(said) == 1
    assert "left out, as the text model is computed without it: projector (" in said[0]
    execute(make_plan(source, "F32"), tmp_path / "f32.gguf", threads=1)
    tokens = torch.tensor([tokens_of(proof)])
    with torch.no_grad():
        expected = whole(tokens).logits[0].numpy()
    peer = Llama(tmp_path / "f32.gguf")
    try:
        assert np.abs(peer.logits(tokens_of(proof)) - expected).max() < 2e-3 * np.ptp(expected)
    finally:
        peer.close()
    write_hf(read_gguf(tmp_path / "f32.gguf"), tmp_path / "back")
    back = getattr(transformers, proof.model).from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        assert np.array_equal(back(tokens).logits[0].numpy(), expected)


def test_kimi_s_published_names_are_the_same_model(tmp_path: Path) -> None:
    save_whole("deepseek3", tmp_path / "hf")
    saved = read_hf(tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(path)
    layers = {
        name.replace("language_model.model.blocks.", "language_model.model.layers."): one
        for name, one in tensors.items()
    }
    assert layers.keys() != tensors.keys()
    save_file(layers, path, metadata={"format": "pt"})
    config = (tmp_path / "hf" / "config.json").read_text()
    published = config.replace("Kimi_K25For", "KimiK25For").replace('"deepseek_v3"', '"kimi_k2"')
    (tmp_path / "hf" / "config.json").write_text(published)
    assert contents(read_hf(tmp_path / "hf")) == contents(saved)


def test_dots_3_note_as_it_is_published(tmp_path: Path) -> None:
    """With its text's config at the top, other names of keys, and towers and further layers beside."""
    proof, said = PROOFS["dots3note"], []
    save_proof(proof, tmp_path / "hf")
    saved = read_hf(tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text()) | dict(proof.published)
    for key in ("per_layer_config", "rope_parameters", "sliding_window", "mlp_layer_types"):
        del config[key]
    config["moe_shared_expert_intermediate_size"] = config.pop("shared_experts_intermediate_size")
    config |= {"model_type": "dots3_note", "architectures": ["Dots3NoteForConditionalGeneration"]}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    path = tmp_path / "hf" / "model.safetensors"
    beside = ("vision_encoder.x.weight", "audio_encoder.x.weight", "model.mtp.embed_tokens.weight")
    save_file(load_file(path) | {name: torch.zeros(4) for name in beside}, path, metadata={"format": "pt"})
    published = read_hf(tmp_path / "hf", say=said.append)
    assert contents(published) == contents(saved)
    keys, same = (
        {key: str(value.data) for key, value in model.metadata.items() if key.startswith("dots3note.")}
        for model in (published, saved)
    )
    assert keys == same
    assert "audio tower (1 tensor, 16 bytes)" in said[0]
    write_hf(published, tmp_path / "back")
    back = transformers.AutoConfig.from_pretrained(tmp_path / "back")
    assert back.per_layer_config[1].kv_lora_rank == 96
    assert back.layer_types == ["indexed_attention", "sliding_attention", "indexed_attention"]
