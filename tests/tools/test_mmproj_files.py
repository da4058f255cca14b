"""Files of towers are files as others: each command knows them, and --strict finds what llama.cpp would refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.llama import LlamaError
from oracles.mtmd import Mtmd
from oracles.tower_proofs import all_tower_proofs, save_tower_proof, vocabulary_for_towers
from quantmill import MmprojOptions, convert
from quantmill.formats.gguf.known import PROJECTORS
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.hf.towers import TOWERS
from quantmill.formats.ir import Value, ValueType

Cli = Callable[..., Any]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def mmproj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma3")
    save_tower_proof(next(proof for proof in all_tower_proofs() if proof.id == "gemma3"), folder / "hf")
    convert(folder / "hf", folder / "m.gguf", mmproj=MmprojOptions(only=True))
    return folder / "m.gguf"


def text(value: str) -> Value:
    return Value(ValueType.STRING, value)


def number(value: int) -> Value:
    return Value(ValueType.UINT32, value)


def flag(value: bool) -> Value:
    return Value(ValueType.BOOL, value)


def floats(*values: float) -> Value:
    return Value(ValueType.ARRAY, np.array(values, np.float32), ValueType.FLOAT32)


def without(mmproj: Path, made: Path, changes: dict[str, Value | None], lost: str = "\0") -> Path:
    """A copy with other values of keys, without those that are None, and without tensors of a beginning."""
    model = read_gguf(mmproj)
    metadata = {key: value for key, value in ({**model.metadata} | changes).items() if value is not None}
    write_gguf(made, replace(model, metadata=metadata, tensors=tuple(t for t in model if not t.name.startswith(lost))))
    return made


def test_sound(cli: Cli, mmproj: Path) -> None:
    done = cli("verify", mmproj, "--strict")
    assert (done.code, done.err) == (0, "")


def test_projectors_are_known() -> None:
    assert {tower.projector for tower in TOWERS} <= PROJECTORS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clip.projector_type": None}, "'clip.projector_type': is missing, and so is clip.vision.projector_type"),
        ({"clip.projector_type": text("gema3")}, "llama.cpp knows no projector 'gema3'; did you mean gemma3"),
        ({"clip.has_vision_encoder": None}, "'clip.has_vision_encoder': neither it nor clip.has_audio_encoder is true"),
        ({"clip.vision.embedding_length": None}, "'clip.vision.embedding_length': is missing; llama.cpp refuses"),
        ({"clip.vision.image_size": None}, "'clip.vision.image_size': is missing; llama.cpp refuses"),
        ({"clip.vision.image_mean": floats(0.5, 0.5)}, "image_mean': has 2 numbers, not one for each of 3 colours"),
        ({"clip.vision.image_std": None}, "'clip.vision.image_std': is missing; llama.cpp refuses"),
        ({"clip.use_silu": flag(True)}, "'clip.use_gelu': is true, and so is clip.use_silu; llama.cpp refuses"),
        ({"clip.vision.block_count": number(5)}, "block_count': is 5; there is no v.blk.4; llama.cpp refuses"),
        ({"clip.has_audio_encoder": flag(True)}, "'clip.audio.num_mel_bins': is missing; llama.cpp refuses"),
    ],
)
def test_what_llama_cpp_refuses(
    cli: Cli, mmproj: Path, tmp_path: Path, changes: dict[str, Value | None], words: str
) -> None:
    made = without(mmproj, tmp_path / "x.gguf", changes)
    done = cli("verify", made, "--strict")
    assert done.code != 0
    assert words in done.err
    with Mtmd(vocabulary_for_towers(tmp_path / "bytes.gguf")) as peer, pytest.raises(LlamaError):
        peer.open(made)


@pytest.mark.parametrize(
    ("changes", "lost", "words"),
    [
        ({}, "v.blk.2.", "'clip.vision.block_count': is 4; there is no v.blk.2"),
        ({"clip.vision.block_count": number(3)}, "\0", "'clip.vision.block_count': is 3; there is a v.blk.3"),
        (
            {"clip.has_vision_encoder": flag(False), "clip.has_gen_audio_encoder": flag(True)},
            "\0",
            "'clip.has_vision_encoder': is not true, and there is v.patch_embd.bias: llama.cpp does not read it",
        ),
    ],
)
def test_tensors_and_keys_that_contradict_each_other(
    cli: Cli, mmproj: Path, tmp_path: Path, changes: dict[str, Value | None], lost: str, words: str
) -> None:
    done = cli("verify", without(mmproj, tmp_path / "x.gguf", changes, lost), "--strict")
    assert done.code != 0
    assert words in done.err


@pytest.mark.parametrize(("name", "loads"), [("mm.soft_emb_norm.weight", False), ("v.blk.3.ln1.weight", True)])
def test_a_tensor_that_is_missing(cli: Cli, mmproj: Path, tmp_path: Path, name: str, loads: bool) -> None:
    """Without some, llama.cpp loads the file and computes another model."""
    made = without(mmproj, tmp_path / "x.gguf", {}, name)
    done = cli("verify", made, "--strict")
    assert done.code != 0
    assert f"tensor '{name}': is missing; llama.cpp refuses the file, or computes without it" in done.err
    with Mtmd(vocabulary_for_towers(tmp_path / "bytes.gguf")) as peer:
        if loads:
            peer.open(made)
        else:
            with pytest.raises(LlamaError):
                peer.open(made)


def test_inspect_and_plan(cli: Cli, mmproj: Path) -> None:
    shown = json.loads(cli("inspect", mmproj, "--json").out)
    assert shown["metadata"]["clip.projector_type"]["value"] == "gemma3"
    assert "clip.vision.image_mean" in cli("inspect", mmproj).out
    (planned,) = json.loads(cli("plan", mmproj, "Q4_K_M", "--json").out)["levels"]
    assert planned["types"] == {"F32": 47, "Q5_0": 18, "Q8_0": 6}


def test_diff_and_hash(cli: Cli, mmproj: Path, tmp_path: Path) -> None:
    other = tmp_path / "q.gguf"
    assert cli("quantize", mmproj, other, "Q8_0").code == 0
    assert cli("diff", mmproj, mmproj).code == 0
    done = cli("diff", mmproj, other)
    assert done.code == 1
    assert "v.blk.0.attn_q.weight" in done.out
    digests = {json.loads(cli("hash", path, "--json").out)["model"] for path in (mmproj, other)}
    assert len(digests) == 2


def test_split_and_merge(cli: Cli, mmproj: Path, tmp_path: Path) -> None:
    assert cli("split", mmproj, tmp_path / "s", "--max-tensors", 30).code == 0
    first = tmp_path / "s-00001-of-00003.gguf"
    assert cli("verify", first, "--strict").code == 0
    assert cli("merge", first, tmp_path / "whole.gguf").code == 0
    assert cli("diff", mmproj, tmp_path / "whole.gguf").code == 0


def test_set_metadata(cli: Cli, refused: Refused, mmproj: Path, tmp_path: Path) -> None:
    made = without(mmproj, tmp_path / "x.gguf", {})
    assert cli("gguf-set-metadata", made, "clip.vision.image_size", "128").code == 0
    assert read_gguf(made).get("clip.vision.image_size") == 128
    assert "knows no projector 'gemma9'" in refused("gguf-set-metadata", made, "clip.projector_type", "gemma9")
    assert "has 2 numbers" in refused("gguf-set-metadata", made, "clip.vision.image_mean", "[0.5, 0.5]")


def test_the_way_back_names_the_nearest_projector(refused: Refused, mmproj: Path, tmp_path: Path) -> None:
    changes = {"clip.projector_type": text("gema3"), "quantmill.hf.class": None}
    made = without(mmproj, tmp_path / "x.gguf", changes)
    convert(mmproj.parent / "hf", tmp_path / "text.gguf", "F32")
    said = refused("convert", tmp_path / "text.gguf", tmp_path / "back", "--mmproj", made)
    assert "clip.projector_type: unknown projector 'gema3'" in said
    assert "did you mean gemma3?" in said
