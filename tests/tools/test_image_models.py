"""The commands on image models: what they say, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from oracles.image_models import flux, save, wan

BENCH = Path(__file__).parents[1] / "bench" / "image.py"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "flux1-tiny.safetensors", flux())


def test_every_command_that_takes_a_model(model: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    out = tmp_path / "flux1-tiny-Q4_K_S.gguf"
    done = cli("convert", model, out, "--outtype", "Q4_K_S")
    assert done.code == 0, done
    assert cli("verify", out, "--strict").out == f"{out}: 84 tensors, all well\n"
    done = cli("verify", out, "--against", model, "--max-rmse", "0.1")
    assert done.code == 0, done
    assert "Q4_K  26 tensors" in cli("inspect", out).out
    assert "double_blocks\\.0\\.img_attn\\.qkv\\.weight$=Q4_K" in cli("inspect", out, "--recipe").out
    assert cli("hash", out).code == 0
    assert "no difference" in cli("diff", out, out).out
    assert json.loads(cli("plan", model, "Q4_K_S", "--json").out)["levels"][0]["bytes"] == out.stat().st_size
    small = tmp_path / "small.gguf"
    assert cli("quantize", model.with_name("flux.gguf"), "Q8_0").code == 2
    assert cli("convert", model, model.with_name("flux.gguf")).code == 0
    done = cli("quantize", model.with_name("flux.gguf"), small, "--target-bpw", 6, "--typical-sensitivity")
    assert done.code == 0, done
    assert "bpw" in done.out
    types = {row["type"] for row in json.loads(cli("inspect", small, "--json").out)["tensors"]}
    assert types <= {"F32", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "Q2_K"}


def test_quantizing_the_float_file_gives_the_same_bytes(model: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    assert cli("convert", model, tmp_path / "bf16.gguf").code == 0
    assert cli("quantize", tmp_path / "bf16.gguf", tmp_path / "two.gguf", "Q3_K_M").code == 0
    assert cli("convert", model, tmp_path / "one.gguf", "--outtype", "Q3_K_M").code == 0
    done = cli("diff", tmp_path / "one.gguf", tmp_path / "two.gguf")
    assert done.code == 0, done


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["imatrix", "-m", "MODEL", "-f", "TEXT"], "makes images, and runs no text"),
        (["evaluate", "MODEL", "-f", "TEXT"], "makes images, and runs no text"),
        (["convert", "MODEL", "out.bin"], "GGML files hold text models"),
        (["convert", "MODEL", "out.gguf", "--outtype", "IQ2_XS"], "unknown level 'IQ2_XS' in recipe set comfyui-gguf"),
        (["convert", "MODEL", "out.gguf", "--outtype", "Q8_0", "--recipe-set", "2023-12"], "are for text models"),
        (["convert", "MODEL", "out.gguf", "--pre", "llama3"], "is for Hugging Face folders"),
        (["convert", "MODEL", "out.safetensors", "--outtype", "Q8_0"], "a checkpoint cannot hold Q8_0"),
        (["plan", "MODEL", "--format", "gptq"], "is for text models"),
        (["quantize", "MODEL", "out.gguf", "Q8_0"], "not GGUF but safetensors"),
    ],
)
def test_what_is_for_text_models_is_refused(
    arguments: list[str], line: str, model: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("one two three")
    words = [{"MODEL": model, "TEXT": "text.txt"}.get(word, word) for word in arguments]
    assert line in refused(*words)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"], "is a LoRA, not a diffusion model"),
        (["decoder.conv_in.weight"], "is a VAE, not a diffusion model"),
        (["text_model.encoder.layers.0.self_attn.q_proj.weight"], "is a CLIP text encoder, not a diffusion model"),
        (["some.other.weight"], "is no diffusion model that is known: its tensors are some.other.weight (looked for"),
    ],
)
def test_other_files_are_named(names: list[str], line: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(2, 2) for name in names}, path)
    assert line in refused("convert", path, tmp_path / "out.gguf", "--outtype", "Q4_K_S")


def test_names_of_the_file_are_shown_harmless(tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"\x1b[2J\n.weight": torch.zeros(2, 2)}, path)
    assert "\\x1b[2J\\n.weight" in refused("convert", path, tmp_path / "out.gguf")


def test_a_video_model_has_the_planned_size(tmp_path: Path, cli: Callable[..., Any]) -> None:
    path = save(tmp_path / "wan.safetensors", wan(blocks=1))
    table = json.loads(cli("plan", path, "--json").out)
    assert table["recipe_set"] == "comfyui-gguf"
    for row in table["levels"][::4]:
        out = tmp_path / f"{row['level']}.gguf"
        assert cli("convert", path, out, "--outtype", row["level"]).code == 0
        assert out.stat().st_size == row["bytes"], row["level"]


def test_a_release_says_how_to_use_it(model: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    folder = tmp_path / "release"
    done = cli("release", model, folder, "--levels", "Q4_K_S")
    assert done.code == 0, done
    assert "no importance is collected: no text runs through a model that makes images" in done.err
    file = folder / "flux1-tiny.Q4_K_S.gguf"
    assert {path.name for path in folder.iterdir()} == {file.name, "README.md", "SHA256SUMS", "manifest.json"}
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: text-to-image" in card
    assert "for ComfyUI with ComfyUI-GGUF, and for diffusers." in card
    assert f'FluxTransformer2DModel.from_single_file(\n    "{file.name}",' in card
    assert "llama" not in card
    assert json.loads((folder / "manifest.json").read_text())["options"]["recipe_set"] == "comfyui-gguf"
    again = cli("reproduce", folder / "manifest.json", "--model", model)
    assert again.code == 0, again


@pytest.mark.parametrize("option", ["--evaluate", "--refine"])
def test_a_release_measures_no_text(option: str, model: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    line = refused("release", model, tmp_path / "release", option)
    assert f"{option}: has no effect: no text runs through a model that makes images" in line


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model() -> None:
    """1.1 billion weights, 2.2 GB, at the width of the published model."""
    words = [sys.executable, str(BENCH), "--double", "2", "--single", "3", "--zeros", "--json"]
    row = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert row["weights"] > 1.1e9
    print(f"peak resident memory {row['peak_mb']:.0f} MB")
    assert row["peak_mb"] < 500
