"""Golden layers of AutoRound, bitsandbytes, HQQ, ModelOpt and Quanto: parts as these store them, and their decode.

PYTHON tests/oracles/make_packed_goldens_of_tools.py tests/formats/hf/packed/goldens

Run it with a Python that has torch 2.13.0, transformers 5.23.0 and some of auto-round 0.16.1, bitsandbytes 0.50.2,
hqq 0.2.8.post1, optimum-quanto 0.2.7 and nvidia-modelopt 0.47.0 (with requests); it writes the goldens of the libraries
that it finds, or of those that are named after the folder.
The files are laid out as those of ``make_packed_goldens.py``.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from make_packed_goldens import Case, write
from safetensors.torch import load_file

WIDTH, ROWS = 64, 32


def bitsandbytes_cases() -> Iterator[Case]:
    """4 bits by each type, block size, dtype, storage and nesting in turn; rows that end inside a block, decoded by the
    backend without a kernel (that of CPUs takes each row's blocks from the row's start); and int8."""
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
    from bitsandbytes.functional import (
        dequantize_4bit,
        dequantize_blockwise,
        get_4bit_type,
        int8_vectorwise_dequant,
        quantize_4bit,
    )
    from bitsandbytes.nn import Linear8bitLt

    settings = [
        ("nf4", 64, torch.bfloat16, torch.uint8, True, (ROWS, WIDTH)),
        ("nf4", 64, torch.float16, torch.uint8, False, (ROWS, WIDTH)),
        ("fp4", 64, torch.float32, torch.uint8, True, (ROWS, WIDTH)),
        ("fp4", 32, torch.bfloat16, torch.bfloat16, False, (ROWS, WIDTH)),
        ("nf4", 32, torch.float32, torch.float32, True, (260, WIDTH)),
        ("nf4", 256, torch.float16, torch.float16, False, (8, 512)),
        ("nf4", 64, torch.bfloat16, torch.uint8, True, (ROWS, 72)),
        ("fp4", 4096, torch.float32, torch.uint8, False, (9, 77)),
    ]
    for number, (kind, size, dtype, storage, nested, shape) in enumerate(settings):
        torch.manual_seed(number)
        weight = (torch.randn(shape) * 0.1).to(dtype)
        packed, state = quantize_4bit(weight, None, None, size, nested, kind, storage)
        decoded = dequantize_4bit(packed, state)
        if shape[1] % size:
            absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset if nested else state.absmax
            raw, levels = packed.view(torch.uint8).reshape(-1), get_4bit_type(kind, device="cpu")
            decoded = _dequantize_4bit_compute(raw, absmax, levels, size, shape, dtype)
        parts = {f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}
        config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
        name = f"{kind}-{size}-{storage}-{nested}-{shape[1]}"
        yield name, config, {"weight": packed, **parts, "decoded": decoded.float()}
    for step in (0.0137, 0.25):  # the latter's scales / 127 are halves
        torch.manual_seed(9)
        layer = Linear8bitLt(WIDTH, ROWS, bias=False, has_fp16_weights=False)
        codes = torch.randint(-127, 128, (ROWS, WIDTH)).index_fill_(1, torch.tensor([3]), 127)
        layer.weight.data.copy_(codes * step)
        layer = layer.to("cpu")  # quantizes
        parts = {k: torch.as_tensor(v) for k, v in layer.state_dict().items()}
        decoded = int8_vectorwise_dequant(parts["weight"], parts["SCB"])
        yield f"int8-{step}", {"quant_method": "bitsandbytes", "load_in_8bit": True}, {**parts, "decoded": decoded}


MODELOPT = (
    "FP8_DEFAULT_CFG", "FP8_PER_CHANNEL_PER_TOKEN_CFG", "FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG", "MXFP8_DEFAULT_CFG",
    "NVFP4_DEFAULT_CFG", "NVFP4_AWQ_LITE_CFG", "W4A16_NVFP4_CFG", "MXFP4_DEFAULT_CFG", "W4A8_MXFP4_FP8_CFG",
    "INT4_AWQ_CFG", "W4A8_AWQ_BETA_CFG", "INT8_WEIGHT_ONLY_CFG", "INT8_SMOOTHQUANT_CFG",
)  # fmt: skip


def modelopt_cases() -> Iterator[Case]:
    """A layer of each algorithm, as ``export_hf_checkpoint`` writes it: the first 16 of its 256 rows."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint
    from modelopt.torch.quantization import tensor_quant
    from transformers import LlamaConfig, LlamaForCausalLM

    # Its search of AWQ scales rounds activations in CUDA. Unrounded, it finds other scales; what it writes is its own.
    tensor_quant.dynamic_block_quantize_op = lambda inputs, *a, **k: inputs
    tokens = torch.arange(32)[None]
    for name in MODELOPT:
        torch.manual_seed(len(name))
        about = LlamaConfig(
            vocab_size=64, hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=128, initializer_range=0.1, architectures=["LlamaForCausalLM"],
        )  # fmt: skip
        model = LlamaForCausalLM(about).to(torch.bfloat16).eval()
        mtq.quantize(model, copy.deepcopy(getattr(mtq, name)), lambda model: model(tokens))
        with tempfile.TemporaryDirectory() as folder:
            export_hf_checkpoint(model, export_dir=folder)
            config = json.loads((Path(folder) / "config.json").read_text())["quantization_config"]
            stored = load_file(next(Path(folder).glob("*.safetensors")))
        at = "model.layers.0.self_attn.o_proj."
        parts = {key.removeprefix(at): part for key, part in stored.items() if key.startswith(at)}
        yield name, config, _first_rows(parts, config["quant_algo"].upper())


def _first_rows(parts: dict[str, torch.Tensor], algo: str) -> dict[str, torch.Tensor]:
    """The parts of a layer's first 16 rows (all 128 of blocks of 128), and their weights by the library's decode."""
    n = 128 if algo == "FP8_PB_WO" else 16
    kept = dict(parts)
    kept["weight"] = parts["weight"][: n // 2 if algo in _INT4 else n]
    if (scale := parts["weight_scale"]).dim():
        kept["weight_scale"] = scale[: 1 if algo == "FP8_PB_WO" else n]
    return {**kept, "decoded": decoded_by_modelopt(kept, algo)}


_INT4 = ("W4A16_AWQ", "W4A8_AWQ")


def decoded_by_modelopt(parts: dict[str, torch.Tensor], algo: str) -> torch.Tensor:
    """A layer's weight in float32 by the library's decode, times ``pre_quant_scale``, which it multiplies inputs by."""
    from modelopt.torch.quantization.qtensor import FP8QTensor, MXFP4QTensor, MXFP8QTensor, NVFP4QTensor

    weight, scale, f32 = parts["weight"], parts["weight_scale"], torch.float32
    pairs = 2 if weight.dtype == torch.uint8 and algo not in _INT4 else 1
    size = torch.Size((weight.shape[0] * (2 if algo in _INT4 else 1), weight.shape[1] * pairs))
    if algo in _INT4:  # decoded by its packing's inverse, which the library has for its own tensors only
        low = torch.stack([weight & 15, weight >> 4], 1).reshape(size).to(torch.int32)
        decoded = (low - 16 * (low > 7)) * scale.repeat_interleave(size[1] // scale.shape[1], 1)
    elif weight.dtype == torch.int8:
        decoded = weight.float() * scale[:, None]
    elif algo == "MXFP8":
        decoded = MXFP8QTensor(size, f32, weight).dequantize(f32, scale=scale)
    elif algo in ("MXFP4", "W4A8_MXFP4_FP8"):
        decoded = MXFP4QTensor(size, f32, weight).dequantize(f32, scale=scale, block_sizes={-1: 32})
    elif "NVFP4" in algo:
        quantized = NVFP4QTensor(size, f32, weight)
        decoded = quantized.dequantize(f32, scale=scale, double_scale=parts["weight_scale_2"], block_sizes={-1: 16})
    else:
        blocks = {"FP8_PB_WO": {-1: 128, -2: 128}}.get(algo)
        flat = scale.reshape(scale.shape[::2]) if blocks else scale.reshape(-1, 1) if scale.dim() else scale
        decoded = FP8QTensor(size, f32, weight).dequantize(f32, scale=flat, block_sizes=blocks)
    factors = parts.get("pre_quant_scale")
    return decoded.float() * (1 if factors is None else factors.float())


def auto_round_cases() -> Iterator[Case]:
    """Each number of bits in both of GPTQ's layouts, and AWQ's layout."""
    from auto_round.export.export_to_awq.utils import WQLinear_GEMM
    from auto_round_extension.torch import qlinear_torch, qlinear_torch_zp

    for layout, module in (("auto_round", qlinear_torch), ("auto_round:auto_gptq", qlinear_torch_zp)):
        for bits in range(2, 9):
            torch.manual_seed(bits)
            size, width = 32, 96 if bits % 2 else 64
            linear, n_groups = torch.nn.Linear(width, ROWS, bias=False), -(-width // size)
            scales = (torch.rand(ROWS, n_groups) * 0.01 + 0.01).half().float()
            zeros = torch.randint(1, 1 << bits, (ROWS, n_groups)).float()
            layer = module.QuantLinear(bits, size, width, ROWS, bias=False)
            layer.device = "cpu"
            layer.pack(linear, scales, zeros, device="cpu")
            parts = {name: getattr(layer, name).clone() for name in ("qweight", "qzeros", "scales")}
            layer.scales = layer.scales.float()
            config = {"quant_method": "auto-round", "bits": bits, "group_size": size, "packing_format": layout}
            yield f"{layout}-{bits}", config, {**parts, "decoded": layer(torch.eye(width)).T}
    torch.manual_seed(1)
    linear, scales = torch.nn.Linear(WIDTH, ROWS, bias=False), (torch.rand(ROWS, 2) * 0.01 + 0.01).half()
    zeros = torch.randint(0, 16, (ROWS, 2)).float()
    layer = WQLinear_GEMM.from_linear(linear, 4, 32, scales=scales.T.contiguous(), zeros=zeros.T.contiguous())
    parts = {name: getattr(layer, name).clone() for name in ("qweight", "qzeros", "scales")}
    codes = (linear.weight / scales.float().repeat_interleave(32, 1) + zeros.repeat_interleave(32, 1)).round()
    spread = scales.float().repeat_interleave(32, 1), zeros.repeat_interleave(32, 1)
    config = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "packing_format": "auto_round:auto_awq"}
    yield "awq", config, {**parts, "decoded": ((codes.clamp(0, 15) - spread[1]) * spread[0]).detach()}


def hqq_cases() -> Iterator[Case]:
    """Each packing, groups along rows and across them, and none; in each dtype."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    settings = [
        (8, 64, 1, torch.float16), (4, 64, 1, torch.bfloat16), (4, 16, 0, torch.float16), (3, 64, 0, torch.bfloat16),
        (3, 32, 1, torch.float32), (2, 16, 1, torch.float16), (1, 64, 0, torch.bfloat16), (4, None, 1, torch.float16),
    ]  # fmt: skip
    for bits, size, axis, dtype in settings:
        torch.manual_seed(bits)
        about = BaseQuantizeConfig(nbits=bits, group_size=size, axis=axis)
        layer = HQQLinear(torch.nn.Linear(WIDTH, ROWS, bias=False), about, compute_dtype=dtype, device="cpu")
        parts = {name: part for name, part in layer.state_dict().items() if part is not None}
        yield f"{bits}-{size}-{axis}", {"quant_method": "hqq"}, {**parts, "decoded": layer.dequantize()}


def quanto_cases() -> Iterator[Case]:
    """A row's scale in each of its kinds and of the model's dtypes."""
    from optimum.quanto import freeze, qfloat8_e4m3fn, qfloat8_e5m2, qint8, quantize

    for kind in (qint8, qfloat8_e4m3fn, qfloat8_e5m2):
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            torch.manual_seed(len(kind.name))
            model = torch.nn.Sequential(torch.nn.Linear(WIDTH, ROWS, bias=False)).to(dtype)
            quantize(model, weights=kind)
            freeze(model)
            parts = {name.removeprefix("0."): part for name, part in model.state_dict().items()}
            config = {"quant_method": "quanto", "modules": {"m": {"weights": kind.name, "activations": "none"}}}
            yield f"{kind.name}-{dtype}", config, {**parts, "decoded": model[0].weight.dequantize().detach()}


TOOLS = {
    "auto_round": ("auto-round", auto_round_cases),
    "bitsandbytes": ("bitsandbytes", bitsandbytes_cases),
    "hqq": ("hqq", hqq_cases),
    "modelopt": ("nvidia-modelopt", modelopt_cases),
    "quanto": ("optimum-quanto", quanto_cases),
}


def main(folder: Path) -> None:
    wanted = sys.argv[2:] or TOOLS
    for module in wanted:
        library, cases = TOOLS[module]
        if find_spec(f"optimum.{module}" if module == "quanto" else module):
            write(folder / f"{module}.safetensors", library, cases())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
