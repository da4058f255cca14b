"""What every entry of ARCHS must hold, and its proof: a tiny random model that llama.cpp and transformers agree on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig

from oracles.converter import GOLDENS, SMOLLM2, differences, golden_path, keys_of, summary, weights_digest
from oracles.converter_differences import LESS, MORE, OTHER, UNCONVERTED, UNKNOWN, is_listed
from oracles.converter_folders import publish
from oracles.peer import Peer
from oracles.proofs import Proof, all_proofs, run_proof, same_logits, save_proof, text_weights
from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.keys import KEY_TYPES
from quantmill.formats.gguf.names import GLOBAL_ROLES, parse_name
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.strict import check_gguf
from quantmill.formats.hf.archs import ARCHS, BY_CLASS
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.save import arch_of_model, write_hf
from quantmill.formats.hf.tables.rows import metadata_key
from quantmill.formats.hf.tables.rules import Arch
from quantmill.formats.ir import Role
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import PlanOptions, make_plan
from quantmill.quantize.recipes import RECIPE_SETS

PROOFS = all_proofs()
LEVELS = tuple(RECIPE_SETS["current"])


def default_of(config_class: Any, name: str) -> Any:
    part, _, name = name.rpartition(".")
    owner = config_class.sub_configs[part] if part else config_class
    fields = {saved: field for field, saved in owner.attribute_map.items()}  # where it is saved under another name
    return getattr(owner, name, getattr(owner, fields.get(name, name), None))


@pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.name)
class TestEveryArch:
    def test_is_proven(self, arch: Arch) -> None:
        """By logits and by the converter; what the converter does not know, by logits alone."""
        proofs = [proof for proof in PROOFS if proof.arch == arch.name]
        by_logits = not arch.by_converter and any(not proof.other_logits for proof in proofs)
        by_converter = any(proof.id not in UNCONVERTED for proof in proofs)
        assert by_converter != (arch.name in UNKNOWN)
        assert by_converter or by_logits

    def test_classes_belong_to_it_alone(self, arch: Arch) -> None:
        assert all(BY_CLASS[name] is arch for name in arch.classes)
        assert [other.name for other in ARCHS].count(arch.name) == 1
        assert all(cls.text_of is None or cls.text_of in arch.classes for cls in arch.classes.values())

    def test_defaults_are_those_of_transformers(self, arch: Arch) -> None:
        for name, cls in arch.classes.items():
            if not hasattr(transformers, name) or cls.text_of:
                continue  # a class name of old, or of code that comes with checkpoints; or only a wrapper
            theirs = type(AutoConfig.for_model(cls.model_type))
            names = {ours: name for name, ours in cls.names.items()}
            default = {key: default_of(theirs, names.get(key, key)) for key in cls.defaults}
            if "rope_theta" in default:
                theta = getattr(theirs, "rope_theta", theirs.default_theta)
                default["rope_theta"] = theta["global"] if isinstance(theta, dict) else theta
            if "partial_rotary_factor" in default:
                rope = AutoConfig.for_model(cls.model_type).rope_parameters
                default["partial_rotary_factor"] = rope["partial_rotary_factor"]
            if "rope_parameters" in default:
                default["rope_parameters"] = AutoConfig.for_model(cls.model_type).rope_parameters
            assert default == dict(cls.defaults), name

    def test_keys_are_known_and_layers_are_where_they_belong(self, arch: Arch) -> None:
        for row in arch.config:
            gguf = getattr(row, "gguf", None)
            assert gguf is None or metadata_key("{arch}", gguf) in KEY_TYPES, gguf
        for rule in arch.rules:
            # The table of n-grams is a layer's in Qwen 4, and stands outside of the blocks.
            outside = rule.roles == (Role.PER_LAYER_TOKEN_EMBD,)
            assert all((rule.per_layer and not outside) == (role not in GLOBAL_ROLES) for role in rule.roles)
            layer = 11 if rule.per_layer and not outside else None
            for part in ("weight", "bias") if rule.bias else ("weight",):
                for role, name in zip(rule.roles, rule.targets(layer, part), strict=True):
                    assert parse_name(name) == (role, layer)


class Proven:
    """A proof's files, made once for all its tests."""

    def __init__(self, proof: Proof, folder: Path) -> None:
        self.proof, self.folder = proof, folder
        model = save_proof(proof, folder / "hf")
        self.expected = run_proof(proof, model)
        self.source = read_hf(folder / "hf")
        self.f32 = self.write("F32")

    def write(self, level: str) -> Path:
        path = self.folder / f"{level}.gguf"
        execute(make_plan(self.source, level), path, threads=1)
        return path


@pytest.fixture(scope="module", params=PROOFS, ids=lambda proof: proof.id)
def proven(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Proven:
    torch.set_num_threads(1)
    return Proven(request.param, tmp_path_factory.mktemp(request.param.id))


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def test_llama_cpp_computes_the_same(proven: Proven, peer: Peer) -> None:
    found = peer.run(proven.f32, proven.proof)
    difference = float(np.abs(found - proven.expected).max() / np.ptp(proven.expected))
    if proven.proof.other_logits:
        assert arch_of_model(proven.source)[0].by_converter
        assert np.isfinite(found).all()
    assert (difference < 2e-3) is not proven.proof.other_logits


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = AutoConfig.from_pretrained(folder).to_dict()
    return {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}


def test_the_way_back_is_the_identity(proven: Proven) -> None:
    back = proven.folder / "back"
    if reason := arch_of_model(proven.source)[0].one_way:
        with pytest.raises(FormatError, match=f"makes no checkpoint: {reason}"):
            write_hf(read_gguf(proven.f32), back)
        return
    write_hf(read_gguf(proven.f32), back)
    ours, theirs = load_file(back / "model.safetensors"), text_weights(proven.proof, proven.folder / "hf")
    if (further := proven.proof.further) and further.alone:
        theirs = {name: weight for name, weight in theirs.items() if not name.startswith(further.at)}
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert ours[name].dtype == weight.dtype, name
        assert ours[name].shape == weight.shape, name
        assert torch.equal(ours[name].reshape(-1).view(torch.uint8), weight.reshape(-1).view(torch.uint8)), name
    assert config_of(back) == config_of(proven.folder / "hf")
    model = getattr(transformers, proven.proof.model).from_pretrained(back)
    assert same_logits(proven.proof, model.eval(), proven.expected)


def test_strict_checks_find_nothing(proven: Proven) -> None:
    assert [str(error) for error in check_gguf(proven.f32)] == []


def test_every_level_is_planned(proven: Proven) -> None:
    importance = {t.name: np.ones(t.n_weights // t.shape[-2], np.float32) for t in proven.source if len(t.shape) > 1}
    for level in LEVELS:
        plan = make_plan(proven.source, level, PlanOptions(importance=importance, fallback_type="F16"))
        assert len(plan.steps) == len(proven.source.tensors)


def unlisted(proof: Proof, found: Mapping[str, tuple[object, object]]) -> dict[str, tuple[object, object]]:
    return {key: pair for key, pair in found.items() if not is_listed(proof.arch, key, *pair, proof.id)}


def test_the_file_is_that_of_llama_cpp_s_converter(proven: Proven) -> None:
    if proven.proof.id in UNCONVERTED:
        assert not golden_path(proven.proof.id).exists()
        return
    golden = json.loads(golden_path(proven.proof.id).read_text(encoding="utf-8"))
    folder = proven.folder / golden_path(proven.proof.id).stem
    folder.mkdir()
    for path in (proven.folder / "hf").iterdir():
        shutil.copyfile(path, folder / path.name)
    publish(proven.proof, folder)
    assert weights_digest(folder) == golden["weights"], f"other weights than with {golden['made with']}"
    source = read_hf(folder)
    files = [proven.folder / f"published-{level}.gguf" for level in ("F32", "F16")]
    for path, level in zip(files, ("F32", "F16"), strict=True):
        execute(make_plan(source, level), path, threads=1)
    assert unlisted(proven.proof, differences(summary(*files), golden)) == {}
    if "alone" in golden:
        alone = read_hf(folder, mtp="only")
        for path, level in zip(files, ("F32", "F16"), strict=True):
            execute(make_plan(alone, level), path, threads=1, force=True)
        assert unlisted(proven.proof, differences(summary(*files), golden["alone"])) == {}
    types = {level: [step.type for step in make_plan(source, level).steps] for level in ("auto", "F16")}
    assert types["auto"] == types["F16"]  # as there: F16 is the 16-bit type of a checkpoint in F32


def test_smollm2_s_file_is_that_of_llama_cpp_s_converter(smollm2_f16: Path) -> None:
    """A published model, whose vocabulary is in their table of pre-tokenizers by its hash."""
    golden = json.loads(golden_path(SMOLLM2).read_text(encoding="utf-8"))
    found = differences(summary(smollm2_f16, smollm2_f16), golden)
    assert {key: pair for key, pair in found.items() if not is_listed("llama", key, *pair)} == {}


def test_listed_differences_are_in_the_goldens() -> None:
    """What only we have is missing there; what only they have, or have otherwise, is there."""
    goldens = {
        proof.id: json.loads(golden_path(proof.id).read_text()) for proof in PROOFS if proof.id not in UNCONVERTED
    }
    assert {path.stem for path in GOLDENS.iterdir()} == {SMOLLM2, *(golden_path(name).stem for name in goldens)}
    for listed, there in ((MORE, False), (LESS, True), (OTHER, True)):
        for one in listed:
            assert {*one.archs} <= {arch.name for arch in ARCHS} | {proof.id for proof in PROOFS}
            of_each = [
                any(one.covers(proof.arch, key, proof.id) for key in keys_of(goldens[proof.id]))
                for proof in PROOFS
                if proof.id in goldens and (not one.archs or {proof.arch, proof.id} & {*one.archs})
            ]
            assert there in of_each, one
