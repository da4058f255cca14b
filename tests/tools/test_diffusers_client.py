"""Image models in the hands of diffusers: it loads our files, and computes with them what our own decode gives."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.diffusers_client import ARCHS, Diffusers
from oracles.make_diffusers_client import PINNED, is_made, make
from quantmill.formats.gguf.image_archs import DECODED
from quantmill.formats.gguf.reader import read_gguf

pytestmark = pytest.mark.slow
# One level for each type that diffusers decodes; mixes have two or three.
LEVELS = ("BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_S", "Q3_K_M", "Q2_K", "Q4_0", "Q5_1", "IQ4_NL", "IQ4_XS")
# Of these every level is tried, of the others those that the last test compares.
THOROUGH = ("flux", "sd3", "wan", "qwen_image", "z_image")
FEW = ("BF16", "Q8_0", "Q4_K_S", "Q2_K")
TYPES = {"BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "Q4_0", "Q4_1", "Q5_1", "IQ4_NL", "IQ4_XS"}
# Diffusers multiplies scales in half precision as it decodes, which moves every weight by up to 2^-11.
SHIPPED, ROUNDED = "Q4_K_S", 4e-3

Outputs = dict[tuple[str, str, str], np.ndarray]


def levels_of(arch: str) -> tuple[str, ...]:
    return LEVELS if arch in THOROUGH else FEW


def there() -> None:
    """Make the client on CI; a developer who has not is told how to."""
    if os.environ.get("CI"):
        make()
    elif not is_made():
        pytest.skip("diffusers is not there: python tests/oracles/make_diffusers_client.py")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """What the models compute: as saved, from each of our files (in floats and as diffusers does), from our decode."""
    from quantmill import convert

    there()
    root = tmp_path_factory.mktemp("image")
    client = Diffusers(root)
    made = client.run([{"make": arch, "folder": arch} for arch in ARCHS])
    found: Outputs = {(arch, "", "saved"): out for arch, out in zip(ARCHS, made, strict=True)}
    jobs: dict[tuple[str, str, str], dict[str, object]] = {}
    types: set[str] = set()
    for arch in ARCHS:
        for level in levels_of(arch):
            file, back = f"{arch}.{level}.gguf", f"{arch}.{level}"
            convert(root / arch, root / file, level)
            convert(root / file, root / back, "F32")
            types |= {tensor.qtype.name for tensor in read_gguf(root / file)}
            load = {"load": arch, "folder": arch, "halves": False}
            jobs[arch, level, "floats"] = {**load, "file": file}
            if level == SHIPPED:
                jobs[arch, level, "shipped"] = {**load, "file": file, "halves": True}
            jobs[arch, level, "decoded"] = {**load, "file": "", "folder": back}
    assert types >= TYPES
    return found | dict(zip(jobs, client.run(list(jobs.values())), strict=True))


@pytest.mark.parametrize("arch", ARCHS)
def test_outputs_are_those_of_our_decode(outputs: Outputs, arch: str, record_property: Callable[..., None]) -> None:
    for level in levels_of(arch):
        wanted = outputs[arch, level, "decoded"]
        np.testing.assert_allclose(outputs[arch, level, "floats"], wanted, atol=1e-4, rtol=0, err_msg=level)
    shipped = float(np.abs(outputs[arch, SHIPPED, "shipped"] - outputs[arch, SHIPPED, "decoded"]).max())
    assert shipped < ROUNDED
    record_property("counts", f"{arch} in {PINNED}, {SHIPPED}: {shipped:.1e} from our decode, by its half precision")


@pytest.mark.parametrize("arch", ARCHS)
def test_bf16_is_the_saved_model_itself(outputs: Outputs, arch: str) -> None:
    np.testing.assert_allclose(outputs[arch, "BF16", "floats"], outputs[arch, "", "saved"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("arch", ARCHS)
def test_more_bits_are_nearer(outputs: Outputs, arch: str) -> None:
    """A check of the comparison: quantized models are not the saved one, and the coarser the less."""
    far = {level: float(np.abs(outputs[arch, level, "floats"] - outputs[arch, "", "saved"]).mean()) for level in FEW}
    assert 0 < far["Q8_0"] < far["Q4_K_S"] < far["Q2_K"]


def test_a_folder_comes_back_as_it_was(tmp_path: Path, cli: Callable[..., Any]) -> None:
    import json

    from safetensors.torch import load_file

    there()
    client = Diffusers(tmp_path)
    client.run([{"make": arch, "folder": arch} for arch in ("sd3", "lumina2", "wan")])
    for arch in ("sd3", "lumina2", "wan"):
        out = tmp_path / f"{arch}.gguf"
        assert cli("convert", tmp_path / arch, out).code == 0
        assert cli("convert", out, tmp_path / f"{arch}-back").code == 0
        name = "diffusion_pytorch_model.safetensors"
        before, after = (load_file(folder / name) for folder in (tmp_path / arch, tmp_path / f"{arch}-back"))
        assert before.keys() == after.keys()
        for tensor in before:
            assert before[tensor].dtype == after[tensor].dtype
            assert bool((before[tensor] == after[tensor]).all()), tensor
        configs = [
            json.loads((folder / "config.json").read_text()) for folder in (tmp_path / arch, tmp_path / f"{arch}-back")
        ]
        assert configs[0] == configs[1]


def test_the_list_of_types_is_that_of_the_client(tmp_path: Path) -> None:
    there()
    assert set(Diffusers(tmp_path).decoded_types()) | {"F32", "F16"} == DECODED
