"""The file that the goldens of splitting were made from: every block of it spelt by arithmetic, no random source."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oracles.gguf_samples import METADATA, array_tensor
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.ir import Model
from quantmill.formats.qtypes import BY_NAME

# name, shape, type: sizes that are and are not multiples of the padding, and one far larger than the others
TENSORS = (
    ("token_embd.weight", (5, 256), "Q4_K"),
    ("blk.0.attn_norm.weight", (33,), "F32"),
    ("blk.0.attn_q.weight", (7, 64), "Q8_0"),
    ("blk.0.ffn_gate_exps.weight", (2, 3, 32), "Q4_0"),
    ("blk.0.ffn_down.weight", (40, 256), "F16"),
    ("blk.1.attn_norm.weight", (33,), "F32"),
    ("blk.1.attn_q.weight", (7, 64), "Q5_1"),
    ("blk.1.ffn_down.weight", (3, 17), "BF16"),
    ("output_norm.weight", (1,), "F32"),
    ("output.weight", (5, 256), "Q6_K"),
)


def split_model() -> Model:
    tensors = []
    for i, (name, shape, type_name) in enumerate(TENSORS):
        qtype = BY_NAME[type_name]
        rows = int(np.prod(shape[:-1], dtype=int))
        raw = (np.arange(rows * qtype.row_bytes(shape[-1])) * 31 + 7 * i & 0x3F).astype(np.uint8)
        tensors.append(array_tensor(name, shape, qtype, raw))
    return Model("llama", METADATA, tuple(tensors), Path("in memory"))


def write_split_source(path: Path, version: int = 3) -> Path:
    write_gguf(path, split_model(), version=version)
    return path
