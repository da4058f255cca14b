"""Qwen 3.5 as it is published: beside a vision tower and further layers, with experts in either layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from oracles.llama import Llama
from oracles.proofs import SMALL, Proof, add_further, all_proofs, save_proof, tokens_of
from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import write_hf
from quantmill.formats.hf.tables import rope
from quantmill.formats.hf.tables.rows import Rope
from quantmill.formats.ir import Model
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import make_plan

PROOFS = {proof.id: proof for proof in all_proofs()}
VISION = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 256,
    "num_position_embeddings": 16,
}  # fmt: skip
TOKENS = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6}


def save_whole(proof: Proof, folder: Path) -> torch.nn.Module:
    """The wrapper with its vision tower and a layer for further tokens."""
    assert proof.further
    cls = getattr(transformers, proof.model.replace("ForCausalLM", "ForConditionalGeneration"))
    torch.manual_seed(5)
    model = cls(cls.config_class(text_config={**SMALL, **proof.config}, vision_config=VISION, **TOKENS)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.03)
    model.save_pretrained(folder, save_original_format=not proof.as_loaded)
    add_further(folder, replace(proof.further, like="model.language_model.layers.1."), np.random.default_rng(5))
    return model


@pytest.mark.parametrize("case", ["qwen35", "qwen35moe", "qwen35moe-fused"])
def test_the_text_model_of_a_whole_one(case: str, tmp_path: Path) -> None:
    proof, said = PROOFS[case], []
    model = save_whole(proof, tmp_path / "hf")
    names = load_file(tmp_path / "hf" / "model.safetensors")
    fused = any(name.startswith("model.") and name.endswith("gate_up_proj") for name in names)
    assert fused == proof.as_loaded
    source = read_hf(tmp_path / "hf", say=said.append)
    assert said == [
        f"{tmp_path / 'hf'}: left out, as the text model is computed without it: vision tower (21 tensors, 431.4 kB)"
        "; --mmproj writes them"
    ]
    execute(make_plan(source, "F32"), tmp_path / "f32.gguf", threads=1)
    with torch.no_grad():
        expected = model(torch.tensor([tokens_of(proof)])).logits[0].numpy()
    peer = Llama(tmp_path / "f32.gguf")
    try:
        assert np.abs(peer.logits(tokens_of(proof)) - expected).max() < 2e-3 * np.ptp(expected)
    finally:
        peer.close()
    write_hf(read_gguf(tmp_path / "f32.gguf"), tmp_path / "back")
    back = getattr(transformers, proof.model).from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        assert np.array_equal(back(torch.tensor([tokens_of(proof)])).logits[0].numpy(), expected)
    ours = load_file(tmp_path / "back" / "model.safetensors")
    assert ours.keys() == {name.replace("model.language_model.", "model.") for name in names if "visual" not in name}
    assert "fused" not in (tmp_path / "back" / "config.json").read_text()


def test_both_layouts_of_experts_are_one_model(tmp_path: Path) -> None:
    models: dict[str, Model] = {}
    for case in ("qwen35moe", "qwen35moe-fused"):
        save_proof(PROOFS[case], tmp_path / case)
        models[case] = read_hf(tmp_path / case)
    found = [
        {tensor.name: (tensor.shape, bytes(np.ascontiguousarray(tensor.rows(0, tensor.n_rows)))) for tensor in model}
        for model in models.values()
    ]
    assert found[0] == found[1]
    layers = [name for name in found[0] if "exps" in name]
    assert len(layers) == 5 * 3


@pytest.mark.parametrize(
    ("given", "written"),
    [(None, [11, 11, 10, 0]), ([3, 3, 2], [3, 3, 2, 0]), ([3, 3, 2, 0], [3, 3, 2, 0])],
)
def test_sections(given: list[int] | None, written: list[int]) -> None:
    row = Rope(partial=0.25, dimension=True, sections=(11, 11, 10))
    parameters = {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25}
    parameters |= {} if given is None else {"mrope_section": given}
    keys = dict(row.to_gguf({"rope_parameters": parameters, "head_dim": 64}))
    assert keys["rope.dimension_sections"] == written
    keys |= {"attention.key_length": 64}
    back = row.to_hf(lambda suffix, each=False: keys.get(suffix))["rope_parameters"]
    assert back["mrope_section"] == written[:3]
    assert back["mrope_interleaved"] is True


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ([4, 4, 4], "[4, 4, 4] does not sum to the 8 rotated pairs of a head"),
        ([11, 11, 10], "[11, 11, 10] does not sum to the 8 rotated pairs of a head"),
        ([6, 1, 1], "[6, 1, 1] leaves pairs of llama.cpp's rope unturned"),
    ],
)
def test_sections_that_cannot_be(sections: list[int], problem: str) -> None:
    with pytest.raises(FormatError) as error:
        rope.sections({"mrope_section": sections, "partial_rotary_factor": 0.25}, (11, 11, 10), 64)
    assert str(error.value) == f"rope_parameters.mrope_section: {problem}"


@pytest.mark.parametrize("sections", [3, [], [3, 5], [3, 5, 0], [3, 3, 2, 1], [3.0, 3, 2], [True, 4, 3], "332"])
def test_sections_of_another_type(sections: Any) -> None:
    config = {"rope_parameters": {"mrope_section": sections}, "max_position_embeddings": 128, "head_dim": 64}
    with pytest.raises(FormatError, match=r"c.json: rope_parameters.mrope_section: .* is not a list of 3 or 4 "):
        rope.canonical(config, Path("c.json"))
