"""What every entry of TOWERS must hold, and its proof: what llama.cpp makes of an image is what transformers makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig

from oracles.converter import TOWER_GOLDENS, differences, golden_path, keys_of, summary, weights_digest
from oracles.mtmd import Mtmd
from oracles.tower_differences import LESS, MORE, OTHER, UNCONVERTED, is_listed
from oracles.tower_proofs import (
    TowerProof,
    all_tower_proofs,
    image_of,
    publish,
    run_tower_proof,
    save_tower_proof,
    sound_of,
    vocabulary_for_towers,
)
from quantmill import verify_strict
from quantmill.formats.errors import UnknownArchitecture
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.mmproj import read_mmproj
from quantmill.formats.hf.save import write_hf
from quantmill.formats.hf.tables.tower import Tower
from quantmill.formats.hf.towers import TOWERS
from quantmill.formats.ir import Model
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import make_plan

PROOFS = all_tower_proofs()
LIMITS = {"F32": 1.0, "F16": 5.0, "Q8_0": 30.0}  # in units of a proof's limit


@pytest.mark.parametrize("tower", TOWERS, ids=lambda tower: tower.name)
def test_every_tower_is_proven(tower: Tower) -> None:
    assert tower.name in {proof.tower for proof in PROOFS}


class Proven:
    """A proof's files, made once for all its tests."""

    def __init__(self, proof: TowerProof, folder: Path) -> None:
        self.proof, self.folder = proof, folder
        self.model = save_tower_proof(proof, folder / "hf")
        self.expected = run_tower_proof(proof, self.model)
        self.source = read_mmproj(folder / "hf")

    def write(self, level: str) -> Path:
        path = self.folder / f"mmproj-{level}.gguf"
        if not path.exists():
            execute(make_plan(self.source, level), path, threads=1)
        return path


@pytest.fixture(scope="module", params=PROOFS, ids=lambda proof: proof.id)
def proven(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Proven:
    torch.set_num_threads(1)
    return Proven(request.param, tmp_path_factory.mktemp(request.param.id))


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mtmd]:
    with Mtmd(vocabulary_for_towers(tmp_path_factory.mktemp("vocabulary") / "bytes.gguf")) as found:
        yield found


@pytest.mark.parametrize("level", LIMITS)
def test_llama_cpp_makes_the_same_of_an_image(proven: Proven, peer: Mtmd, level: str) -> None:
    proof = proven.proof
    peer.open(proven.write(level), proof.min_tokens)
    chunks = peer.encode_audio(sound_of(proof)) if proof.sound else peer.encode_image(image_of(proof))
    found = np.concatenate(chunks)
    expected = run_tower_proof(proof, proven.model, *peer.heard()) if proof.own_mel else proven.expected
    assert found.shape == expected.shape
    difference = float(np.abs(found - expected).max() / np.ptp(expected))
    print(f"{proof.id} {level}: {difference:.1e}")
    assert difference < proof.limit * LIMITS[level]


def test_a_lower_level_of_an_f16_file_runs(proven: Proven, peer: Mtmd) -> None:
    """As ``quantize mmproj-F16.gguf Q4_K_M`` makes it: of what llama.cpp cannot compute in blocks, floats are left."""
    proof, path = proven.proof, proven.folder / "mmproj-Q4_K_M.gguf"
    execute(make_plan(read_gguf(proven.write("F16")), "Q4_K_M"), path, threads=1)
    peer.open(path, proof.min_tokens)
    found = np.concatenate(peer.encode_audio(sound_of(proof)) if proof.sound else peer.encode_image(image_of(proof)))
    assert np.isfinite(found).all()
    assert np.abs(found - proven.expected).max() < 0.5 * np.ptp(proven.expected)


def test_strict_finds_nothing(proven: Proven) -> None:
    for level in ("F16", "Q8_0"):
        assert verify_strict(proven.write(level)) == ()


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = AutoConfig.from_pretrained(folder).to_dict()
    return {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}


def test_text_and_towers_give_the_checkpoint_back(proven: Proven) -> None:
    text = proven.folder / "text.gguf"
    execute(make_plan(read_hf(proven.folder / "hf"), "F32"), text, threads=1)
    back = proven.folder / "back"
    write_hf(read_gguf(text), back, towers=read_gguf(proven.write("F32")))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (back, proven.folder / "hf"))
    lost = {name for name in theirs if any(fnmatchcase(name, like) for like in proven.proof.lost)}
    assert bool(lost) == bool(proven.proof.lost)
    assert ours.keys() == theirs.keys() - lost
    for name in ours:
        weight = theirs[name]
        assert ours[name].dtype == weight.dtype, name
        assert ours[name].shape == weight.shape, name
        assert torch.equal(ours[name].reshape(-1).view(torch.uint8), weight.reshape(-1).view(torch.uint8)), name
    assert config_of(back) == config_of(proven.folder / "hf")
    names = ("preprocessor_config.json", "processor_config.json")
    for name in names:
        given = proven.folder / "hf" / name
        assert not given.exists() or (back / name).read_text() == given.read_text()
    model = getattr(transformers, proven.proof.model).from_pretrained(back)
    assert np.array_equal(run_tower_proof(proven.proof, model.eval()), proven.expected)


# Of whose files without our keys the way back gives another folder, and why.
UNSAID = {
    "pixtral-llava": "no key says that Pixtral's features are all taken (vision_feature_select_strategy: full)",
    "gemma4a": "softplus does not come back exactly: 2e-6 of the features",
}


def without_our_keys(path: Path) -> Model:
    """A file as llama.cpp's own converter would write it: without what only we record."""
    model = read_gguf(path)
    return replace(
        model, metadata={key: one for key, one in model.metadata.items() if not key.startswith("quantmill.")}
    )


def test_files_of_other_programs_give_a_checkpoint_that_computes_the_same(proven: Proven) -> None:
    text = proven.folder / "others-text.gguf"
    execute(make_plan(read_hf(proven.folder / "hf"), "F32"), text, threads=1)
    back = proven.folder / "of-others"
    write_hf(without_our_keys(text), back, towers=without_our_keys(proven.write("F32")))
    if proven.proof.id in UNSAID:
        return
    model = getattr(transformers, proven.proof.model).from_pretrained(back)
    assert np.array_equal(run_tower_proof(proven.proof, model.eval()), proven.expected)


def test_an_mmproj_file_is_that_of_llama_cpp_s_converter(proven: Proven) -> None:
    name = proven.proof.golden
    if name in UNCONVERTED:
        assert not golden_path(name).exists()
        return
    golden = json.loads(golden_path(name).read_text(encoding="utf-8"))
    folder = proven.folder / golden_path(name).stem
    shutil.copytree(proven.folder / "hf", folder)
    assert weights_digest(folder) == golden["weights"], f"other weights than with {golden['made with']}"
    source = read_mmproj(folder)
    files = [proven.folder / f"converted-{level}.gguf" for level in ("F32", "F16")]
    for path, level in zip(files, ("F32", "F16"), strict=True):
        execute(make_plan(source, level), path, threads=1)
    found = differences(summary(*files), golden)
    assert {key: pair for key, pair in found.items() if not is_listed(proven.proof.tower, key, *pair)} == {}


def test_a_published_layout_gives_the_same_file(proven: Proven) -> None:
    if not proven.proof.around:
        assert not any("thinker" in name for name in proven.proof.old_names.values())
        return
    folder = proven.folder / "published" / "hf"
    shutil.copytree(proven.folder / "hf", folder)
    publish(proven.proof, folder)
    published = read_mmproj(folder)
    keys = [[key for key in model.metadata if "quantmill" not in key] for model in (published, proven.source)]
    assert keys[0] == keys[1]
    assert not any(key.endswith(".roots") for key in published.metadata), "its config comes back as transformers has it"
    assert [tensor.name for tensor in published.tensors] == [tensor.name for tensor in proven.source.tensors]
    for ours, theirs in zip(published.tensors, proven.source.tensors, strict=True):
        assert np.array_equal(ours.rows(0, ours.n_rows), theirs.rows(0, theirs.n_rows)), ours.name


def test_a_class_that_llama_cpp_does_not_compute_is_refused_with_the_reason(tmp_path: Path) -> None:
    config = {"architectures": ["VoxtralForConditionalGeneration"], "audio_config": {"model_type": "voxtral_encoder"}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UnknownArchitecture, match="no file makes it hear Voxtral"):
        read_mmproj(tmp_path)


def test_listed_differences_are_in_the_goldens() -> None:
    """What only we have is missing there; what only they have, or have otherwise, is there."""
    proofs = [proof for proof in PROOFS if proof.golden not in UNCONVERTED]
    goldens = {proof.golden: json.loads(golden_path(proof.golden).read_text(encoding="utf-8")) for proof in proofs}
    assert {path.stem for path in TOWER_GOLDENS.iterdir()} == {golden_path(name).stem for name in goldens}
    for listed, there in ((MORE, False), (LESS, True), (OTHER, True)):
        for one in listed:
            assert {*one.archs} <= {tower.name for tower in TOWERS}
            covered = [
                any(one.covers(proof.tower, key) for key in keys_of(goldens[proof.golden]))
                for proof in proofs
                if not one.archs or proof.tower in one.archs
            ]
            assert there in covered, one
