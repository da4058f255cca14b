"""NVIDIA's ModelOpt: FP8, MXFP8, NVFP4, MXFP4, int4 (AWQ) and int8 weights, one or several algorithms in a checkpoint.

What a layer's parts are follows from the dtypes of its ``weight`` and ``weight_scale``; the config's ``quant_algo`` (or
a layer's in ``quantized_layers``) has to agree. A ``pre_quant_scale`` multiplies the layer's inputs as it runs, so the
weight's columns are multiplied here. Source: ``to_quantized_weight`` and ``postprocess_state_dict`` of
modelopt/torch/export/quant_utils.py, 0.47.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...ir import Bytes, Role, Tensor
from ...json_types import OBJECT, TEXT, TEXTS, optional, shown
from ...qtypes import F32
from ..tables.packed_tensors import unpack_blocks
from . import fp8, mxfp4
from .described import MODELOPT_FILE, Config, check_types, refusal
from .integer_grid import IntegerGrid
from .nvfp4 import GROUP, read_nvfp4
from .stored import FLOAT_DTYPES, Module, float_rows

_LOW_RANK = tuple(f"{at}svdquant_lora_{which}" for at in ("", "weight_quantizer._") for which in "ab")
PARTS = ("weight", "weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale", *_LOW_RANK)
KEYS = ("weight_scale", "weight_scale_2", "pre_quant_scale", *_LOW_RANK)
BARE = ("U8", "I8", "F8_E4M3")  # a weight of these is packed, whatever is missing beside it
# Of activations, which are no weights.
EXTRAS = ("input_scale", "output_scale")
_TYPES = {
    "quant_algo": TEXT, "ignore": TEXTS, "exclude_modules": TEXTS, "quantized_layers": OBJECT,
    "kv_cache_quant_algo": optional(TEXT),
}  # fmt: skip
MIXED = "MIXED_PRECISION"

Found = IntegerGrid | tuple[Tensor, str]


@dataclass(frozen=True)
class _Form:
    """How a layer's weights are stored.

    Args:
        weight: the dtype of ``weight``.
        scale: dtypes of ``weight_scale``.
        algos: the algorithms that store them so.
        read: reads a layer of this form.
    """

    weight: str
    scale: tuple[str, ...]
    algos: tuple[str, ...]
    read: Callable[[Module], Found]


def _fp8(module: Module) -> Found:
    weight, scale = module.matrix("weight", fp8.DTYPES).stored, module.matrix("weight_scale", FLOAT_DTYPES).stored
    block = None
    if len(scale.shape) == 4 and len(weight.shape) == 2 and scale.shape[1::2] == (1, 1):  # [rows, 1, columns, 1]
        counts = scale.shape[::2]
        if 0 in counts or any(size % n for size, n in zip(weight.shape, counts, strict=True)):
            raise module.error("weight_scale", f"{list(scale.shape)} blocks do not divide {list(weight.shape)}")
        block = weight.shape[0] // counts[0], weight.shape[1] // counts[1]
        module = replace(module, parts={**module.parts, "weight_scale": replace(scale, shape=counts)})
    return fp8.read_layer(module, block), ""


def _mxfp8(module: Module) -> Found:
    return fp8.read_layer(module, (1, 32), exponents=True), "GGUF has no MXFP8"


def _mxfp4(module: Module) -> Found:
    return mxfp4.read_pairs(module, "weight_scale"), ""


def _nvfp4(module: Module) -> Found:
    weight, scale = module.matrix("weight", ("U8",)).stored, module.matrix("weight_scale", ("F8_E4M3",)).stored
    if weight.shape[-1:] == tuple(2 * GROUP // 2 * n for n in scale.shape[-1:]):
        problem = f"groups of {2 * GROUP} weights (W4A8_NVFP4_FP8) are not read, groups of {GROUP} are"
        raise module.error("weight_scale", problem, "convert the original checkpoint")
    return read_nvfp4(module, "weight", "weight_scale", "weight_scale_2", divides=False, input_factor="input_scale")


def _int8(module: Module) -> Found:
    weight = module.matrix("weight", ("I8",))
    if len(weight.stored.shape) != 2:
        raise module.error("weight", f"its shape {list(weight.stored.shape)} is not that of a matrix")
    n_out, width = weight.shape
    scales = module.sized("weight_scale", FLOAT_DTYPES, (n_out,), "weight")
    values = float_rows(scales.all().reshape(-1, 1), scales.stored.dtype)
    return _grid(
        module, (n_out, width), 8, 1, lambda a, b: weight.rows(a, b).view(np.uint8) ^ np.uint8(128),
        lambda a, b: values[a:b], scales.stored.dtype == "F16",
    )  # fmt: skip


def _int4(module: Module) -> Found:
    """Two rows share a row of bytes, the earlier in the low nibbles; codes are signed."""
    weight = module.matrix("weight", ("U8",))
    if len(weight.stored.shape) != 2:
        raise module.error("weight", f"its shape {list(weight.stored.shape)} is not that of a matrix")
    n_out, width = weight.shape[0] * 2, weight.shape[1]
    scales = module.matrix("weight_scale", FLOAT_DTYPES)
    n_groups = scales.stored.shape[-1] if scales.stored.shape else 0
    if scales.stored.shape != (n_out, n_groups) or n_groups < 1 or width % n_groups:
        problem = f"{list(scales.stored.shape)} scales do not fit {n_out} rows of {width}"
        raise module.error("weight_scale", problem)

    def codes(a: int, b: int) -> NDArray[np.uint8]:
        pairs = weight.rows(a // 2, -(-b // 2))
        both = np.stack([pairs & np.uint8(15), pairs >> np.uint8(4)], axis=1).reshape(-1, width)
        return both[a % 2 :][: b - a] ^ np.uint8(8)  # -8..7 -> 0..15

    def read(a: int, b: int) -> NDArray[np.float32]:
        return float_rows(scales.rows(a, b), scales.stored.dtype)

    return _grid(module, (n_out, width), 4, n_groups, codes, read, scales.stored.dtype == "F16")


def _grid(
    module: Module,
    shape: tuple[int, int],
    bits: int,
    n_groups: int,
    codes: Callable[[int, int], NDArray[np.uint8]],
    scales: Callable[[int, int], NDArray[np.float32]],
    half: bool,
) -> IntegerGrid:
    name, source = f"{module.name}.weight", module.matrix("weight", ("U8", "I8")).where
    groups = np.arange(shape[1], dtype=np.int32) // np.int32(max(1, shape[1] // n_groups))

    def zeros(a: int, b: int) -> NDArray[np.int16]:
        return np.full((b - a, n_groups), 1 << (bits - 1), np.int16)

    return IntegerGrid(name, source, shape, bits, groups, n_groups, codes, zeros, scales, half)


FORMS = (
    _Form("F8_E4M3", FLOAT_DTYPES, ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "FP8_PB_REAL"), _fp8),
    _Form("F8_E4M3", ("U8", "F8_E8M0"), ("MXFP8",), _mxfp8),
    _Form("U8", ("F8_E4M3",), ("NVFP4", "NVFP4_AWQ", "W4A16_NVFP4", "W4A8_NVFP4_FP8", "NVFP4_SVD"), _nvfp4),
    _Form("U8", ("U8", "F8_E8M0"), ("MXFP4", "W4A8_MXFP4_FP8"), _mxfp4),
    _Form("U8", FLOAT_DTYPES, ("W4A16_AWQ", "W4A8_AWQ", "INT4_AWQ", "W4A16"), _int4),
    _Form("I8", FLOAT_DTYPES, ("W8A16", "W8A8_SQ_PER_CHANNEL", "INT8_SQ", "INT8_WO"), _int8),
)
ALGOS = tuple(algo for form in FORMS for algo in form.algos)


def check_config(config: Config, path: Path) -> None:
    """Raise ``FormatError`` for an algorithm that is not known, of the checkpoint or of a layer."""
    check_types(config, _TYPES, path)
    layers = config.get("quantized_layers") or {}
    check_types(layers, dict.fromkeys(layers, OBJECT), path, "quantized_layers.")
    algo = config.get("quant_algo")
    if algo is None:
        raise refusal(path, "quant_algo", "is missing", f"get config.json and {MODELOPT_FILE} of the same checkpoint")
    named = {"quant_algo": algo} if algo.upper() != MIXED else {}
    for name, layer in layers.items():
        check_types(layer or {}, {"quant_algo": TEXT}, path, f"quantized_layers.{name}.")
        named[f"quantized_layers.{name}.quant_algo"] = (layer or {}).get("quant_algo")
    for at, one in named.items():
        if not isinstance(one, str) or one.upper() not in ALGOS:
            hint = f"{', '.join(ALGOS)} are; convert the original checkpoint"
            raise refusal(path, at, f"{shown(one)} is not read", hint)


def read_layer(module: Module, config: Config, path: Path) -> Found:
    """Read a layer, as the algorithm that its parts are of.

    Raises:
        FormatError: a part is missing, shapes disagree, or the config names another algorithm for this layer, or none.
    """
    if low := next((name for name in _LOW_RANK if module.has(name)), None):
        raise module.error(low, "a low-rank branch beside the weight is not read", "convert the original checkpoint")
    weight = module.matrix("weight", tuple({form.weight for form in FORMS})).stored
    if len(weight.shape) != 2:
        problem = f"its shape is {list(weight.shape)}: stacks of experts are not read in ModelOpt's layout"
        raise module.error("weight", problem, "convert the original checkpoint")
    scale = module.matrix("weight_scale", (*FLOAT_DTYPES, "U8", "F8_E8M0", "F8_E4M3")).stored
    form = next((form for form in FORMS if form.weight == weight.dtype and scale.dtype in form.scale), None)
    if form is None:
        raise module.error("weight_scale", f"its dtype is {scale.dtype} beside a weight of {weight.dtype}")
    algo = _algo(module.name, config, path)
    if algo is not None and algo.upper() not in form.algos:
        problem = f"the config says {algo}, its parts are those of {form.algos[0]}"
        raise module.error("weight", problem, "get config.json of the same checkpoint")
    found = form.read(module)
    return _folded(module, found) if module.has("pre_quant_scale") else found


def _algo(name: str, config: Config, path: Path) -> str | None:
    """The algorithm that the config names for a module; None if a mixed config does not list it."""
    for key in ("ignore", "exclude_modules"):
        if pattern := next((one for one in config.get(key) or () if fnmatchcase(name, one)), None):
            problem = f"{shown(pattern)} says that {name} is not quantized, but it is"
            raise refusal(path, key, problem, f"get config.json and {MODELOPT_FILE} of the same checkpoint")
    layer: Mapping[str, Any] = (config.get("quantized_layers") or {}).get(name, {})
    algo = layer.get("quant_algo") or (None if config["quant_algo"].upper() == MIXED else config["quant_algo"])
    return None if algo is None else str(algo)


def _folded(module: Module, found: Found) -> Found:
    """The weight with its columns multiplied by ``pre_quant_scale``, which the layer's inputs are multiplied by."""
    tensor = unpack_blocks(found.tensor()[0] if isinstance(found, IntegerGrid) else found[0])
    stored = module.sized("pre_quant_scale", FLOAT_DTYPES, (tensor.width,), "weight")
    factors = float_rows(stored.all().reshape(-1), stored.stored.dtype)
    if not np.isfinite(factors).all():
        column = int(np.argmin(np.isfinite(factors)))
        raise module.error("pre_quant_scale", f"of column {column} is {factors[column]}", "the checkpoint is damaged")

    def read(a: int, b: int) -> Bytes:
        values = np.ascontiguousarray(tensor.rows(a, b)).view(np.float32) * factors
        return values.view(np.uint8)

    folded = Tensor(tensor.name, Role.OTHER, None, tensor.shape, F32, read, tensor.source)
    return folded, "times pre_quant_scale, by column"
