"""Text models as they are published, inside of wrappers and beside other towers: the file of the text model alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from oracles.converter_folders import published_tensors
from oracles.proofs import all_proofs, save_proof
from quantmill.formats.hf.load import read_hf
from quantmill.formats.ir import Model

PROOFS = {proof.id: proof for proof in all_proofs()}


@dataclass(frozen=True)
class Published:
    """How a proof's model is published.

    Args:
        wrapper: the class that config.json names, and its ``model_type``.
        names: beginnings of tensor names, and what is in their place; the first that fits.
        beside: further tensors, all of zeros, by name.
        said: what a line says of those.
    """

    proof: str
    wrapper: tuple[str, str]
    names: dict[str, str]
    beside: dict[str, tuple[int, ...]] = field(default_factory=dict)
    said: str = ""


CASES = (
    Published(
        "gemma4",
        ("Gemma4ForConditionalGeneration", "gemma4"),
        {"model.": "model.language_model."},
        {
            "model.vision_tower.patch_embedder.input_proj.weight": (8, 8),
            "model.embed_vision.embedding_projection.weight": (8, 8),
            "model.audio_tower.output_proj.weight": (8, 8),
            "model.embed_audio.embedding_projection.weight": (8, 8),
        },
        "audio tower (2 tensors, 512 bytes), vision tower (2 tensors, 512 bytes)",
    ),
    Published(
        "gemma4-unified",
        ("Gemma4UnifiedForConditionalGeneration", "gemma4_unified"),
        {"model.": "model.language_model."},
        {
            "model.vision_embedder.patch_dense.weight": (8, 8),
            "model.embed_vision.embedding_projection.weight": (8, 8),
            "model.embed_audio.embedding_projection.weight": (8, 8),
        },
        "audio tower (1 tensor, 256 bytes), vision tower (2 tensors, 512 bytes)",
    ),
    Published(
        "minimax-m3",
        ("MiniMaxM3SparseForConditionalGeneration", "minimax_m3_vl"),
        {"model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
        {
            "vision_tower.vision_model.pre_layrnorm.weight": (8,),
            "multi_modal_projector.linear_1.weight": (8, 8),
            "patch_merge_mlp.linear_1.weight": (8, 8),
            "language_model.model.mtp.layers.0.input_layernorm.weight": (8,),
        },
        "layers that predict further tokens (1 tensor, 32 bytes), projector (1 tensor, 256 bytes), "
        "vision tower (2 tensors, 288 bytes)",
    ),
)


def contents(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """All of a file but what is there for the way back, which has the checkpoint's names."""
    tensors = {t.name: (t.shape, bytes(np.ascontiguousarray(t.rows(0, t.n_rows)))) for t in model}
    return {key: str(value.data) for key, value in model.metadata.items() if not key.startswith("quantmill.")}, tensors


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.proof)
def test_a_wrapped_text_is_the_text(case: Published, tmp_path: Path) -> None:
    plain, folder, said = tmp_path / "tiny", tmp_path / "wrapped" / "tiny", []
    save_proof(PROOFS[case.proof], plain)
    folder.mkdir(parents=True)
    inner = json.loads((plain / "config.json").read_text())
    inner |= {key: value for key, value in PROOFS[case.proof].published.items() if key != "architectures"}
    outer = {"architectures": [case.wrapper[0]], "model_type": case.wrapper[1], "text_config": inner}
    (folder / "config.json").write_text(json.dumps(outer))
    (folder / "generation_config.json").write_bytes((plain / "generation_config.json").read_bytes())
    tensors = {}
    for name, weight in published_tensors(PROOFS[case.proof], load_file(plain / "model.safetensors")).items():
        root = next((root for root in case.names if name.startswith(root)), "")
        tensors[case.names.get(root, "") + name.removeprefix(root)] = weight
    tensors |= {name: np.zeros(shape, np.float32) for name, shape in case.beside.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ours, theirs = read_hf(plain), read_hf(folder, say=said.append)
    assert contents(theirs) == contents(ours)
    left = f"{folder}: left out, as the text model is computed without it: {case.said}"
    assert said == ([left] if case.beside else [])


@pytest.mark.parametrize("case", ["hrm_text"])
def test_both_layouts_are_one_file(case: str, tmp_path: Path) -> None:
    """As the class saves it, which is as it is published, and as the model has it in memory."""
    files = {}
    for as_loaded in (False, True):
        folder = tmp_path / str(as_loaded) / "tiny"
        save_proof(replace(PROOFS[case], as_loaded=as_loaded), folder)
        files[as_loaded] = contents(read_hf(folder))
    assert files[True] == files[False]
    saved = [load_file(tmp_path / str(as_loaded) / "tiny" / "model.safetensors").keys() for as_loaded in files]
    assert saved[0] != saved[1]
