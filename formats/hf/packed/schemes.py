"""The schemes of compressed-tensors as data, and the configuration of a checkpoint as its 0.20.1 writes it.

Sources: quantization/quant_scheme.py (the presets) and quant_args.py of compressed-tensors 0.20.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

from ...errors import QuantmillError

VERSION = "0.20.1"  # of compressed-tensors, whose configuration this is
Strategy = Literal["tensor", "channel", "group", "block", "tensor_group", "token"]
GROUP_SIZES = (32, 64, 128, -1)


@dataclass(frozen=True)
class Numbers:
    """How weights or activations are rounded.

    Args:
        num_bits: of a code.
        type: what a code is: a whole number or a float (E4M3 of 8 bits, E2M1 of 4).
        strategy: what shares a scale: a ``channel`` is a row of a weight, a ``token`` one of activations; of a
            ``tensor_group``, scales are themselves scaled by one float of the tensor.
        symmetric: whether there is no zero point.
        group_size: numbers in a group.
        block: rows and columns of a block.
        dynamic: of activations: whether scales are computed as the model runs; ``local``: all but the tensor's.
        actorder: ``static`` where GPTQ took the inputs in another order, which leaves no trace in the layout.
        scale_dtype: of the scales in torch, where it is not the weights' own.
        observer: what finds scales, where it is not the usual one.
    """

    num_bits: int
    type: Literal["int", "float"]
    strategy: Strategy
    symmetric: bool = True
    group_size: int | None = None
    block: tuple[int, int] | None = None
    dynamic: bool | Literal["local"] = False
    actorder: Literal["static"] | None = None
    scale_dtype: str | None = None
    observer: str | None = None

    def config(self) -> dict[str, Any]:
        """What stands in ``config_groups``."""
        given = {
            "block_structure": None if self.block is None else list(self.block), "actorder": self.actorder,
            "scale_dtype": self.scale_dtype, "observer": self.observer,
        }  # fmt: skip
        return {
            "num_bits": self.num_bits,
            "type": self.type,
            "symmetric": self.symmetric,
            "group_size": self.group_size,
            "strategy": self.strategy,
            "dynamic": self.dynamic,
            **{key: value for key, value in given.items() if value is not None},
        }


@dataclass(frozen=True)
class Scheme:
    """How linear layers are quantized and stored.

    Args:
        format: the layout's name.
        weights: how weights are rounded.
        inputs: how activations are; None leaves them as they are.
        presets: names that llm-compressor has for it.

    Example:
        >>> from quantmill.formats.hf.packed.schemes import SCHEMES
        >>> SCHEMES["fp8"].format, SCHEMES["fp8"].weights.strategy
        ('float-quantized', 'channel')
    """

    format: str
    weights: Numbers
    inputs: Numbers | None = None
    presets: str = ""


_FP8, _MX = "torch.float8_e4m3fn", "torch.uint8"
_TOKENS = {bits: Numbers(8, bits, "token", dynamic=True) for bits in ("int", "float")}
_NVFP4 = Numbers(4, "float", "tensor_group", group_size=16, scale_dtype=_FP8)
_MXFP4 = Numbers(4, "float", "group", group_size=32, scale_dtype=_MX)
_BLOCK = Numbers(8, "float", "block", block=(128, 128))
_BY_INPUT_GROUP = Numbers(8, "float", "group", group_size=128, dynamic=True)


def integer_scheme(bits: int, group_size: int = 128, *, symmetric: bool = True, reordered: bool = False) -> Scheme:
    """Whole numbers of a few bits in groups, with activations as they are: what GPTQ and AWQ make.

    Args:
        bits: 2 to 8.
        group_size: weights that share a scale; -1 for a row.
        symmetric: whether there is no zero point.
        reordered: whether weights were rounded in another order. Groups are of neighbours all the same:
            compressed-tensors 0.20 no longer reads others.
    """
    weights = Numbers(
        bits, "int", "channel" if group_size == -1 else "group", symmetric=symmetric,
        group_size=None if group_size == -1 else group_size, actorder="static" if reordered else None,
    )  # fmt: skip
    return Scheme("pack-quantized", weights)


SCHEMES: dict[str, Scheme] = {
    "fp8": Scheme("float-quantized", Numbers(8, "float", "channel"), _TOKENS["float"], "FP8_DYNAMIC"),
    "fp8-tensor": Scheme("float-quantized", Numbers(8, "float", "tensor"), _TOKENS["float"]),
    "fp8-block": Scheme("float-quantized", _BLOCK, _BY_INPUT_GROUP, "FP8_BLOCK"),
    "w8a8": Scheme("int-quantized", Numbers(8, "int", "channel"), _TOKENS["int"], "W8A8, INT8"),
    "w4a16": replace(integer_scheme(4), presets="W4A16"),
    "w4a16-asym": replace(integer_scheme(4, symmetric=False), presets="W4A16_ASYM"),
    "w8a16": replace(integer_scheme(8), presets="W8A16"),
    "nvfp4": Scheme(
        "nvfp4-pack-quantized", _NVFP4, replace(_NVFP4, dynamic="local", observer="static_minmax"), "NVFP4"
    ),
    "nvfp4a16": Scheme("nvfp4-pack-quantized", _NVFP4, None, "NVFP4A16"),
    "mxfp4": Scheme("mxfp4-pack-quantized", _MXFP4, replace(_MXFP4, dynamic=True), "MXFP4"),
    "mxfp4a16": Scheme("mxfp4-pack-quantized", _MXFP4, None, "MXFP4A16"),
}


def scheme(name: str, group_size: int | None = None) -> Scheme:
    """Look up a scheme by its name, in upper or lower case.

    Args:
        name: one of ``SCHEMES``.
        group_size: of whole numbers in groups, in place of 128; -1 for a row.

    Raises:
        QuantmillError: there is no such scheme, or its groups have a size that cannot be chosen.

    Example:
        >>> from quantmill.formats.hf.packed.schemes import scheme
        >>> scheme("w4a16", 32).weights.group_size
        32
    """
    key = name.lower().replace("_", "-")
    if key not in SCHEMES:
        near = get_close_matches(key, SCHEMES, 1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(SCHEMES)}"
        raise QuantmillError(f"there is no scheme {name!r}", hint=hint)
    found = SCHEMES[key]
    if group_size is None:
        return found
    if found.format != "pack-quantized":
        raise QuantmillError(f"the groups of {key} have a size of their own", hint="leave --group-size out")
    if group_size not in GROUP_SIZES:
        sizes = ", ".join(map(str, GROUP_SIZES))
        raise QuantmillError(f"groups of {group_size} weights are not supported", hint=f"one of {sizes} (-1: a row)")
    return integer_scheme(found.weights.num_bits, group_size, symmetric=found.weights.symmetric)


def quantization_config(scheme: Scheme, ignore: Sequence[str], observer: str | None = None) -> dict[str, Any]:
    """The ``quantization_config`` of config.json.

    Args:
        scheme: of every linear layer that is not ignored.
        ignore: names of modules that stay as they are, or ``re:`` and a regular expression that matches from the start
            of a name.
        observer: what found the weights' scales, where it is not the usual one.

    Example:
        >>> from quantmill.formats.hf.packed.schemes import SCHEMES, quantization_config
        >>> config = quantization_config(SCHEMES["w8a8"], ["lm_head"])
        >>> config["format"], config["config_groups"]["group_0"]["weights"]["strategy"]
        ('int-quantized', 'channel')
    """
    group = {
        "targets": ["Linear"],
        "weights": replace(scheme.weights, observer=observer).config(),
        "input_activations": None if scheme.inputs is None else scheme.inputs.config(),
        "output_activations": None,
        "format": scheme.format,
    }
    return {
        "version": VERSION,
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group},
        "format": scheme.format,
        "global_compression_ratio": None,
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "moe_sparsity_config": None,
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
    }
