"""What a checkpoint has beside its model: nothing that transformers reads is left out in silence, whatever its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from oracles.proofs import Proof, all_proofs, run_proof, same_logits, save_proof, text_weights
from quantmill.formats.hf.archs import ARCHS
from quantmill.formats.hf.load import read_hf
from quantmill.formats.hf.settle import extra_of
from quantmill.formats.hf.tables.dimensions import CLASS_HEAD
from quantmill.formats.hf.tables.extras import EVERYWHERE, Buffer, Copy, LeftOut
from quantmill.formats.hf.tables.rules import Arch
from quantmill.formats.hf.towers import BY_CLASS
from quantmill.formats.storage.output import human_bytes

PROOFS = all_proofs()
PROOF = {proof.arch: proof for proof in reversed(PROOFS)}
TABLE = [(arch, one) for arch in ARCHS for one in (*arch.extras, *EVERYWHERE) if not isinstance(one, Copy)]
Save = Callable[[str], Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """``saved("gpt2")``: the folder of an architecture's first proof, made once."""
    made: dict[str, Path] = {}

    def save(arch: str) -> Path:
        if arch not in made:
            made[arch] = tmp_path_factory.mktemp("hf") / arch
            made[arch].mkdir()
            save_proof(PROOF[arch], made[arch])
            if PROOF[arch].towers:
                own = text_weights(PROOF[arch], made[arch])
                save_file(own, made[arch] / "model.safetensors", metadata={"format": "pt"})
        return made[arch]

    return save


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config |= config.get("text_config", {})
    return {"num_hidden_layers": config.get("n_layer") or config.get("num_layers"), **config}


def is_of_a_tower(name: str, folder: Path) -> bool:
    outer = json.loads((folder / "config.json").read_text())
    known = BY_CLASS.get(outer["architectures"][0], ())
    return any(tower.has(name) and tower.at.partition(".")[0] in outer for tower in known)


def with_tensors(folder: Path, copy: Path, **tensors: torch.Tensor) -> Path:
    """A copy of a checkpoint with more tensors."""
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def read(folder: Path) -> list[str]:
    said: list[str] = []
    read_hf(folder, say=said.append)
    return said


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.id)
def test_no_entry_matches_what_transformers_reads(proof: Proof, tmp_path: Path) -> None:
    """Neither the names in its files nor those of its modules."""
    model = save_proof(proof, tmp_path)
    arch = next(arch for arch in ARCHS if arch.name == proof.arch)
    cls = next(cls for name, cls in arch.classes.items() if name.partition("/")[0] == proof.model)
    config = {**config_of(tmp_path), CLASS_HEAD: cls.head}
    names = {*load_file(tmp_path / "model.safetensors"), *model.state_dict()}
    beside = ("visual", "vision", "audio", "projector", "vit.", "mlp_AR") if proof.towers else ()
    left = {name for name in names if fnmatchcase(name, proof.unsaved)}  # known to have no place in llama.cpp
    own = {name for name in names - left if not any(part in name for part in beside)}
    assert {name: found for name in own if (found := extra_of(arch, config, name))} == {}
    assert own == {name for name in names if not extra_of(arch, config, name)}
    assert left <= names - own


@pytest.mark.parametrize(("arch", "extra"), TABLE, ids=lambda x: x.name if isinstance(x, Arch) else repr(x)[:40])
def test_nothing_is_left_out_in_silence(arch: Arch, extra: LeftOut | Buffer, saved: Save, tmp_path: Path) -> None:
    """Any weights under a name that the tables know are said. Of copies, see test_heads.py."""
    folder = saved(arch.name)
    layers = config_of(folder)["num_hidden_layers"]
    name = extra.pattern.replace("{beyond}", str(layers)).replace(".*", ".x.weight").replace("*", "x.")
    assert extra.matches(name, config_of(folder))
    said = read(with_tensors(folder, tmp_path, **{name: torch.full((320, 256), 0.25)}))
    if isinstance(extra, LeftOut):
        size = human_bytes(320 * 256 * 4)
        remedy = "; --mmproj writes them" if is_of_a_tower(name, folder) else ""
        expected = f"left out, as the text model is computed without it: {extra.what} (1 tensor, {size}){remedy}"
    else:
        expected = f"{name}: not the {extra.what} that config.json gives; ignored, as transformers does"
    usual = [line.replace(str(folder), str(tmp_path)) for line in read(folder)]  # what is said of the model without it
    assert [line for line in said if line not in usual] == [f"{tmp_path}: {expected}"]
    if arch.by_converter:
        assert f"{tmp_path}: proven by llama.cpp's own converter alone, not by logits: {arch.by_converter}" in said


def test_transformers_ignores_buffers(saved: Save, tmp_path: Path) -> None:
    """Whatever numbers they hold, so a line is enough."""
    for arch, prefix in (("gpt2", "transformer.h.0.attn."), ("gptneox", "gpt_neox.layers.0.attention.")):
        proof, folder = PROOF[arch], saved(arch)
        cls = getattr(transformers, proof.model)
        want = run_proof(proof, cls.from_pretrained(folder).eval())
        strange = {f"{prefix}bias": torch.zeros(1, 1, 128, 128), f"{prefix}masked_bias": torch.tensor(7.0)}
        strange[f"{prefix}rotary_emb.inv_freq"] = torch.ones(8)
        copy = with_tensors(folder, tmp_path / arch, **strange)
        assert same_logits(proof, cls.from_pretrained(copy).eval(), want)
        assert len(read(copy)) == 3


def _mask(dtype: torch.dtype, n: int = 128) -> torch.Tensor:
    return torch.tril(torch.ones(n, n)).view(1, 1, n, n).to(dtype)


def _frequencies(n: int, theta: float, dtype: torch.dtype) -> torch.Tensor:
    return (1.0 / theta ** (torch.arange(0, n, 2).float() / n)).to(dtype)


AGREE: dict[str, tuple[str, dict[str, torch.Tensor]]] = {
    "mask": ("gpt2", {"transformer.h.1.attn.bias": _mask(torch.float32)}),
    "mask of bools": ("gpt2", {"transformer.h.1.attn.bias": _mask(torch.bool)}),
    "mask of bytes": ("gptneox", {"gpt_neox.layers.0.attention.bias": _mask(torch.uint8)}),
    "masked value": ("gpt2", {"transformer.h.1.attn.masked_bias": torch.tensor(-1e4)}),
    "lower": ("gptneox", {"gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9)}),
    "positions": ("bert", {"embeddings.position_ids": torch.arange(128)[None]}),
}
DIFFER: dict[str, tuple[str, dict[str, torch.Tensor], str]] = {
    "another base": (
        "mixtral",
        {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": _frequencies(64, 1e6, torch.half) for i in range(3)},
        "model.layers.0.self_attn.rotary_emb.inv_freq and 2 more: not the rope frequencies that config.json gives",
    ),
    "another width": (
        "mixtral",
        {"model.layers.0.self_attn.rotary_emb.inv_freq": _frequencies(32, 1e4, torch.half)},
        "rotary_emb.inv_freq: not the rope frequencies",
    ),
    "a window": (
        "gpt2",
        {"transformer.h.1.attn.bias": _mask(torch.bool) ^ torch.tril(_mask(torch.bool), -64)},
        "transformer.h.1.attn.bias: not the causal mask",
    ),
    "shifted": ("bert", {"embeddings.position_ids": 2 + torch.arange(128)[None]}, "not the positions"),
}


@pytest.mark.parametrize("case", AGREE)
def test_buffers_that_agree_need_no_word(case: str, saved: Save, tmp_path: Path) -> None:
    arch, tensors = AGREE[case]
    assert read(with_tensors(saved(arch), tmp_path, **tensors)) == []


@pytest.mark.parametrize("arch", ["mixtral", "qwen2", "gptneox", "falcon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rope_frequencies_are_those_of_transformers(arch: str, dtype: torch.dtype, saved: Save, tmp_path: Path) -> None:
    """Also partial ones, and of classes that never saved them."""
    model = getattr(transformers, PROOF[arch].model).from_pretrained(saved(arch))
    buffers = (buffer for name, buffer in model.named_buffers() if name.endswith("rotary_emb.inv_freq"))
    name = f"{'gpt_neox' if arch == 'gptneox' else 'model'}.layers.0.self_attn.rotary_emb.inv_freq"
    assert read(with_tensors(saved(arch), tmp_path, **{name: next(buffers).to(dtype)})) == []


@pytest.mark.parametrize("case", DIFFER)
def test_buffers_that_differ_are_said(case: str, saved: Save, tmp_path: Path) -> None:
    arch, tensors, message = DIFFER[case]
    (line,) = read(with_tensors(saved(arch), tmp_path, **tensors))
    assert message in line


_TEXT = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 16, "pad_token_id": 0,
}  # fmt: skip
_VISION = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
_GEMMA = {"query_pre_attn_scalar": 16, "sliding_window": 16}
WRAPPERS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "Mistral3": (_TEXT | {"model_type": "mistral"}, _VISION | {"model_type": "pixtral", "head_dim": 16}, {}),
    "Gemma3": (
        _TEXT | _GEMMA | {"model_type": "gemma3_text"},
        _VISION | {"model_type": "siglip_vision_model"},
        {"mm_tokens_per_image": 4},
    ),
}


def save_wrapper(name: str, folder: Path, *, inner: bool, outer: bool) -> torch.nn.Module:
    cls = getattr(transformers, f"{name}ForConditionalGeneration")
    text, vision, more = WRAPPERS[name]
    torch.manual_seed(3)
    text = text | {"tie_word_embeddings": inner}
    config = cls.config_class(text_config=text, vision_config=vision, tie_word_embeddings=outer, **more)
    model: torch.nn.Module = cls(config)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("outer", [True, False])
def test_towers_are_counted_and_the_wrapper_ties(name: str, inner: bool, outer: bool, tmp_path: Path) -> None:
    save_wrapper(name, tmp_path, inner=inner, outer=outer)
    weights = load_file(tmp_path / "model.safetensors")
    said: list[str] = []
    model = read_hf(tmp_path, say=said.append)
    assert ("output.weight" in {tensor.name for tensor in model}) == (not outer)
    own = {name for name in weights if "language_model" in name or "lm_head" in name}
    tower = {name: weight.nbytes for name, weight in weights.items() if name not in own}
    joins = {name: nbytes for name, nbytes in tower.items() if "projector" in name}
    sizes = {name: nbytes for name, nbytes in tower.items() if name not in joins}
    projector = f"projector ({len(joins)} tensors, {human_bytes(sum(joins.values()))})"
    vision = f"vision tower ({len(sizes)} tensors, {human_bytes(sum(sizes.values()))})"
    assert tower
    left_out = f"left out, as the text model is computed without it: {projector}, {vision}; --mmproj writes them"
    assert f"{tmp_path}: {left_out}" in said
    differs = f"{tmp_path}: lm_head.weight differs from model.embed_tokens.weight: kept, although the config ties them"
    assert said[1:] == ([differs] if inner and not outer else [])
