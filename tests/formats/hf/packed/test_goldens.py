"""Layers packed by GPTQModel and compressed-tensors themselves, against their own decode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open

GOLDENS = Path(__file__).parent / "goldens"
ORACLES = {
    "gptq": ("gptqmodel 7.6.0", 8),
    "awq": ("gptqmodel 7.6.0", 1),
    "auto_round": ("auto-round 0.16.1", 15),
    "bitsandbytes": ("bitsandbytes 0.50.2", 10),
    "compressed": ("compressed-tensors 0.20.1", 25),
    "hqq": ("hqq 0.2.8.post1", 8),
    "modelopt": ("nvidia-modelopt 0.47.0", 13),
    "quanto": ("optimum-quanto 0.2.7", 9),
}


@pytest.mark.parametrize("name", ORACLES)
def test_as_the_library_decodes(name: str, decode: Any, floats: Any) -> None:
    with safe_open(GOLDENS / f"{name}.safetensors", "pt") as file:
        oracle, configs = file.metadata()["oracle"], json.loads(file.metadata()["configs"])
        assert (oracle, len(configs)) == ORACLES[name]
        for case, config in configs.items():
            names = [name for name in file.offset_keys() if name.startswith(f"{case}.")]
            parts = {name.removeprefix(f"{case}."): file.get_tensor(name) for name in names}
            wanted = parts.pop("decoded")
            found = decode({f"m.{part}": tensor for part, tensor in parts.items()}, config)
            assert list(found) == ["m.weight"], case
            ours = floats(found["m.weight"]).to(wanted.dtype)  # what decodes to bfloat16 was rounded last
            assert np.array_equal(ours.float().numpy(), wanted.float().numpy()), case


def golden(case: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with safe_open(GOLDENS / "compressed.safetensors", "pt") as file:
        config = json.loads(file.metadata()["configs"])[case]
        names = [name for name in file.offset_keys() if name.startswith(f"{case}.")]
        return config, {name.removeprefix(f"{case}."): file.get_tensor(name) for name in names}


EXACTLY = {
    "4-int-quantized": "F32",  # float32 scales that are no halves
    "15-int-quantized": "Q4_0",
    "21-nvfp4-pack-quantized": "NVFP4",
    "22-mxfp4-pack-quantized": "MXFP4",
    "23-mxfp6-pack-quantized": "F32",
    "24-mxfp8-quantized": "F32",
}


@pytest.mark.parametrize("case", EXACTLY)
def test_which_ggml_type_it_becomes(case: str, decode: Any) -> None:
    config, parts = golden(case)
    del parts["decoded"]
    if EXACTLY[case].startswith("Q"):
        parts["weight_scale"] = parts["weight_scale"].half()
    tensor = decode({f"m.{part}": value for part, value in parts.items()}, config)["m.weight"]
    assert tensor.qtype.name == EXACTLY[case]


def test_nvfp4_blocks_as_the_official_reader_decodes_them(decode: Any) -> None:
    """Times the factor beside them, they are the library's weights but for two roundings of float32."""
    config, parts = golden("21-nvfp4-pack-quantized")
    scales = parts["weight_scale"].float() / parts["weight_global_scale"]
    del parts["decoded"]
    tensor = decode({f"m.{part}": value for part, value in parts.items()}, config)["m.weight"]
    official = gguf.dequantize(tensor.rows(0, tensor.n_rows), gguf.GGMLQuantizationType.NVFP4)
    found = official * tensor.multipliers
    codes = torch.stack([parts["weight_packed"] & 15, parts["weight_packed"] >> 4], -1).reshape(found.shape).long()
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])[codes & 7] * (1 - 2 * (codes >> 3))
    wanted = values * scales.repeat_interleave(16, 1)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=2.5e-7, atol=0)


def test_negative_nvfp4_scales_move_their_sign_to_the_codes(decode: Any, floats: Any) -> None:
    config, parts = golden("21-nvfp4-pack-quantized")
    del parts["decoded"]
    plain = floats(decode({f"m.{part}": value for part, value in parts.items()}, config)["m.weight"])
    parts["weight_scale"] = (-parts["weight_scale"].float()).to(torch.float8_e4m3fn)
    found = floats(decode({f"m.{part}": value for part, value in parts.items()}, config)["m.weight"])
    assert torch.equal(found, -plain)


def test_rows_of_nvfp4_that_are_no_whole_blocks_are_decoded(decode: Any, floats: Any) -> None:
    config, parts = golden("21-nvfp4-pack-quantized")
    wanted = parts.pop("decoded")[:, :48]
    parts |= {"weight_packed": parts["weight_packed"][:, :24], "weight_scale": parts["weight_scale"][:, :3]}
    said: list[str] = []
    tensor = decode({f"m.{part}": value for part, value in parts.items()}, config, said)["m.weight"]
    assert torch.equal(floats(tensor).bfloat16(), wanted)
    assert said[-1].endswith("1 weights read decoded (rows of 48 are not whole blocks of 64)")
