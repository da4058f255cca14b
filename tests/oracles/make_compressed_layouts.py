"""Golden layers of compressed-tensors' own compressors for known codes, and its configuration of each scheme.

PYTHON tests/oracles/make_compressed_layouts.py tests/formats/hf/packed/goldens

Run it with a Python that has compressed-tensors 0.20.1. ``layouts.safetensors`` holds ``case.codes`` (signed where the
codes are whole numbers, else the values they stand for), ``case.scale`` and what the compressor made of them:
``case.parts.X``. Its metadata hold the library's version and each scheme's ``quantization_config``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
from safetensors.torch import save_file

ROWS, WIDTH = 40, 128
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
OURS = {
    "fp8": "FP8_DYNAMIC", "fp8-block": "FP8_BLOCK", "w8a8": "W8A8", "w4a16": "W4A16", "w4a16-asym": "W4A16_ASYM",
    "w8a16": "W8A16", "nvfp4": "NVFP4", "nvfp4a16": "NVFP4A16", "mxfp4": "MXFP4", "mxfp4a16": "MXFP4A16",
}  # fmt: skip


def schemes() -> Iterator[tuple[str, QuantizationScheme]]:
    """Each of our schemes, by our names."""
    for name, preset in OURS.items():
        yield name, preset_name_to_scheme(preset, ["Linear"])
    tokens = QuantizationArgs(num_bits=8, type="float", strategy="token", symmetric=True, dynamic=True)
    weights = QuantizationArgs(num_bits=8, type="float", strategy="tensor", symmetric=True, dynamic=False)
    yield "fp8-tensor", QuantizationScheme(targets=["Linear"], weights=weights, input_activations=tokens)
    for bits in (2, 3, 4, 8):
        for size in (32, 64, -1):
            for symmetric in (True, False):
                groups: dict[str, Any] = {"strategy": "channel"}
                if size > 0:
                    groups = {"strategy": "group", "group_size": size}
                args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, **groups)
                name = f"int-{bits}-{size}-{'sym' if symmetric else 'asym'}"
                yield name, QuantizationScheme(targets=["Linear"], weights=args)
    args = QuantizationArgs(
        num_bits=4, type="int", symmetric=True, strategy="group", group_size=128, actorder="static"
    )  # fmt: skip
    yield "int-4-128-sym-static", QuantizationScheme(targets=["Linear"], weights=args)


def layer(scheme: QuantizationScheme) -> dict[str, torch.Tensor]:
    """Random codes, their scales, and what they stand for."""
    weights = scheme.weights
    assert weights is not None
    shape = {
        "tensor": (1,), "channel": (ROWS, 1), "block": (-(-ROWS // 128), WIDTH // 128),
    }.get(weights.strategy) or (ROWS, WIDTH // weights.group_size)  # fmt: skip
    power = torch.randint(-9, -3, shape).float().exp2()
    if weights.type == "int":
        half = 1 << (weights.num_bits - 1)
        codes = torch.randint(-half, half, (ROWS, WIDTH), dtype=torch.int8)
        values = codes.float()
    elif weights.num_bits == 8:
        values = (torch.randn(ROWS, WIDTH) * 100).clamp(-448, 448).to(torch.float8_e4m3fn).float()
        codes = values.to(torch.float8_e4m3fn)
    else:
        values = E2M1[torch.randint(0, 8, (ROWS, WIDTH))] * torch.randint(0, 2, (ROWS, WIDTH)).mul(2).sub(1)
        values = values + 0.0  # the compressor gives a minus zero no sign
        codes = values.to(torch.float8_e4m3fn)
    state = {"codes": codes, "scale": power}
    zeros = torch.zeros(shape)
    if not weights.symmetric:
        half = 1 << (weights.num_bits - 1)
        state["zeros"] = torch.randint(-half, half, shape, dtype=torch.int8)
        zeros = state["zeros"].float()
    spread = [power, zeros]
    if weights.strategy == "block":
        spread = [t.repeat_interleave(128, 0)[:ROWS].repeat_interleave(128, 1) for t in spread]
    elif weights.strategy in ("group", "tensor_group"):
        spread = [t.repeat_interleave(weights.group_size, 1) for t in spread]
    state["weight"] = (values - spread[1]) * spread[0]
    return state


def main(folder: Path) -> None:
    tensors, configs = {}, {}
    for number, (name, scheme) in enumerate(schemes()):
        torch.manual_seed(number)
        scheme.format = infer_module_format(torch.nn.Linear, scheme)
        config = QuantizationConfig(
            config_groups={"group_0": scheme}, quantization_status="compressed", format=scheme.format,
            ignore=["lm_head"],
        )  # fmt: skip
        configs[name] = config.model_dump(mode="json")
        made = layer(scheme)
        state = {"weight": made.pop("weight"), "weight_scale": made["scale"]}
        if "zeros" in made:
            state["weight_zero_point"] = made["zeros"]
        if scheme.weights.strategy == "tensor_group":
            made["global"] = state["weight_global_scale"] = torch.tensor([2.0])
            state["weight_scale"] = made["scale"] = made["scale"] * 2
        parts = BaseCompressor.get_value_from_registry(scheme.format.value).compress(state, scheme)
        tensors |= {f"{name}.{key}": tensor for key, tensor in made.items()}
        tensors |= {f"{name}.parts.{key}": tensor.contiguous().clone() for key, tensor in parts.items()}
    metadata = {"oracle": f"compressed-tensors {version('compressed-tensors')}", "configs": json.dumps(configs)}
    save_file(tensors, folder / "layouts.safetensors", metadata=metadata)
    (folder / "layouts.safetensors").chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
