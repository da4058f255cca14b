"""bitsandbytes: 4-bit weights (nf4 and fp4), whose scales may be quantized too, and int8 rows.

4 bits: ``weight`` holds two codes a byte, the first in the high nibble, of the whole tensor in its order, whatever
dtype the bytes are stored as; ``weight.quant_state.bitsandbytes__nf4`` holds JSON in bytes. A weight is its code's
level times the absmax of its block, rounded once to the dtype that the state names, as ``dequantize_4bit`` returns it.
int8: ``weight`` times its row's ``SCB`` times 1/127. Source: ``QuantState`` of functional.py and the default backend's
ops of bitsandbytes 0.50. (Its kernel for CPUs decodes rows that end inside a block wrongly; its CUDA's does not.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...floats import cast
from ...ir import Bytes, Role, Tensor
from ...json_text import ROOM, parse_json
from ...json_types import FLAG, NUMBER, OBJECT, POSITIVE_WHOLE, TEXT, JsonType, check, list_of
from ...qtypes import BY_NAME, F32
from ..files.safetensors import DTYPE_BITS, StoredTensor
from .described import Config, check_types, refusal
from .integer_grid import IntegerGrid
from .stored import FLOAT_DTYPES, Matrix, Module, float_rows

# Each level's value, as the kernels have them (``get_4bit_type``); the file's ``quant_map`` is a copy that they ignore.
_FP4 = [0, 0.0625 / 12, 8 / 12, 12 / 12, 4 / 12, 6 / 12, 2 / 12, 3 / 12]
LEVELS = {
    "nf4": np.array([
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ], np.float32),
    "fp4": np.array([*_FP4, *(-level for level in _FP4)], np.float32),
}  # fmt: skip
_STATES = {f"weight.quant_state.bitsandbytes__{kind}": kind for kind in LEVELS}
KEYS = ("weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map", *_STATES, "SCB")
PARTS = ("weight", *KEYS, "weight_format")
BARE = ("U8", "I8")  # a weight of whole numbers is packed, whatever is missing beside it
_STORAGE = ("U8", "I8", "F16", "BF16", "F32", "F64", "I16", "I32", "I64")  # quant_storage; the bytes are the same
_DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
MAX_STATE = 1 << 16  # bytes of a state's JSON, which has a few hundred
_INT8_STEP = np.float32(7.874015718698502e-3)  # the library's 1 / 127
_NEAR = 1e-3  # between a level in a file and the kernels': old files have them in three digits
_SHAPE = list_of(POSITIVE_WHOLE, "positive whole numbers")
_BLOCK = JsonType(
    f"one of {', '.join(map(str, BLOCK_SIZES))}", lambda value: type(value) is int and value in BLOCK_SIZES
)
_DTYPE = JsonType(f"one of {', '.join(_DTYPES)}", lambda value: isinstance(value, str) and value in _DTYPES)
REASON = "levels that no GGUF type has"


def check_config(config: Config, path: Path) -> None:
    """Raise ``FormatError`` for a config that contradicts itself. What a layer is, its own state says."""
    check_types(config, {"load_in_4bit": FLAG, "load_in_8bit": FLAG, "bnb_4bit_quant_type": TEXT}, path)
    if config.get("load_in_4bit") and config.get("load_in_8bit"):
        raise refusal(path, "load_in_8bit", "is true, and load_in_4bit too", "get config.json of the same checkpoint")
    kind = config.get("bnb_4bit_quant_type")
    if kind is not None and kind not in LEVELS:
        raise refusal(path, "bnb_4bit_quant_type", f"{kind!r} is not read", f"{' and '.join(LEVELS)} are")


def read_layer(module: Module, config: Config, path: Path) -> IntegerGrid | tuple[Tensor, str]:
    """Read a layer: int8 rows as an integer grid if their scales are halves, anything else decoded.

    Raises:
        FormatError: a part is missing, shapes disagree, or the state is not one of bitsandbytes.
    """
    weight = module.parts.get("weight")
    stated = any(module.has(name) for name in KEYS if name != "SCB")
    if module.has("SCB") or (not stated and isinstance(weight, StoredTensor) and weight.dtype == "I8"):
        return _int8(module)
    return _four_bits(module), REASON


@dataclass(frozen=True)
class _State:
    """What the JSON of a layer says.

    Args:
        kind: ``nf4`` or ``fp4``.
        size: weights in a block.
        dtype: the type of the decoded weights.
        shape: theirs.
        nested: blocks in a block of blocks, and what is added to their absmax; None if absmax is not quantized.
    """

    kind: str
    size: int
    dtype: str
    shape: tuple[int, ...]
    nested: tuple[int, np.float32] | None


def _state(module: Module) -> _State:
    names = [name for name in _STATES if module.has(name)]
    if len(names) != 1:
        problem = "no quant_state beside it" if not names else f"{' and '.join(names)} are both there"
        raise module.error("weight", problem, "get the whole checkpoint, with the shard that has it")
    (name,) = names
    stored = module.matrix(name, ("U8",)).stored
    if stored.nbytes > MAX_STATE:
        raise module.error(name, f"{stored.nbytes} bytes are not a state of bitsandbytes")
    where = f"{stored.name}."
    found = parse_json(module.matrix(name, ("U8",)).all().tobytes(), stored.path, room=ROOM, where=stored.name)
    check(found, OBJECT, path=stored.path, where=stored.name)

    def taken(key: str, type: JsonType) -> Any:
        check(found.get(key), type, path=stored.path, where=where + key)
        return found[key]

    if taken("quant_type", TEXT) != _STATES[name]:
        problem = f"quant_type is {found['quant_type']!r}, the tensor's name says {_STATES[name]!r}"
        raise module.error(name, problem)
    nested = None
    if module.has("weight.nested_absmax") or found.get("nested_offset") is not None:
        nested = taken("nested_blocksize", POSITIVE_WHOLE), np.float32(taken("nested_offset", NUMBER))
    shape = tuple(taken("shape", _SHAPE))
    return _State(_STATES[name], taken("blocksize", _BLOCK), _DTYPES[taken("dtype", _DTYPE)], shape, nested)


def _four_bits(module: Module) -> Tensor:
    state = _state(module)
    count, width = prod(state.shape), state.shape[-1] if state.shape else 1
    weight = module.matrix("weight", _STORAGE)
    size, wanted = weight.stored.shape, _stored_bytes(count, weight.stored.dtype)
    if weight.stored.nbytes != wanted or (size[:1] == (1,) and wanted > DTYPE_BITS[weight.stored.dtype] // 8):
        problem = f"{list(size)} of {weight.stored.dtype} are not the {wanted} bytes, in one column, of {count} weights"
        raise module.error("weight", problem)
    levels = LEVELS[state.kind]
    given = module.sized("weight.quant_map", FLOAT_DTYPES, (len(levels),), state.kind)
    if not np.allclose(float_rows(given.all()[0], given.stored.dtype), levels, rtol=0, atol=_NEAR):
        raise module.error("weight.quant_map", f"its levels are not those of {state.kind}")
    absmax = _absmax(module, state, -(-count // state.size))

    def read(a: int, b: int) -> Bytes:
        first, last = a * width, b * width
        block = first // state.size
        scales = absmax(block, -(-last // state.size))
        if not (finite := np.isfinite(scales)).all():
            bad = int(np.argmin(finite))
            problem = f"the absmax of block {block + bad} is {scales[bad]}"
            raise FormatError(problem, where=weight.where, hint="the checkpoint is damaged: get it again")
        raw = _flat(weight.stored, first // 2, -(-last // 2))
        codes = np.stack([raw >> np.uint8(4), raw & np.uint8(15)], axis=-1).reshape(-1)[first % 2 :][: last - first]
        values = levels[codes]
        values *= np.repeat(scales, state.size)[first - block * state.size :][: last - first]
        return values.reshape(b - a, width).view(np.uint8)

    floats = Tensor(f"{module.name}.weight", Role.OTHER, None, state.shape, F32, read, weight.where)
    return cast(floats, BY_NAME[state.dtype])


def _stored_bytes(count: int, dtype: str) -> int:
    """Bytes of the packed weights: half a byte each, a whole number of the storage's values."""
    item, pairs = DTYPE_BITS[dtype] // 8, (count + 1) // 2
    return -(-pairs // item) * item


def _flat(stored: StoredTensor, a: int, b: int) -> Bytes:
    """Bytes a to b of a tensor's data: uint8 [b-a]."""
    row = (stored.shape[-1] if stored.shape else 1) * DTYPE_BITS[stored.dtype] // 8
    return stored.rows(a // row, -(-b // row)).reshape(-1)[a % row :][: b - a]


def _absmax(module: Module, state: _State, n_blocks: int) -> Callable[[int, int], NDArray[np.float32]]:
    """Return ``absmax(a, b)``, of blocks a to b: float32 [b-a]."""
    name, why = "weight.absmax", "the state"
    if state.nested is None:
        plain = module.sized(name, FLOAT_DTYPES, (n_blocks,), why)
        return lambda a, b: float_rows(plain.columns(a, b)[:, 0], plain.stored.dtype)
    every, offset = state.nested
    codes = module.sized(name, ("U8",), (n_blocks,), why)
    outer = _vector(module.sized("weight.nested_absmax", FLOAT_DTYPES, (-(-n_blocks // every),), why))
    table = _vector(module.sized("weight.nested_quant_map", FLOAT_DTYPES, (256,), "bytes"))
    return lambda a, b: table[codes.columns(a, b)[:, 0]] * outer[np.arange(a, b) // every] + offset


def _vector(matrix: Matrix) -> NDArray[np.float32]:
    return float_rows(matrix.all().reshape(-1), matrix.stored.dtype)


def _int8(module: Module) -> IntegerGrid | tuple[Tensor, str]:
    weight = module.matrix("weight", ("I8",))
    if len(weight.stored.shape) != 2:
        raise module.error("weight", f"its shape {list(weight.stored.shape)} is not that of a matrix")
    if module.has("weight_format") and module.matrix("weight_format", ("U8",)).all().any():
        raise module.error(
            "weight_format", "its rows are in another order", "bitsandbytes itself reads 'row' (0) alone"
        )
    n_out, width = weight.shape
    stored = module.matrix("SCB", FLOAT_DTYPES)
    if stored.stored.shape not in ((n_out,), (n_out, 1)):
        raise module.error("SCB", f"{list(stored.stored.shape)} scales for {n_out} rows")
    scales = _vector(stored)
    if not np.isfinite(scales).all():
        problem = f"the scale of row {int(np.argmin(np.isfinite(scales)))} is not finite"
        raise module.error("SCB", problem, "the checkpoint is damaged: get it again")
    name, shape = f"{module.name}.weight", (n_out, width)
    steps = (scales / np.float32(127)).astype(np.float16).astype(np.float32)
    if (steps * np.float32(127) == scales).all() and width % 32 == 0:  # 127 times a half is a float, exactly
        return IntegerGrid(
            name, weight.where, shape, 8, np.zeros(width, np.int32), 1,
            lambda a, b: weight.rows(a, b).view(np.uint8) ^ np.uint8(128),
            lambda a, b: np.full((b - a, 1), 128, np.int16),
            lambda a, b: steps[a:b, None],
            half_scales=True,
        )  # fmt: skip

    def read(a: int, b: int) -> Bytes:
        values = weight.rows(a, b).astype(np.float32)
        values *= scales[a:b, None]
        values *= _INT8_STEP
        return values.view(np.uint8)

    return Tensor(name, Role.OTHER, None, shape, F32, read, weight.where), "scales / 127 that are not halves"
