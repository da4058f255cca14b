"""compressed-tensors: integers and floats of few bits, packed or not; with scales by tensor, channel, group or block.

Source: compressors/ and quantization/lifecycle/forward_helpers.py of compressed-tensors 0.20.1. Which scheme a layer
has is found in ``targets.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...ir import Tensor
from ...json_types import FLAG, OBJECT, TEXT, TEXTS, WHOLE, by_name, either, list_of, shown
from . import fp8, mxfp4, mxfp6, nvfp4
from .bits import unpack_bits
from .described import Config, Say, check_types, refusal
from .integer_grid import IntegerGrid
from .stored import FLOAT_DTYPES, Matrix, Module, float_rows
from .targets import Layer, check_transforms, layer_schemes

PARTS = (
    "weight_packed", "weight", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx",
    "weight_global_scale", "input_global_scale",
)  # fmt: skip
# Of activations and caches, which are no weights.
EXTRAS = (
    "input_scale", "input_zero_point", "output_scale", "output_zero_point", "input_global_scale", "output_global_scale",
    "k_scale", "v_scale", "q_scale", "k_zero_point", "v_zero_point", "q_zero_point", "k_global_scale", "v_global_scale",
    "q_global_scale",
)  # fmt: skip
Weights = Mapping[str, Any]
Found = IntegerGrid | Tensor | tuple[Tensor, str]
STRATEGIES = ("tensor", "channel", "group", "block", "tensor_group")
_WEIGHTS = {
    "num_bits": WHOLE, "type": TEXT, "strategy": TEXT, "group_size": WHOLE, "symmetric": FLAG,
    "block_structure": fp8.BLOCK,
}  # fmt: skip
_OTHERS = {"input_activations": OBJECT, "output_activations": OBJECT}
_ACTIVATIONS = {"num_bits": WHOLE, "type": TEXT, "dynamic": either(FLAG, TEXT)}
_BITS = {"int": range(1, 9), "float": (4, 6, 8)}  # by the type of codes
_TRANSFORMS = {"config_groups": by_name(OBJECT, "objects")}
_ROTATION = {"type": TEXT, "apply": list_of(OBJECT, "objects")}
_LOCATION = {"location": TEXT}


def check_config(config: Config, path: Path) -> None:
    """Raise ``FormatError`` for a config that is not supported."""
    objects = ("config_groups", "sparsity_config", "kv_cache_scheme", "transform_config", "moe_sparsity_config")
    check_types(config, {"format": TEXT, "ignore": TEXTS, **dict.fromkeys(objects, OBJECT)}, path)
    groups = config.get("config_groups") or {}
    check_types(groups, dict.fromkeys(groups, OBJECT), path, "config_groups.")
    for name, group in _groups(config).items():
        at = f"config_groups.{name}."
        check_types(group, {"format": TEXT, "weights": OBJECT, "targets": TEXTS, **_OTHERS}, path, at)
        weights = group.get("weights") or {}
        check_types(weights, _WEIGHTS, path, f"{at}weights.")
        _check_numbers(weights, path, f"{at}weights.")
        for key in _OTHERS:
            check_types(group.get(key) or {}, _ACTIVATIONS, path, f"{at}{key}.")
    sparsity = config.get("sparsity_config") or {}
    check_types(sparsity, {"format": TEXT}, path, "sparsity_config.")
    named = [config.get("format"), *(group.get("format") for group in _groups(config).values())]
    if sparsity.get("format") != "dense":
        named.append(sparsity.get("format"))
    for known in named:
        if known is not None and known not in (*FORMATS, "mixed-precision", "dense"):
            hint = f"{', '.join(FORMATS)} are; convert the original checkpoint"
            raise refusal(path, "format", f"compressed-tensors format {shown(known)} is not read", hint)
    if not any(group.get("weights") for group in _groups(config).values()):
        raise refusal(path, "config_groups", "no scheme for weights")
    if experts := config.get("moe_sparsity_config"):
        problem = f"experts are left out by {shown(experts.get('method'))}"
        raise refusal(path, "moe_sparsity_config", problem, "convert the original checkpoint")
    transforms = config.get("transform_config") or {}
    check_types(transforms, _TRANSFORMS, path, "transform_config.")
    for name, scheme in (transforms.get("config_groups") or {}).items():
        at = f"transform_config.config_groups.{name}."
        check_types(scheme, _ROTATION, path, at)
        for args in scheme.get("apply") or ():
            check_types(args, _LOCATION, path, f"{at}apply.")
    check_transforms(config, path)


def _check_numbers(weights: Weights, path: Path, at: str) -> None:
    """Raise ``FormatError`` for codes or scales that no layout has."""
    if weights.get("strategy") not in (*STRATEGIES, None):
        hint = f"{', '.join(STRATEGIES)} are read"
        raise refusal(path, f"{at}strategy", f"{shown(weights['strategy'])} is not known", hint)
    kind, bits = weights.get("type") or "int", weights.get("num_bits", 8)
    if kind not in _BITS:
        raise refusal(path, f"{at}type", f"{shown(kind)} is not known", f"{' and '.join(_BITS)} are read")
    if bits not in _BITS[kind]:
        hint = f"{', '.join(map(str, _BITS[kind]))} are read"
        raise refusal(path, f"{at}num_bits", f"codes of {bits} bits are not known of type {kind}", hint)


def _groups(config: Config) -> dict[str, Mapping[str, Any]]:
    return {name: group for name, group in (config.get("config_groups") or {}).items() if group is not None}


def choose(
    config: Config, path: Path, packed: Sequence[Layer], others: Sequence[Layer], say: Say
) -> dict[str, Mapping[str, Any]]:
    """The group of each packed layer, its format filled in; and a line about what is no weight."""
    found = layer_schemes(config, path, packed, others, say)
    if beside := sorted({text for group in found.values() for text in _activations(group)}):
        say(f"{path.parent}: activations are not rounded, as they are by the scheme: {', '.join(beside)}")
    if config.get("kv_cache_scheme"):
        say(f"{path.parent}: the cache is not rounded, as it is by kv_cache_scheme")
    whole = config.get("format")
    return {name: {**group, "format": group.get("format") or whole} for name, group in found.items()}


def _activations(group: Mapping[str, Any]) -> Iterator[str]:
    for key in _OTHERS:
        if args := group.get(key):
            how = "dynamic" if args.get("dynamic") else "static"
            kind = args.get("type") or "int"
            yield f"{key.partition('_')[0]} of {args.get('num_bits', 8)} bits ({kind}, {how})"


def read_layer(module: Module, group: Mapping[str, Any], path: Path) -> Found:
    """Read a layer as an integer grid, in blocks, or as a tensor that is decoded as its rows are read.

    Args:
        module: the layer's stored parts.
        group: of ``config_groups``, with its ``format``.
        path: the config's file.

    Raises:
        FormatError: a part is missing, or shapes disagree with each other or with the scheme.
    """
    weights = group.get("weights")
    if not weights:
        raise refusal(path, "config_groups", f"{module.name} is packed, and its group has no scheme for weights")
    return _READERS.get(str(group.get("format")), _read_plain)(module, weights)


def _read_plain(module: Module, weights: Weights) -> Found:
    """Read what names no layout of its own, or one that its parts tell."""
    kind = (weights.get("type"), weights.get("num_bits"), weights.get("group_size"))
    if module.has("weight_packed"):
        return _PACKED.get(kind, _packed)(module, weights)
    weight = module.matrix("weight", ("I8", *fp8.DTYPES))
    if weight.stored.dtype == "I8":
        return _plain(module, weights, weight)
    return _float8(module, weights, exponents=False)


def _nvfp4(module: Module, weights: Weights) -> Found:
    parts = ("weight_packed", "weight_scale", "weight_global_scale")
    return nvfp4.read_nvfp4(module, *parts, divides=True, input_factor="input_global_scale")


def _mxfp4(module: Module, weights: Weights) -> Found:
    return mxfp4.read_pairs(module, "weight_scale", packed="weight_packed")


def _mxfp6(module: Module, weights: Weights) -> Found:
    return mxfp6.read_mxfp6(module, "weight_packed", "weight_scale")


def _mxfp8(module: Module, weights: Weights) -> Found:
    return _float8(module, weights, exponents=True)


def _float8(module: Module, weights: Weights, *, exponents: bool) -> Tensor:
    """FP8 with the scales of its strategy; those of groups are blocks of one row."""
    strategy = weights.get("strategy")
    size = weights.get("group_size") or 0
    block = fp8.block_size(weights.get("block_structure"))
    weight = module.matrix("weight", fp8.DTYPES)
    shape = weight.stored.shape
    if strategy in ("group", "tensor_group") and size > 0:
        block = (1, size)
        if shape and shape[-1] % size:
            raise module.error("weight", f"groups of {size} do not divide its {shape[-1]} columns")
    _check_scales(module, strategy, shape, block)
    return fp8.read_layer(module, block, exponents=exponents)


def _check_scales(module: Module, strategy: Any, shape: tuple[int, ...], block: tuple[int, int] | None) -> None:
    """Check that the scales' shape is that of the strategy, which another may fit, too."""
    stored = module.matrix("weight_scale", (*FLOAT_DTYPES, "F8_E8M0", "U8")).stored.shape
    if len(shape) < 2:
        return
    channel = ((*shape[:-1], 1), shape[:-1])
    blocks = block or (1, max(1, shape[-1]))
    grid = (*shape[:-2], -(-shape[-2] // blocks[0]), -(-shape[-1] // blocks[1]))
    wanted = {"tensor": ((1,), (), (1, 1)), "channel": channel}.get(strategy, (grid,) if block else ())
    if wanted and stored not in wanted:
        problem = f"its shape is {list(stored)}, strategy {strategy} makes it {list(wanted[0])}"
        raise module.error("weight_scale", problem)


def _packed(module: Module, weights: Weights) -> IntegerGrid:
    packed = module.matrix("weight_packed", ("I32",))
    shape_of = module.matrix("weight_shape", ("I32", "I64"))
    shape = tuple(int(n) for n in shape_of.all().reshape(-1))
    n_out, n_words = packed.shape
    if len(shape) != 2 or len(packed.stored.shape) != 2 or shape[0] != n_out or shape[1] < 1:
        raise module.error("weight_shape", f"{list(shape)} does not fit the {list(packed.stored.shape)} words")
    width, bits = shape[1], weights.get("num_bits", 8)
    if not (type(bits) is int and 1 <= bits <= 8) or -(-width * bits // 32) != n_words:
        raise module.error("weight_packed", f"{n_words} words a row do not hold {width} codes of {bits} bits")

    def codes(a: int, b: int) -> NDArray[np.uint8]:
        return unpack_bits(packed.rows(a, b).view(np.uint8), bits, width)

    return _grid(module, weights, packed, (n_out, width), bits, codes, packed_zeros=True)


def _plain(module: Module, weights: Weights, weight: Matrix) -> IntegerGrid:
    """Codes in a byte each; those of fewer bits have their range in it."""
    if len(weight.stored.shape) != 2:
        raise module.error("weight", f"its shape {list(weight.stored.shape)} is not that of a matrix")
    given = weights.get("num_bits", 8)
    bits = given if type(given) is int and 2 <= given <= 8 else 8
    half = np.int16(1 << (bits - 1))

    def codes(a: int, b: int) -> NDArray[np.uint8]:
        signed = weight.rows(a, b).astype(np.int16)
        if (beyond := (signed < -half) | (signed >= half)).any():
            row, column = (int(i) for i in np.argwhere(beyond)[0])
            problem = f"code {signed[row, column]} at [{a + row}, {column}] is none of {bits} bits"
            raise FormatError(problem, where=weight.where, hint="the checkpoint is damaged")
        return (signed + half).astype(np.uint8)

    return _grid(module, weights, weight, weight.shape, bits, codes, packed_zeros=False)


def _grid(
    module: Module,
    weights: Weights,
    weight: Matrix,
    shape: tuple[int, int],
    bits: int,
    codes: Callable[[int, int], NDArray[np.uint8]],
    packed_zeros: bool,
) -> IntegerGrid:
    """What packed and plain layers share: scales [1], [N, 1] or [N, G], and zeros alike, signed or packed along N."""
    scales = module.matrix("weight_scale", FLOAT_DTYPES)
    n_out, width = shape
    size = scales.stored.shape
    if module.has("weight_global_scale"):
        raise module.error("weight_global_scale", "whole numbers have none in any layout that is known")
    block = fp8.block_size(weights.get("block_structure"))
    if block is not None:
        return _in_blocks(module, weights, weight, shape, bits, codes, block)
    whole = scales.stored.nbytes > 0 and int(prod(size)) == 1
    n_groups = 1 if whole or size == (n_out,) else size[-1]
    if not whole and size not in ((n_out, n_groups), (n_out,)):
        raise module.error("weight_scale", f"{list(size)} scales for {n_out} rows")
    _check_groups(module, weights, shape, n_groups)
    groups = _columns(module, width, n_groups)

    def read_scales(a: int, b: int) -> NDArray[np.float32]:
        raw = scales.all() if whole or len(size) == 1 else scales.rows(a, b)
        values = float_rows(raw, scales.stored.dtype)
        if whole:
            return np.broadcast_to(values.reshape(1, 1), (b - a, 1))
        return values.reshape(-1, 1)[a:b] if len(size) == 1 else values

    zeros = _zeros(module, (n_out, n_groups), bits, packed_zeros, weights.get("symmetric") is not False)
    half = scales.stored.dtype == "F16"
    return IntegerGrid(
        f"{module.name}.weight", weight.where, shape, bits, groups, n_groups, codes, zeros, read_scales, half
    )


def _check_groups(module: Module, weights: Weights, shape: tuple[int, int], n_groups: int) -> None:
    """Check that there are as many groups in a row as the scheme makes of its width."""
    strategy, size = weights.get("strategy"), weights.get("group_size") or 0
    if strategy == "group" and size > 0:
        if n_groups * size != shape[1]:
            problem = f"{n_groups} scales a row, groups of {size} make it {shape[1] / size:g}"
            raise module.error("weight_scale", problem)
    elif strategy in ("tensor", "channel") and n_groups != 1:
        raise module.error("weight_scale", f"{n_groups} scales a row, strategy {strategy} makes it one")


def _in_blocks(
    module: Module,
    weights: Weights,
    weight: Matrix,
    shape: tuple[int, int],
    bits: int,
    codes: Callable[[int, int], NDArray[np.uint8]],
    block: tuple[int, int],
) -> IntegerGrid:
    """Codes whose scales and zeros are those of blocks of rows and columns."""
    grid = -(-shape[0] // block[0]), -(-shape[1] // block[1])
    scales = module.sized("weight_scale", FLOAT_DTYPES, grid, "block_structure")
    zeros = None
    if module.has("weight_zero_point") or weights.get("symmetric") is False:
        zeros = module.sized("weight_zero_point", ("I8",), grid, "block_structure").all()
    by_block = float_rows(scales.all(), scales.stored.dtype)
    middle = np.int16(1 << (bits - 1))
    whole = np.full(grid, middle) if zeros is None else zeros.astype(np.int16) + middle
    groups = np.arange(shape[1], dtype=np.int32) // np.int32(block[1])

    def of_rows(values: NDArray[Any]) -> Callable[[int, int], NDArray[Any]]:
        return lambda a, b: values[np.arange(a, b) // block[0]]

    half = scales.stored.dtype == "F16"
    return IntegerGrid(
        f"{module.name}.weight", weight.where, shape, bits, groups, grid[1], codes, of_rows(whole), of_rows(by_block),
        half,
    )  # fmt: skip


def _columns(module: Module, width: int, n_groups: int) -> NDArray[np.int32]:
    """The group of each column: from ``weight_g_idx`` if the scheme reorders columns, else in order."""
    if n_groups < 1 or width % n_groups:
        raise module.error("weight_scale", f"{n_groups} groups do not divide {width} columns")
    if module.has("weight_g_idx"):
        given = module.sized("weight_g_idx", ("I32", "I64"), (width,), "the weight").all().reshape(-1)
        if given.min() >= n_groups or given.max() >= n_groups:
            raise module.error("weight_g_idx", f"names group {int(given.max())} of {n_groups}")
        if given.min() >= 0:  # -1 throughout where it was never filled
            return given.astype(np.int32)
    return np.arange(width, dtype=np.int32) // np.int32(width // n_groups)


def _zeros(module: Module, shape: tuple[int, int], bits: int, packed: bool, symmetric: bool) -> Any:
    """Zeros for unsigned codes: the signed zeros plus 2**(bits - 1)."""
    n_out, n_groups = shape
    middle = 1 << (bits - 1)
    if not module.has("weight_zero_point") and symmetric:
        return lambda a, b: np.full((b - a, n_groups), middle, np.int16)
    stored = module.matrix("weight_zero_point", ("I8", "I32") if packed else ("I8",))
    if stored.stored.dtype == "I32":
        words = module.sized("weight_zero_point", ("I32",), (-(-n_out * bits // 32), n_groups), "weight_scale")
        return lambda a, b: _unpack_down(words, a, b, bits)
    size = stored.stored.shape
    if size == (n_out, n_groups):
        return lambda a, b: stored.rows(a, b).astype(np.int16) + np.int16(middle)
    if size not in ((1,), (), (n_out,), (1, 1)) or (n_groups != 1):
        raise module.error("weight_zero_point", f"{list(size)} zeros for {list(shape)} groups")
    values = np.broadcast_to(stored.all().astype(np.int16).reshape(-1, 1) + np.int16(middle), shape)
    return lambda a, b: values[a:b]


def _unpack_down(words: Matrix, a: int, b: int, bits: int) -> NDArray[np.int16]:
    """Unpack rows a to b of codes that are packed along the first axis: int16 [b-a, columns of words]."""
    first = a // 32 * 32  # 32 codes fill `bits` words
    columns = np.ascontiguousarray(words.rows(first * bits // 32, -(-b * bits // 32)).T)
    return np.ascontiguousarray(unpack_bits(columns.view(np.uint8), bits, b - first)[:, a - first :].T).astype(np.int16)


_PACKED: dict[tuple[Any, Any, Any], Callable[[Module, Weights], Found]] = {
    ("float", 4, 16): _nvfp4,
    ("float", 4, 32): _mxfp4,
    ("float", 6, 32): _mxfp6,
}
_READERS: dict[str, Callable[[Module, Weights], Found]] = {
    "pack-quantized": _packed,
    "int-quantized": _read_plain,
    "naive-quantized": _read_plain,
    "float-quantized": _read_plain,
    "nvfp4-pack-quantized": _nvfp4,
    "mxfp4-pack-quantized": _mxfp4,
    "mxfp6-pack-quantized": _mxfp6,
    "mxfp8-quantized": _mxfp8,
}
FORMATS = tuple(_READERS)
