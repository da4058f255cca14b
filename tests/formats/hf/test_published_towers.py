"""Towers whose checkpoints were published with other configs and names than transformers 5 writes: the same file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oracles.tower_proofs import COLOURS, all_tower_proofs, rename, save_tower_proof
from quantmill.formats.hf.mmproj import read_mmproj
from quantmill.formats.ir import Model

_KIMI = {
    "model_type": "", "init_pos_emb_height": 8, "init_pos_emb_width": 8, "merge_kernel_size": [2, 2],
    "merge_type": "sd2_tpool", "mm_hidden_size": 64, "mm_projector_type": "patchmerger", "patch_size": 8,
    "pos_emb_type": "divided_fixed", "projector_hidden_act": "gelu", "projector_ln_eps": 1e-5,
    "vt_hidden_size": 64, "vt_intermediate_size": 128, "vt_num_attention_heads": 2, "vt_num_hidden_layers": 4,
}  # fmt: skip
# What the config has in place of transformers', and beginnings of names that transformers has otherwise.
CASES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "kimik25": (
        {"architectures": ["KimiK25ForConditionalGeneration"], "vision_config": _KIMI},
        {
            "vision_tower.patch_embed.proj.": "vision_tower.encoder.patch_embed.proj.",
            "mm_projector.pre_norm.": "model.mm_projector.pre_norm.",
        },
    ),
    "paddleocr": (
        {"vision_config": {"model_type": "paddleocr_vl", "hidden_size": 64, "intermediate_size": 128}
         | {"num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64, "patch_size": 8}},
        {"visual.": "model.visual.", "mlp_AR.": "model.projector."},
    ),
}  # fmt: skip


def content(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    keys = {key: repr(value.data) for key, value in model.metadata.items() if key.startswith("clip.")}
    return keys, {one.name: (one.shape, one.rows(0, one.n_rows).tobytes()) for one in model.tensors}


@pytest.mark.parametrize("case", CASES)
def test_both_layouts_make_the_same_file(case: str, tmp_path: Path) -> None:
    published, names = CASES[case]
    save_tower_proof(next(proof for proof in all_tower_proofs() if proof.id == case), tmp_path)
    expected = content(read_mmproj(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | published))
    assert content(read_mmproj(tmp_path)) == expected
    (tmp_path / "config.json").write_text(json.dumps(config))
    rename(tmp_path, names)
    assert content(read_mmproj(tmp_path)) == expected


def test_limits_of_pixels_where_transformers_5_has_them(tmp_path: Path) -> None:
    save_tower_proof(next(proof for proof in all_tower_proofs() if proof.id == "paddleocr"), tmp_path)
    expected = content(read_mmproj(tmp_path))
    size = {"size": {"shortest_edge": 1024, "longest_edge": 65536}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(COLOURS | size))
    assert content(read_mmproj(tmp_path)) == expected
