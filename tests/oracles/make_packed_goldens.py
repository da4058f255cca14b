"""Golden layers of GPTQModel, its AWQ and compressed-tensors: parts as these libraries store them, and their decode.

PYTHON tests/oracles/make_packed_goldens.py tests/formats/hf/packed/goldens

Run it with the Python of the client that ``make_gptq_client.py`` makes, and with one that has compressed-tensors
0.20.1; it writes the goldens of the library it finds. Names in a file: ``case.part`` and ``case.decoded``; metadata:
the library's version and each case's config.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Case = tuple[str, dict[str, Any], dict[str, torch.Tensor]]
WIDTH, ROWS = 64, 32


def gptq_cases() -> Iterator[Case]:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    for bits in (2, 3, 4, 8):
        for act_order in (False, True):
            torch.manual_seed(bits + 10 * act_order)
            linear = torch.nn.Linear(WIDTH, ROWS, bias=False)
            group = torch.arange(WIDTH) // 32
            if act_order:
                group = group[torch.randperm(WIDTH)]
            scales = torch.rand(ROWS, 2) * 0.01 + 0.01
            zeros = torch.randint(1, 1 << bits, (ROWS, 2)).float()
            layer = TorchLinear(
                bits=bits, group_size=32, sym=False, desc_act=act_order, in_features=WIDTH, out_features=ROWS,
                bias=False, pack_dtype=torch.int32, register_buffers=True,
            )  # fmt: skip
            layer.pack_original(linear, scales, zeros, group.to(torch.int32))
            parts = {n: getattr(layer, n).clone() for n in ("qweight", "qzeros", "scales", "g_idx")}
            layer.post_init()
            layer.scales = layer.scales.float()  # so that the product is not rounded to a half
            config = {"quant_method": "gptq", "bits": bits, "group_size": 32, "checkpoint_format": "gptq_v2"}
            yield f"gptq-{bits}-{act_order}", config, {**parts, "decoded": layer.dequantize_weight().T.float()}


def awq_cases() -> Iterator[Case]:
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    torch.manual_seed(1)
    linear = torch.nn.Linear(WIDTH, ROWS, bias=False)
    scales = torch.rand(ROWS, 2) * 0.01 + 0.01
    zeros = torch.randint(0, 16, (ROWS, 2)).float()
    layer = AwqTorchLinear(
        bits=4, group_size=32, sym=False, desc_act=False, in_features=WIDTH, out_features=ROWS, bias=False,
        register_buffers=True,
    )  # fmt: skip
    layer.pack(linear, scales, zeros)
    parts = {name: getattr(layer, name).clone() for name in ("qweight", "qzeros", "scales")}
    decoded = dequantize_gemm(parts["qweight"], parts["qzeros"], parts["scales"].float(), 4, 32).T
    yield "awq", {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, {**parts, "decoded": decoded}


def compressed_cases() -> Iterator[Case]:
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    mx: dict[str, Any] = {"type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
    nv: dict[str, Any] = {"type": "float", "strategy": "tensor_group", "group_size": 16}
    settings: list[tuple[str, dict[str, Any]]] = [
        ("pack-quantized", {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}),
        ("pack-quantized", {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}),
        ("pack-quantized", {"num_bits": 3, "type": "int", "symmetric": False, "strategy": "channel"}),
        ("pack-quantized", {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}),
        ("int-quantized", {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}),
        ("int-quantized", {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "channel"}),
        ("naive-quantized", {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor"}),
        ("float-quantized", {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}),
        ("float-quantized", {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}),
        ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [16, 32]}),
        ("pack-quantized", {"num_bits": 2, "type": "int", "symmetric": True, "strategy": "tensor"}),
        ("pack-quantized", {"num_bits": 5, "type": "int", "symmetric": False, "strategy": "tensor"}),
        ("pack-quantized", {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "group", "group_size": 16}),
        ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "actorder": "static"}),
        ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "block", "block_structure": [16, 32]}),
        ("int-quantized", {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "channel"}),
        ("int-quantized", {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}),
        ("int-quantized", {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "tensor"}),
        ("int-quantized", {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "block",
                           "block_structure": [24, 40]}),
        ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32}),
        ("naive-quantized", {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [24, 40]}),
        ("nvfp4-pack-quantized", {"num_bits": 4, **nv}),
        ("mxfp4-pack-quantized", {"num_bits": 4, **mx}),
        ("mxfp6-pack-quantized", {"num_bits": 6, **mx}),
        ("mxfp8-quantized", {"num_bits": 8, **mx}),
    ]  # fmt: skip
    for number, (layout, args) in enumerate(settings):
        torch.manual_seed(number)
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
        shape = _scale_shape(args)
        state = {"weight": torch.randn(ROWS, WIDTH) * 0.1, "weight_scale": torch.rand(shape) * 0.02 + 0.02}
        if not args.get("symmetric", True):
            top = 1 << (args["num_bits"] - 1)
            state["weight_zero_point"] = torch.randint(-top, top, shape, dtype=torch.int8)
        if layout.startswith("mx"):
            state["weight_scale"] = torch.randint(-9, -4, shape).float().exp2()
        if layout.startswith("nvfp4"):
            state["weight_global_scale"] = torch.tensor([717.3])
            state["weight_scale"] = (state["weight_scale"] * 717.3).to(torch.float8_e4m3fn).float()
        compressor = BaseCompressor.get_value_from_registry(layout)
        parts = compressor.compress(state, scheme)
        decoded = compressor.decompress(parts, scheme)["weight"]
        groups = {"group_0": {"weights": args, "targets": ["Linear"]}}
        config = {"quant_method": "compressed-tensors", "format": layout, "config_groups": groups}
        yield f"{number}-{layout}", config, {**parts, "decoded": decoded}


def _scale_shape(args: dict[str, Any]) -> tuple[int, ...]:
    if args["strategy"] == "block":
        high, wide = args["block_structure"]
        return -(-ROWS // high), -(-WIDTH // wide)
    if "group_size" in args:
        return ROWS, WIDTH // args["group_size"]
    return (1,) if args["strategy"] == "tensor" else (ROWS, 1)


def write(path: Path, library: str, cases: Iterator[Case]) -> None:
    tensors, configs = {}, {}
    for name, config, parts in cases:
        configs[name] = config
        tensors |= {f"{name}.{part}": tensor.contiguous() for part, tensor in parts.items()}
    metadata = {"oracle": f"{library} {version(library)}", "configs": json.dumps(configs)}
    save_file(tensors, path, metadata=metadata)


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if find_spec("gptqmodel"):
        write(folder / "gptq.safetensors", "gptqmodel", gptq_cases())
        write(folder / "awq.safetensors", "gptqmodel", awq_cases())
    if find_spec("compressed_tensors"):
        write(folder / "compressed.safetensors", "compressed-tensors", compressed_cases())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
