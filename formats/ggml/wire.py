"""The parts of a GGML file of mid 2023 (``ggjt``): magic, header, names, and the types of each version.

Llama only, little-endian. Magic and version, seven numbers, the vocabulary, then the tensors to the end of the file,
each a description followed by its data, aligned to 32 bytes of the file. Source: llama.cpp as of llama-cpp-python
0.1.78, the last release before GGUF (``llama_file_loader`` and ``llama_model_load_internal`` in llama.cpp).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np

from ..gguf.names import tensor_name
from ..ir import Role

MAGIC = b"tjgg"  # 0x67676a74, little-endian
# Other magics of that time (llama.cpp and its forks): what the file is, and what to give instead.
OTHER_MAGICS = {
    b"lmgg": ("a GGML file without version: early Llama's, or another architecture's", "the original checkpoint"),
    b"fmgg": ("a GGML file of early 2023 (ggmf)", "the original checkpoint"),
    b"algg": ("a LoRA adapter (ggla), not a model", "the model it adapts"),
    b"nsgg": ("a session of llama.cpp (ggsn), not a model", "the model"),
    b"ccgg": ("a Falcon's GGML file (ggcc)", "the original checkpoint"),
}
MAGICS = frozenset({MAGIC, *OTHER_MAGICS})
ALIGNMENT = 32
VERSION = 3

# The types whose blocks are those of today, by version of the file; other blocks of versions 1 and 2 changed later.
TYPES = {
    1: frozenset({"F32", "F16"}),
    3: frozenset(
        {"F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
    ),
}  # fmt: skip

# The old client's defaults for what the file does not store (``llama_context_default_params``).
DEFAULT_EPS = 5e-6
DEFAULT_ROPE_BASE = 10000.0

_GLOBAL = {"tok_embeddings": Role.TOKEN_EMBD, "norm": Role.OUTPUT_NORM, "output": Role.OUTPUT}
_BLOCK = {
    "attention_norm": Role.ATTN_NORM,
    "attention.wq": Role.ATTN_Q,
    "attention.wk": Role.ATTN_K,
    "attention.wv": Role.ATTN_V,
    "attention.wo": Role.ATTN_OUTPUT,
    "ffn_norm": Role.FFN_NORM,
    "feed_forward.w1": Role.FFN_GATE,
    "feed_forward.w2": Role.FFN_DOWN,
    "feed_forward.w3": Role.FFN_UP,
}
_BASE_OF = {role: base for base, role in (_GLOBAL | _BLOCK).items()}
_NAME = re.compile(r"layers\.(\d{1,10})\.(.+)\.weight|(.+)\.weight", re.ASCII)


@dataclass(frozen=True)
class Hparams:
    """The numbers of the header in file order, each a uint32."""

    n_vocab: int
    n_embd: int
    n_mult: int  # n_ff is rounded up to a multiple of it
    n_head: int
    n_layer: int
    n_rot: int  # a head's width
    ftype: int  # numbered as ``general.file_type``

    def encode(self) -> bytes:
        """The bytes of the header's numbers."""
        return struct.pack("<7I", *astuple(self))


def least_n_ff(n_embd: int, n_layer: int, gqa: int) -> int:
    """The width of the feed-forward layers before rounding up: two thirds of 4 n_embd.

    The client takes 80 layers with 8 query heads a key/value head for Llama 2 70B and multiplies by 1.3, in float32.
    """
    raw = 2 * (4 * n_embd) // 3
    return int(np.float32(1.3) * np.float32(raw)) if (n_layer, gqa) == (80, 8) else raw


def n_ff(hparams: Hparams, gqa: int) -> int:
    """The width of the feed-forward layers, which the header stores as the multiple that it is rounded up to."""
    return -(-least_n_ff(hparams.n_embd, hparams.n_layer, gqa) // hparams.n_mult) * hparams.n_mult


def gguf_name(name: str) -> tuple[str, Role, int | None] | None:
    """The GGUF name, role and layer of a tensor, by its name in GGML; None for one that a Llama does not have."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    layer = None if match[1] is None else int(match[1])
    role = _GLOBAL.get(match[3]) if layer is None else _BLOCK.get(match[2])
    return None if role is None else (tensor_name(role, layer), role, layer)


def ggml_name(role: Role, layer: int | None) -> str | None:
    """The name of a tensor in GGML, by its role and layer; None if the format has no such tensor."""
    base = _BASE_OF.get(role)
    if base is None:
        return None
    return f"{base}.weight" if layer is None else f"layers.{layer}.{base}.weight"


def tensor_shapes(
    n_vocab: int, n_embd: int, n_layer: int, n_ff: int, n_kv: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor that a file must hold: its GGUF name and its shape in numpy order.

    Args:
        n_kv: rows of the key and value projections.
    """
    wide = (n_embd, n_embd)
    yield tensor_name(Role.TOKEN_EMBD), (n_vocab, n_embd)
    yield tensor_name(Role.OUTPUT_NORM), (n_embd,)
    yield tensor_name(Role.OUTPUT), (n_vocab, n_embd)
    block = {
        Role.ATTN_NORM: (n_embd,),
        Role.ATTN_Q: wide,
        Role.ATTN_K: (n_kv, n_embd),
        Role.ATTN_V: (n_kv, n_embd),
        Role.ATTN_OUTPUT: wide,
        Role.FFN_NORM: (n_embd,),
        Role.FFN_GATE: (n_ff, n_embd),
        Role.FFN_DOWN: (n_embd, n_ff),
        Role.FFN_UP: (n_ff, n_embd),
    }
    for layer in range(n_layer):
        for role, shape in block.items():
            yield tensor_name(role, layer), shape
