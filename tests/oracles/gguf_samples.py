"""Small files of every kind of value and every type of tensor."""

from __future__ import annotations

import numpy as np

from quantmill.formats.gguf.names import parse_name
from quantmill.formats.ir import Bytes, Tensor, Value, ValueType
from quantmill.formats.qtypes import BY_NAME, QType

V = ValueType

METADATA = {
    "general.architecture": Value(V.STRING, "llama"),
    "general.name": Value(V.STRING, "tiny"),
    "a.u8": Value(V.UINT8, 255),
    "a.i8": Value(V.INT8, -128),
    "a.u16": Value(V.UINT16, 65535),
    "a.i16": Value(V.INT16, -32768),
    "a.u32": Value(V.UINT32, 2**32 - 1),
    "a.i32": Value(V.INT32, -(2**31)),
    "a.u64": Value(V.UINT64, 2**64 - 1),
    "a.i64": Value(V.INT64, -(2**63)),
    "a.f32": Value(V.FLOAT32, 0.15625),
    "a.f64": Value(V.FLOAT64, 0.1),
    "a.bool": Value(V.BOOL, True),
    "a.strings": Value(V.ARRAY, ("", "ä", "▁the", "x" * 300), V.STRING),
    "a.ints": Value(V.ARRAY, np.array([1, -2, 3], np.int32), V.INT32),
    "a.floats": Value(V.ARRAY, np.array([1.5, -0.0], np.float32), V.FLOAT32),
    "a.bools": Value(V.ARRAY, np.array([True, False, True]), V.BOOL),
    "tokenizer.ggml.tokens": Value(V.ARRAY, ("<unk>", "<s>", "</s>", "a"), V.STRING),
    "tokenizer.ggml.bos_token_id": Value(V.UINT32, 1),
    "tokenizer.ggml.eos_token_id": Value(V.UINT32, 2),
}


def array_tensor(name: str, shape: tuple[int, ...], qtype: QType, raw: Bytes) -> Tensor:
    role, layer = parse_name(name)
    rows = raw.reshape(-1, qtype.row_bytes(shape[-1] if shape else 1))
    return Tensor(name, role, layer, shape, qtype, lambda a, b: rows[a:b])


def every_type(seed: int = 0) -> tuple[Tensor, ...]:
    """One tensor of each type, random bytes: reading and writing must not care what they mean."""
    random = np.random.default_rng(seed)
    tensors = []
    for name, qtype in BY_NAME.items():
        shape = (3, qtype.block_size * 2)
        raw = random.integers(0, 256, 3 * qtype.row_bytes(shape[1]), np.uint8)
        tensors.append(array_tensor(f"blk.0.{name.lower()}.weight", shape, qtype, raw))
    return tuple(tensors)


def without_official_gaps(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensors whose types gguf-py knows. It takes Q8_1's block for 40 bytes; ggml's has 36 (ggml-common.h)."""
    import gguf

    known = {t.value for t in gguf.GGMLQuantizationType} - {BY_NAME["Q8_1"].id}
    return tuple(t for t in tensors if t.qtype.id in known)
