"""AutoRound: integers in GPTQ's layout or AWQ's, with bits of its own for some layers.

``packing_format`` says which: ``auto_round:auto_gptq`` stores zeros less one, as GPTQ's first layout; ``auto_round``
and ``auto_round:gptqmodel`` store them as they are; of these only the last has ``g_idx``, the others take columns in
order. Bits follow from the shapes of ``scales`` and ``qzeros``, and ``bits`` or an ``extra_config`` has to say them.
Source: auto_round_extension/torch/qlinear_torch{,_zp}.py and inference/convert_model.py of auto-round 0.16.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...json_types import OBJECT, TEXT, WHOLE, optional, shown
from . import awq, gptq
from .bits import unpack_bits
from .described import Config, check_types, refusal
from .integer_grid import IntegerGrid
from .stored import FLOAT_DTYPES, Module, float_rows

PARTS = gptq.PARTS
BITS = range(2, 9)
PLUS = {"auto_round:auto_gptq": 1, "auto_round:gptq": 1, "auto": 1, "auto_round": 0, "auto_round:gptqmodel": 0}
AWQ = ("auto_round:auto_awq", "auto_round:awq")
_SCHEME = {
    "bits": optional(WHOLE),
    "group_size": optional(WHOLE),
    "act_bits": optional(WHOLE),
    "data_type": optional(TEXT),
}


def check_config(config: Config, path: Path) -> None:
    """Raise ``FormatError`` for a config that is not supported: other layouts, quantized activations, rotations."""
    check_types(config, {**_SCHEME, "packing_format": TEXT, "backend": TEXT, "extra_config": OBJECT}, path)
    layout = _layout(config)
    if layout not in (*PLUS, *AWQ):
        hint = f"{', '.join((*PLUS, *AWQ))} are; export it again in one of them, or convert the original checkpoint"
        raise refusal(path, "packing_format", f"{layout!r} is not read", hint)
    if "packing_format" not in config and config.get("backend", "auto") != "auto":
        problem = f"{shown(config['backend'])} is named without a packing_format, as before version 0.4: its zeros are"
        raise refusal(path, "backend", f"{problem} stored in a way of its own", "convert the original checkpoint")
    extra = config.get("extra_config") or {}
    check_types(extra, dict.fromkeys(extra, OBJECT), path, "extra_config.")
    settings = {"": config, **{f"extra_config.{name}.": layer or {} for name, layer in extra.items()}}
    for at, one in settings.items():
        check_types(one, _SCHEME, path, at)
        bits, size = one.get("bits"), one.get("group_size")
        if (bits is not None and bits not in (*BITS, 16, 32)) or (at == "" and bits not in BITS):
            raise refusal(path, f"{at}bits", f"{shown(bits)} bits are none of {', '.join(map(str, BITS))}")
        if (size is not None or at == "") and not (size == -1 or (size is not None and 0 < size <= gptq.MAX_GROUP)):
            raise refusal(
                path, f"{at}group_size", f"{shown(size)} is not a valid group size", "a positive number, or -1"
            )
        if one.get("data_type") not in (None, "int"):
            raise refusal(path, f"{at}data_type", f"{one['data_type']!r} is not read, 'int' is")
        if (one.get("act_bits") or 16) < 16:
            raise refusal(path, f"{at}act_bits", f"activations of {one['act_bits']} bits are not read in this layout")
    if config.get("rotation_config"):
        raise refusal(path, "rotation_config", "rotated weights are not read", "convert the original checkpoint")


def _layout(config: Config) -> str:
    return str(config.get("packing_format") or "auto")


def read_layer(module: Module, config: Config, path: Path) -> IntegerGrid:
    """Read a layer as an integer grid.

    Raises:
        FormatError: a part is missing, shapes disagree, or the config says other bits or groups.
    """
    own = _own(module, config)
    if _layout(config) in AWQ:
        return awq.read_layer(module, {"version": "gemm", **own}, path)
    qweight = module.plane("qweight", ("I32",))
    scales = module.plane("scales", FLOAT_DTYPES)
    qzeros = module.plane("qzeros", ("I32",))
    (n_words, n_out), (n_groups, _) = qweight.shape, scales.shape
    module.sized("scales", FLOAT_DTYPES, (n_groups, n_out), "qweight")
    bits = qzeros.shape[1] * 32 // n_out if n_out else 0
    if bits not in BITS or qzeros.stored.shape != (n_groups, n_out * bits // 32) or n_words * 32 % bits:
        problem = f"{list(qzeros.stored.shape)} words do not hold zeros of {n_groups} groups of {n_out} rows"
        raise module.error("qzeros", problem)
    width = n_words * 32 // bits
    _check_bits(module, own, config, bits)
    size = own["group_size"] if own["group_size"] > 0 else width
    if -(-width // size) != n_groups:
        raise module.error("scales", f"{n_groups} groups of {width} columns, the config has groups of {size}")
    groups = np.arange(width, dtype=np.int32) // np.int32(size)
    if module.has("g_idx"):
        groups = gptq.column_groups(module, width, n_groups)
    plus = np.int16(PLUS[_layout(config)])
    zeros = unpack_bits(qzeros.all().view(np.uint8), bits, n_out).T

    def codes(a: int, b: int) -> NDArray[np.uint8]:
        return unpack_bits(qweight.columns(a, b).view(np.uint8), bits, width)

    def read_scales(a: int, b: int) -> NDArray[np.float32]:
        return float_rows(scales.columns(a, b), scales.stored.dtype)

    return IntegerGrid(
        f"{module.name}.weight", qweight.where, (n_out, width), bits, groups, n_groups, codes,
        lambda a, b: zeros[a:b].astype(np.int16) + plus, read_scales, scales.stored.dtype == "F16",
    )  # fmt: skip


def _own(module: Module, config: Config) -> dict[str, Any]:
    """The config's bits and group size for a layer; those of an ``extra_config`` under its whole name go before."""
    extra: Mapping[str, Any] = (config.get("extra_config") or {}).get(module.name) or {}
    keys = ("bits", "group_size")
    return {key: extra[key] if extra.get(key) is not None else config[key] for key in keys}


def _check_bits(module: Module, own: Mapping[str, Any], config: Config, bits: int) -> None:
    """Keys of ``extra_config`` may be regular expressions: bits that any of them has are taken, too."""
    extra = config.get("extra_config") or {}
    others = {layer["bits"] for name, layer in extra.items() if layer and layer.get("bits") is not None}
    if bits != own["bits"] and (module.name in extra or bits not in others):
        problem = f"its shapes are those of {bits} bits, the config says {own['bits']}"
        raise module.error("qweight", problem, "is the config of the same checkpoint?")
