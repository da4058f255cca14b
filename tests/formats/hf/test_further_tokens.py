"""Layers that predict further tokens: kept as blocks after the last, left out, written alone, and brought back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from oracles.llama import Llama
from oracles.proofs import Proof, all_proofs, save_proof, tokens_of
from quantmill.formats.errors import FormatError, UnmatchedTensor
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.strict import check_gguf
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import write_hf
from quantmill.formats.hf.shapes import read_shapes
from quantmill.formats.hf.tables.further import Mtp
from quantmill.formats.ir import Model, Role
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import make_plan

PROOFS = {proof.id: proof for proof in all_proofs()}
KEPT = ("qwen35", "glm4moe", "exaone-moe")


def write(model: Model, path: Path) -> Path:
    execute(make_plan(model, "F32"), path, threads=1)
    return path


def save(folder: Path, proof: Proof) -> Path:
    folder.mkdir()
    save_proof(proof, folder)
    return folder


def change(folder: Path, config: Mapping[str, Any] | None = None, **names: str) -> None:
    """Change a checkpoint's config.json, and the beginnings of its tensors' names."""
    if config is not None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(config)))
    weights = load_file(folder / "model.safetensors")
    for old, new in names.items():
        weights = {new + n.removeprefix(old) if n.startswith(old) else n: w for n, w in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def facts(model: Model) -> tuple[Any, Any]:
    """The numbers of layers that a file's keys name."""
    return model.n_layers, model.hparam("nextn_predict_layers", 0)


@pytest.mark.parametrize("name", KEPT)
def test_left_out_they_change_no_logit(name: str, tmp_path: Path) -> None:
    proof = PROOFS[name]
    folder = save(tmp_path / "hf", proof)
    lines: list[str] = []
    files = [write(read_hf(folder, mtp=mtp), tmp_path / f"{mtp}.gguf") for mtp in ("keep", "leave")]
    read_hf(folder, mtp="leave", say=lines.append)
    assert [line for line in lines if "left out, as asked: the layers that predict further tokens (" in line] == lines
    with_them, without = (read_gguf(path) for path in files)
    n = without.n_layers
    assert (facts(with_them), facts(without)) == ((n + 1, 1), (n, 0))
    assert {tensor.name for tensor in without} == {t.name for t in with_them if t.layer is None or t.layer < n}
    with Llama(files[0]) as peer:
        expected = peer.logits(tokens_of(proof))
        peer.open(files[1])
        assert np.array_equal(peer.logits(tokens_of(proof)), expected)
    back = tmp_path / "back"
    write_hf(without, back)
    text = (back / "config.json").read_text()
    assert not any(word in text for word in ("nextn", "mtp"))
    assert set(load_file(folder / "model.safetensors")) > {*load_file(back / "model.safetensors")}


@pytest.mark.parametrize("name", KEPT)
def test_alone_they_have_embedding_norm_and_head(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "hf", PROOFS[name])
    lines: list[str] = []
    alone = read_hf(folder, mtp="only", say=lines.append)
    whole = read_hf(folder)
    assert [line for line in lines if "left out, as asked: all but the layers for further tokens (" in line] == lines
    assert facts(alone) == facts(whole)
    last = whole.n_layers - 1
    outer = {"token_embd.weight", "output_norm.weight", "output.weight"}
    assert {tensor.name for tensor in alone} == outer | {t.name for t in whole if t.layer == last}
    path = write(alone, tmp_path / "alone.gguf")
    assert [str(finding) for finding in check_gguf(path)] == []
    with pytest.raises(FormatError, match=r"alone\.gguf: holds layers for further tokens alone, which are no check"):
        write_hf(read_gguf(path), tmp_path / "back")


def test_a_model_without_them(tmp_path: Path) -> None:
    folder = save(tmp_path / "hf", replace(PROOFS["glm4moe"], further=None))
    lines: list[str] = []
    model = read_hf(folder, say=lines.append)
    assert facts(model) == (3, 0)
    assert any(": layers that predict further tokens: 1 by config.json, 0 in the weights" in line for line in lines)
    with pytest.raises(FormatError, match="has no layers that predict further tokens"):
        read_hf(folder, mtp="only")
    write_hf(model, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["num_nextn_predict_layers"] == 1
    change(folder, {"num_nextn_predict_layers": 10**9})
    with pytest.raises(FormatError, match="1000000000 layers for further tokens are more than any model has"):
        read_hf(folder)


def test_layers_that_stand_alone_only(tmp_path: Path) -> None:
    """DeepSeek V4's are left out of the model's file, and its file of them alone has their mix of residual streams."""
    proof = PROOFS["deepseek4"]
    folder = save(tmp_path / "hf", proof)
    lines: list[str] = []
    model = read_hf(folder, say=lines.append)
    assert facts(model) == (3, 0)
    assert "nextn" not in "".join(tensor.name for tensor in model)
    said = (
        "left out, since llama.cpp's deepseek4 wants them alone (--mtp-only): the layers that predict further tokens ("
    )
    assert [line for line in lines if said in line]
    assert {tensor.name for tensor in read_shapes(folder / "config.json")} == {tensor.name for tensor in model}
    alone = read_hf(folder, mtp="only")
    assert facts(alone) == (4, 1)
    weights = load_file(folder / "model.safetensors")
    found = {tensor.name: tensor for tensor in alone}
    joined = torch.cat([weights["mtp.0.e_proj.weight"], weights["mtp.0.h_proj.weight"]], dim=1).numpy()
    for name, expected in (
        ("blk.3.nextn.eh_proj.weight", joined),
        ("output_hc_fn.weight", weights["mtp.0.hc_head_fn"].numpy()),
    ):
        tensor = found[name]
        assert np.array_equal(tensor.rows(0, tensor.n_rows).view(np.float32), expected)
    assert found["output_hc_fn.weight"].layer is None
    with Llama(write(model, tmp_path / "m.gguf")) as peer:
        assert np.isfinite(peer.logits(tokens_of(proof))).all()


def test_an_architecture_that_keeps_none(tmp_path: Path) -> None:
    """Of DeepSeek V3, llama.cpp reads no such layers; a tensor of the model's own layers is not taken for one."""
    folder = save(tmp_path / "hf", PROOFS["deepseek3"])
    names = [tensor.name for tensor in read_hf(folder)]
    path = folder / "model.safetensors"
    weights = load_file(path)
    norm = weights["model.layers.0.input_layernorm.weight"]
    further = {f"model.layers.3.{part}": norm.clone() for part in ("enorm.weight", "input_layernorm.weight")}
    save_file({**weights, **further}, path)
    lines: list[str] = []
    assert [tensor.name for tensor in read_hf(folder, say=lines.append)] == names
    assert any("layers that predict further tokens (2 tensors" in line for line in lines)
    with pytest.raises(FormatError, match="has no layers that predict further tokens that a GGUF file could hold"):
        read_hf(folder, mtp="only")
    save_file({**weights, "model.layers.2.enorm.weight": norm.clone()}, path)  # the last layer itself
    with pytest.raises(UnmatchedTensor, match=r"model\.layers\.2\.enorm\.weight"):
        read_hf(folder)


@pytest.mark.parametrize("begins", [{"mtp.": "model.mtp."}, {"model.": "model.language_model."}])
def test_names_of_other_layouts(begins: dict[str, str], tmp_path: Path) -> None:
    folder = save(tmp_path / "hf", PROOFS["qwen35"])
    expected = read_hf(folder)
    change(folder, **begins)
    found = {tensor.name: tensor.rows(0, tensor.n_rows) for tensor in read_hf(folder)}
    assert found.keys() == {tensor.name for tensor in expected}
    assert all(np.array_equal(tensor.rows(0, tensor.n_rows), found[tensor.name]) for tensor in expected)


@pytest.mark.parametrize("fused", ["model.", "mtp."])
def test_experts_of_two_layouts_in_one_checkpoint(fused: str, tmp_path: Path) -> None:
    """The model's experts in two tensors and those of the further layer each in three of its own, or the reverse."""
    folder = save(tmp_path / "hf", PROOFS["qwen35moe"])
    expected = read_hf(folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    layers = {name.partition("experts.0.")[0] for name in weights if "experts.0." in name and name.startswith(fused)}
    for layer in layers:
        gate, up, down = (
            torch.stack([weights.pop(f"{layer}experts.{i}.{name}_proj.weight") for i in range(5)])
            for name in ("gate", "up", "down")
        )
        weights[f"{layer}experts.gate_up_proj"] = torch.cat([gate, up], dim=1)
        weights[f"{layer}experts.down_proj"] = down
    save_file(weights, path, metadata={"format": "pt"})
    model = read_hf(folder)
    found = {tensor.name: tensor.rows(0, tensor.n_rows) for tensor in model}
    assert all(np.array_equal(tensor.rows(0, tensor.n_rows), found[tensor.name]) for tensor in expected)
    write_hf(read_gguf(write(model, tmp_path / "m.gguf")), tmp_path / "back")
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == weights.keys()


def test_config_json_alone_plans_them(tmp_path: Path) -> None:
    folder = save(tmp_path / "hf", PROOFS["qwen35"])
    model, imagined = read_hf(folder), read_shapes(folder / "config.json")
    assert {tensor.name: tensor.shape for tensor in imagined} == {tensor.name: tensor.shape for tensor in model}
    assert facts(imagined) == facts(model) == (5, 1)


@pytest.mark.parametrize(("mtp", "more"), [("keep", {2, 4}), ("leave", {2, 3})])
def test_mixes_count_them_as_blocks(mtp: Mtp, more: set[int], tmp_path: Path) -> None:
    """By hand: ``use_more_bits`` of llama-quant.cpp, where the number of layers is ``n_layer_all``: 5 here, or 4."""
    model = read_hf(save(tmp_path / "hf", PROOFS["qwen35"]), mtp=mtp)
    types = {step.tensor.name: step.type.name for step in make_plan(model, "Q4_K_M").steps}
    downs = {tensor.layer: types[tensor.name] for tensor in model if tensor.role is Role.FFN_DOWN}
    assert {layer for layer, type in downs.items() if type == "Q6_K"} == more
    assert {*downs.values()} == {"Q4_K", "Q6_K"}
