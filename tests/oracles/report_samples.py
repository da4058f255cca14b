"""A model whose report is hard to show: many layers and roles, hostile and endless names, and its importance matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oracles.gguf_samples import array_tensor
from quantmill.formats.gguf.keys import typed
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.imatrix_file import Entry, Imatrix, write_imatrix
from quantmill.formats.ir import Model, Value, ValueType
from quantmill.formats.qtypes import BY_NAME

HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(2)'></style>&amp;\u202e\x00\udc80"
ROLES = (
    "attn_q", "attn_k", "attn_v", "attn_output", "attn_norm", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps",
    "ffn_down_exps", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp", "ssm_in", "ssm_out", "ssm_conv1d",
)  # fmt: skip


def hard_model(path: Path, error: float = 0.0, layers: int = 28) -> Path:
    """Weights that are the same for every ``error`` but for so much noise, more of it from layer to layer."""
    random = np.random.default_rng(5)
    tensors = []
    names = ["token_embd.weight", f"{HOSTILE[:20]}.weight"]
    names += [f"blk.{i}.{role}.weight" for i in range(layers) for role in ROLES]
    f32, q8 = BY_NAME["F32"], BY_NAME["F16"]
    for i, name in enumerate(names):
        shape = (32,) if "norm" in name else (4, 32)
        values = random.standard_normal(shape) + error * (1 + i / 20) * random.standard_normal(shape)
        kind = q8 if "attn" in name and "norm" not in name else f32
        raw = values.astype("<f2" if kind is q8 else "<f4")
        tensors.append(array_tensor(name, shape, kind, raw.view(np.uint8)))
    metadata = {
        "general.architecture": typed("general.architecture", "llama"),
        "general.name": Value(ValueType.STRING, HOSTILE),
        "general.license": Value(ValueType.STRING, "long-" * 60),
        "general.file_type": typed("general.file_type", 1),
        "llama.block_count": typed("llama.block_count", layers),
        "llama.attention.head_count": Value(ValueType.ARRAY, np.array([4, 8], np.int32), ValueType.INT32),
        "tokenizer.chat_template": Value(ValueType.STRING, "{% for x in y %}<|im|>" * 2000),
        HOSTILE: Value(ValueType.STRING, "x" * 99 + HOSTILE),
        "a." + "key_without_end_" * 12: Value(ValueType.FLOAT32, float("nan")),
    }
    write_gguf(path, Model("llama", metadata, tuple(tensors), path))
    return path


def hard_imatrix(path: Path, layers: int = 28) -> Path:
    random = np.random.default_rng(6)
    entries = {
        f"blk.{i}.{role}.weight": Entry(
            (10.0 ** (-i / 8) * random.random(32)).astype(np.float32), np.array([64], np.int64)
        )
        for i in range(layers)
        for role in ROLES
        if "norm" not in role
    }
    write_imatrix(path, Imatrix(entries, ("<b>text</b>",), 1, 64))
    return path
