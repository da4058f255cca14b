"""compressed-tensors: integers, packed or not, and FP8; with scales by tensor, channel (row), group or block.

Source: compressors/{pack_quantized,naive_quantized} and quantization/lifecycle/forward.py of compressed-tensors 0.20.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...ir import Tensor
from ...json_types import OBJECT, TEXT, WHOLE, shown
from . import fp8
from .bits import unpack_bits
from .described import check_types, refusal
from .integer_grid import IntegerGrid
from .stored import FLOAT_DTYPES, Matrix, Module, float_rows

PARTS = ("weight_packed", "weight", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
# Of activations and caches, which are no weights.
EXTRAS = (
    "input_scale", "input_zero_point", "output_scale", "output_zero_point", "input_global_scale",
    "k_scale", "v_scale", "q_scale",
)  # fmt: skip
_WEIGHTS = {"num_bits": WHOLE, "block_structure": fp8.BLOCK}
FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "float-quantized")


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Raise ``FormatError`` for a config that is not supported."""
    check_types(config, {"format": TEXT, "config_groups": OBJECT, "sparsity_config": OBJECT}, path)
    groups = config.get("config_groups") or {}
    check_types(groups, dict.fromkeys(groups, OBJECT), path, "config_groups.")
    for name, group in _groups(config).items():
        at = f"config_groups.{name}."
        check_types(group, {"format": TEXT, "weights": OBJECT}, path, at)
        check_types(group.get("weights") or {}, _WEIGHTS, path, f"{at}weights.")
    sparsity = config.get("sparsity_config") or {}
    check_types(sparsity, {"format": TEXT}, path, "sparsity_config.")
    named = [config.get("format"), *(group.get("format") for group in _groups(config).values())]
    if sparsity.get("format") != "dense":
        named.append(sparsity.get("format"))
    for known in named:
        if known is not None and known not in (*FORMATS, "mixed-precision", "dense"):
            hint = f"{', '.join(FORMATS)} are; convert the original checkpoint"
            raise refusal(path, "format", f"compressed-tensors format {shown(known)} is not read", hint)
    if not any(_weights(config)):
        raise refusal(path, "config_groups", "no scheme for weights")


def _groups(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: group for name, group in (config.get("config_groups") or {}).items() if group is not None}


def _weights(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (group["weights"] for group in _groups(config).values() if group.get("weights"))


def read_layer(module: Module, config: Mapping[str, Any], path: Path) -> IntegerGrid | Tensor:
    """Read a layer as an integer grid, or one of FP8 weights as a tensor that is decoded as its rows are read.

    Raises:
        FormatError: a part is missing, or shapes disagree.
    """
    if module.has("weight_packed"):
        return _packed(module, config)
    weight = module.matrix("weight", ("I8", *fp8.DTYPES))
    if weight.stored.dtype != "I8":
        blocks = [block for w in _weights(config) if (block := fp8.block_size(w.get("block_structure")))]
        return fp8.read_layer(module, blocks[0] if blocks else None)
    return _plain(module, config, weight)


def _packed(module: Module, config: Mapping[str, Any]) -> IntegerGrid:
    packed = module.matrix("weight_packed", ("I32",))
    shape_of = module.matrix("weight_shape", ("I32", "I64"))
    shape = tuple(int(n) for n in shape_of.all().reshape(-1))
    n_out, n_words = packed.shape
    if len(shape) != 2 or len(packed.stored.shape) != 2 or shape[0] != n_out or shape[1] < 1:
        raise module.error("weight_shape", f"{list(shape)} does not fit the {list(packed.stored.shape)} words")
    width = shape[1]
    sizes = {bits for w in _weights(config) if type(bits := w.get("num_bits")) is int}
    fitting = sorted(b for b in sizes if 2 <= b <= 8 and -(-width * b // 32) == n_words)
    if not fitting:
        problem = f"{n_words} words a row do not hold {width} codes of {' or '.join(map(str, sorted(sizes)))} bits"
        raise module.error("weight_packed", problem)
    bits = fitting[0]

    def codes(a: int, b: int) -> NDArray[np.uint8]:
        return unpack_bits(packed.rows(a, b).view(np.uint8), bits, width)

    return _grid(module, config, packed, (n_out, width), bits, codes, packed_zeros=True)


def _plain(module: Module, config: Mapping[str, Any], weight: Matrix) -> IntegerGrid:
    if len(weight.stored.shape) != 2:
        raise module.error("weight", f"its shape {list(weight.stored.shape)} is not that of a matrix")

    def codes(a: int, b: int) -> NDArray[np.uint8]:
        return weight.rows(a, b).view(np.uint8) ^ np.uint8(128)  # -128..127 -> 0..255

    return _grid(module, config, weight, weight.shape, 8, codes, packed_zeros=False)


def _grid(
    module: Module,
    config: Mapping[str, Any],
    weight: Matrix,
    shape: tuple[int, int],
    bits: int,
    codes: Any,
    packed_zeros: bool,
) -> IntegerGrid:
    """What packed and plain layers share: scales [1], [N, 1] or [N, G], and zeros alike, signed or packed along N."""
    scales = module.matrix("weight_scale", FLOAT_DTYPES)
    n_out, width = shape
    size = scales.stored.shape
    whole = scales.stored.nbytes > 0 and int(np.prod(size)) == 1
    n_groups = 1 if whole or size == (n_out,) else size[-1]
    if not whole and size not in ((n_out, n_groups), (n_out,)):
        raise module.error("weight_scale", f"{list(size)} scales for {n_out} rows")
    groups = _columns(module, width, n_groups)

    def read_scales(a: int, b: int) -> NDArray[np.float32]:
        raw = scales.all() if whole or len(size) == 1 else scales.rows(a, b)
        values = float_rows(raw, scales.stored.dtype)
        if whole:
            return np.broadcast_to(values.reshape(1, 1), (b - a, 1))
        return values.reshape(-1, 1)[a:b] if len(size) == 1 else values

    zeros = _zeros(module, (n_out, n_groups), bits, packed_zeros)
    name, half = weight.stored.name.removesuffix("_packed"), scales.stored.dtype == "F16"
    return IntegerGrid(name, weight.where, shape, bits, groups, n_groups, codes, zeros, read_scales, half)


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


def _zeros(module: Module, shape: tuple[int, int], bits: int, packed: bool) -> Any:
    """Zeros for unsigned codes: the signed zeros plus 2**(bits - 1)."""
    n_out, n_groups = shape
    middle = 1 << (bits - 1)
    if not module.has("weight_zero_point"):
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
