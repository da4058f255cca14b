"""The methods of quantization that are read, and how each stores its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import FormatError
from ...ir import Tensor
from ...json_types import shown
from ..files.safetensors import StoredTensor
from ..files.weights import Stored
from . import auto_round, awq, bitsandbytes, compressed, fp8, gptq, hqq, modelopt, mxfp4, quanto
from .described import KEYS, Config, Say, check_types, method_of
from .fp8_experts import is_of_all, spread_scales
from .integer_grid import IntegerGrid
from .stored import Module
from .targets import Layer


@dataclass(frozen=True)
class Method:
    """A quantization method, and how its layers are stored.

    Args:
        keys: names of parts; every packed layer has at least one of them.
        parts: names of all parts of a layer's weight.
        check: raises ``FormatError`` for a config that is not supported.
        read: reads a layer as an integer grid, or as a tensor; the reason may come with one that is decoded.
        extras: names of parts that do not belong to the weight and are ignored.
        joint: what stands between the module's name and the part's.
        bare: dtypes of a ``weight`` that is packed even if no other part is there, so that what is missing is told.
        prepare: puts parts that the checkpoint holds joined under names of their own.
        choose: finds the config of each packed layer, by its module's name, for methods that have schemes for layers.
    """

    keys: tuple[str, ...]
    parts: tuple[str, ...]
    check: Callable[[Config, Path], None]
    read: Callable[[Module, Config, Path], IntegerGrid | Tensor | tuple[Tensor, str]]
    extras: tuple[str, ...] = ()
    joint: str = "."
    bare: tuple[str, ...] = ()
    prepare: Callable[[Mapping[str, Stored]], dict[str, Stored]] = dict
    choose: Callable[[Config, Path, Sequence[Layer], Sequence[Layer], Say], Mapping[str, Config]] | None = None

    def split(self, name: str) -> tuple[str, str]:
        """The module and the part that a tensor's name is of, the longest that fits; an empty part if it is of none.

        A part of several words, such as ``weight.absmax``, has dots of its own.
        """
        fitting = [part for part in self.parts if name.endswith(self.joint + part)]
        part = max(fitting, key=len, default="")
        return name.removesuffix(self.joint + part) if part else "", part


def _check_fp8(config: Config, path: Path) -> None:
    check_types(config, {"weight_block_size": fp8.BLOCK}, path)


def _read_fp8(module: Module, config: Config, path: Path) -> Tensor:
    weight = module.parts.get("weight")
    if isinstance(weight, StoredTensor) and weight.dtype in ("I8", "U8"):  # DeepSeek V4's experts
        return mxfp4.read_pairs(module, fp8.scale_of(module))
    found = fp8.read_layer(module, fp8.block_size(config.get("weight_block_size")))
    return replace(found, name=module.name) if is_of_all(module.name) else found


def _read_mxfp8(module: Module, config: Config, path: Path) -> tuple[Tensor, str]:
    """Exponents of 32 columns, in bytes that transformers has no dtype for."""
    scale = module.parts.get(fp8.scale_of(module))
    in_bytes = isinstance(scale, StoredTensor) and scale.dtype == "U8"
    return fp8.read_layer(module, (1, 32), exponents=in_bytes), "GGUF has no MXFP8"


def _nothing_to_check(config: Config, path: Path) -> None:
    pass


def _read_mxfp4(module: Module, config: Config, path: Path) -> Tensor:
    return mxfp4.read_layer(module)


_FP8 = Method(
    fp8.SCALES,
    ("weight", *fp8.SCALES),
    _check_fp8,
    _read_fp8,
    ("activation_scale", "input_scale", "input_scale_ub", "qscale_act"),
    prepare=spread_scales,
)
METHODS: dict[str, Method] = {
    "gptq": Method(("qweight",), gptq.PARTS, gptq.check_config, gptq.read_layer),
    "awq": Method(("qweight",), awq.PARTS, awq.check_config, awq.read_layer),
    "auto-round": Method(("qweight",), auto_round.PARTS, auto_round.check_config, auto_round.read_layer),
    "fp8": _FP8,
    "fbgemm_fp8": _FP8,
    "mxfp8": replace(_FP8, read=_read_mxfp8),
    "compressed-tensors": Method(
        ("weight_packed", "weight_scale"),
        compressed.PARTS,
        compressed.check_config,
        compressed.read_layer,
        compressed.EXTRAS,
        choose=compressed.choose,
    ),
    "bitsandbytes": Method(
        bitsandbytes.KEYS,
        bitsandbytes.PARTS,
        bitsandbytes.check_config,
        bitsandbytes.read_layer,
        bare=bitsandbytes.BARE,
    ),
    "hqq": Method(("W_q",), hqq.PARTS, hqq.check_config, hqq.read_layer),
    "quanto": Method(quanto.KEYS, quanto.PARTS, quanto.check_config, quanto.read_layer, quanto.EXTRAS),
    "modelopt": Method(
        modelopt.KEYS,
        modelopt.PARTS,
        modelopt.check_config,
        modelopt.read_layer,
        modelopt.EXTRAS,
        bare=modelopt.BARE,
    ),
    "mxfp4": Method(
        ("blocks",),
        ("blocks", "scales"),
        _nothing_to_check,
        _read_mxfp4,
        joint="_",
    ),
}


# Methods that are known and not read, and what makes floats of their checkpoints.
_ORIGINAL = "convert the original checkpoint"
_DECODED = f"load it with transformers and {{}}, decode it with model.dequantize() and save that, or {_ORIGINAL}"
UNREAD = {
    "aqlm": f"codes of learnt codebooks; {_ORIGINAL}",
    "bitnet": "ternary weights; llama.cpp's own converter reads it",
    "eetq": f"int8 in the order of a CUDA kernel; {_ORIGINAL}",
    "fouroversix": f"NVFP4 scaled by either of two numbers; {_ORIGINAL}",
    "fp_quant": f"rotated MXFP4 or NVFP4; {_ORIGINAL}",
    "gguf": "convert the GGUF file itself",
    "higgs": _DECODED.format("flute-kernel"),
    "metal": _DECODED.format("kernels, on a Mac"),
    "quark": f"export it again as fp8, awq or gguf with AMD's quark, or {_ORIGINAL}",
    "sinq": f"load it with sinq and save the layers' dequantize(), or {_ORIGINAL}",
    "spqr": f"sparse outliers beside groups; {_ORIGINAL}",
    "torchao": f"load it with transformers and torchao and save each weight's dequantize(), or {_ORIGINAL}",
    "vptq": f"codes of learnt codebooks; {_ORIGINAL}",
}


def unknown(config: Config, path: Path) -> FormatError:
    """The error of a method that is not in the table."""
    hint = UNREAD.get(str(method_of(config)), f"{', '.join(METHODS)} are read; {_ORIGINAL}")
    problem = f"the weights are quantized by {shown(method_of(config))}"
    return FormatError(problem, path=path, where=KEYS[0] if path.name == "config.json" else "quant_method", hint=hint)
