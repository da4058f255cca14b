"""Step 3.7: files without what we record beside, and lists that count the layers for further tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from oracles.proofs import all_proofs, save_proof
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import write_hf

PROOF = next(proof for proof in all_proofs() if proof.id == "step35")


def test_rope_follows_from_the_factors(tmp_path: Path) -> None:
    save_proof(PROOF, tmp_path / "hf")
    model = read_hf(tmp_path / "hf")
    keys = {key: value for key, value in model.metadata.items() if not key.startswith("quantmill.")}
    write_hf(replace(model, metadata=keys), tmp_path / "back")
    found = json.loads((tmp_path / "back" / "config.json").read_text())["text_config"]
    wanted = json.loads((tmp_path / "hf" / "config.json").read_text())["text_config"]
    for key in ("rope_parameters", "layer_types", "mlp_layer_types", "num_sliding_attention_heads", "head_dim"):
        assert found.get(key, wanted[key]) == wanted[key], key
    assert found["rope_parameters"]["full_attention"]["rope_type"] == "llama3"


def test_entries_of_further_layers_are_none_of_the_model(tmp_path: Path) -> None:
    save_proof(PROOF, tmp_path)
    plain, path = read_hf(tmp_path), tmp_path / "config.json"
    config = json.loads(path.read_text())
    text = config["text_config"] | {"num_nextn_predict_layers": 2}
    for key in ("layer_types", "mlp_layer_types", "swiglu_limits", "swiglu_limits_shared"):
        text[key] = text[key] + [text[key][-1]] * 2
    path.write_text(json.dumps(config | {"text_config": text}))
    longer = read_hf(tmp_path)
    assert {key: str(value) for key, value in longer.metadata.items() if key.startswith("step35.")} == {
        key: str(value) for key, value in plain.metadata.items() if key.startswith("step35.")
    }
