"""``convert`` with the towers of a model that sees: written beside the text or alone, read for the way back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from oracles.tower_proofs import all_tower_proofs, save_tower_proof
from quantmill.formats.gguf.edit import set_metadata
from quantmill.formats.gguf.keys import typed
from quantmill.formats.gguf.reader import read_gguf

Cli = Callable[..., Any]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma3") / "tiny-gemma3"
    save_tower_proof(next(proof for proof in all_tower_proofs() if proof.id == "gemma3"), folder)
    return folder


@pytest.fixture
def convert(cli: Cli) -> Callable[..., str]:
    """What a conversion says, on either stream."""

    def run(*words: object) -> str:
        found = cli("convert", *words)
        assert found.code == 0, found
        return str(found.out + found.err)

    return run


def test_there_and_back(convert: Callable[..., str], checkpoint: Path, tmp_path: Path) -> None:
    text, beside = tmp_path / "text.gguf", tmp_path / "mmproj-tiny-gemma3-F32.gguf"
    said = convert(checkpoint, text, "--outtype", "f32", "--mmproj", "--mmproj-outtype", "f32")
    assert f"{beside}: the towers, " in said
    assert read_gguf(beside).get("general.type") == "mmproj"
    convert(text, tmp_path / "back", "--mmproj", beside)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "back", checkpoint))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == weight).all() for name, weight in theirs.items())
    convert(checkpoint, tmp_path / "only.gguf", "--mmproj-only", "--mmproj-outtype", "f32")
    assert (tmp_path / "only.gguf").read_bytes() == beside.read_bytes()


def test_the_text_alone_says_what_writes_the_rest(
    convert: Callable[..., str], checkpoint: Path, tmp_path: Path
) -> None:
    said = convert(checkpoint, tmp_path / "text.gguf")
    assert "left out, as the text model is computed without it: " in said
    assert "; --mmproj writes them" in said


def test_a_part_that_no_option_writes_is_said_without_one(convert: Callable[..., str], tmp_path: Path) -> None:
    """Janus draws, too; what draws is in no file."""
    folder = tmp_path / "janus"
    save_tower_proof(next(proof for proof in all_tower_proofs() if proof.id == "janus_pro"), folder)
    said = convert(folder, tmp_path / "text.gguf")
    line = next(line for line in said.splitlines() if "left out" in line)
    assert " images (160 tensors" in line
    assert line.endswith("; --mmproj writes the projector and the vision tower")


def test_json_names_the_file(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    done = cli("convert", checkpoint, tmp_path / "text.gguf", "--mmproj", tmp_path / "m.gguf", "--json", "--quiet")
    assert json.loads(done.out)["mmproj"] == str(tmp_path / "m.gguf")
    assert read_gguf(tmp_path / "m.gguf").get("clip.projector_type") == "gemma3"


def test_a_file_that_exists_is_found_before_any_work(refused: Refused, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mmproj-tiny-gemma3-F16.gguf").write_bytes(b"mine")
    said = refused("convert", checkpoint, tmp_path / "text.gguf", "--mmproj")
    assert said.endswith("mmproj-tiny-gemma3-F16.gguf: exists (--force replaces it)")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("{text} {out}/hf --mmproj", "--mmproj: needs the file to read (--mmproj mmproj-model-F16.gguf)"),
        ("{text} {out}/x.gguf --mmproj", "--mmproj: has no effect here"),
        ("{text} {out}/x.gguf --mmproj-only", "--mmproj-only: "),
        ("{hf} {out}/x.gguf --mmproj-outtype q8_0", "--mmproj-outtype: is for --mmproj (give both, or leave it out)"),
        ("{hf} {out}/x.gguf --mmproj --image-mean 0.5,0.5", "preprocessor_config.image_mean: has 2 numbers, not 3"),
        ("{text} {out}/hf --mmproj {text}", "text.gguf: general.architecture: is no mmproj file"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    convert: Callable[..., str], refused: Refused, checkpoint: Path, tmp_path: Path, words: str, expected: str
) -> None:
    text = tmp_path / "text.gguf"
    convert(checkpoint, text, "--quiet")
    assert expected in refused("convert", *words.format(text=text, out=tmp_path, hf=checkpoint).split())


def test_a_checkpoint_without_processor_files(
    convert: Callable[..., str], refused: Refused, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(checkpoint, folder)
    (folder / "preprocessor_config.json").unlink()
    said = refused("convert", folder, tmp_path / "x.gguf", "--mmproj-only")
    assert "bare/preprocessor_config.json: no image_mean, nor in processor_config.json" in said
    assert "(download it, or give --image-mean)" in said
    given = ("--image-mean", "0.5,0.5,0.5", "--image-std", "0.25,0.5,0.5")
    convert(folder, tmp_path / "x.gguf", "--mmproj-only", *given)
    std: Any = read_gguf(tmp_path / "x.gguf").get("clip.vision.image_std")
    assert std.tolist() == [0.25, 0.5, 0.5]


def test_a_checkpoint_of_text_alone(refused: Refused, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "text"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config["text_config"], "architectures": ["Gemma3ForCausalLM"]}))
    said = refused("convert", folder, tmp_path / "x.gguf", "--mmproj")
    assert "config.json: architectures: Gemma3ForCausalLM has no tower that is known" in said


def test_towers_of_another_model(
    convert: Callable[..., str], refused: Refused, checkpoint: Path, tmp_path: Path
) -> None:
    convert(checkpoint, tmp_path / "text.gguf", "--mmproj", tmp_path / "m.gguf")
    set_metadata(tmp_path / "m.gguf", {"clip.vision.projection_dim": typed("clip.vision.projection_dim", 128)})
    said = refused("convert", tmp_path / "text.gguf", tmp_path / "back", "--mmproj", tmp_path / "m.gguf")
    assert "m.gguf: its embeddings are 128 wide, those of text.gguf 64 (is it the mmproj file of this model?)" in said


@pytest.mark.parametrize("level", ["Q8_0", "Q4_K_M"])
def test_quantizing_says_what_it_keeps(
    cli: Cli, convert: Callable[..., str], checkpoint: Path, tmp_path: Path, level: str
) -> None:
    """Of Gemma 3's projection in blocks, llama.cpp makes NaN."""
    source, made = tmp_path / "m.gguf", tmp_path / "q.gguf"
    convert(checkpoint, source, "--mmproj-only")
    done = cli("quantize", source, made, level)
    said = (
        f"mm.input_projection.weight (F32): no {level}, but as it is: "
        "llama.cpp turns it while it computes, which blocks do not survive: its results are NaN"
    )
    assert done.code == 0
    assert said in done.out + done.err
    planned = cli("plan", source, level)
    assert said in planned.out + planned.err
    types = {tensor.name: tensor.qtype.name for tensor in read_gguf(made)}
    assert types["mm.input_projection.weight"] == "F32"
    assert types["v.blk.0.attn_q.weight"] in ("Q8_0", "Q5_0")
