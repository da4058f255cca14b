"""The memory that llama.cpp needs to run a file: its weights, the key/value cache and the buffers of a batch.

The figures agree with what llama.cpp prints when it loads SmolLM2 and a smaller Llama on the CPU: the cache to the
byte, the buffers within 1 %. The memory of the program itself is not counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats.errors import FormatError
from ...formats.ir import Model

BATCH = 512  # tokens computed at a time, llama.cpp's n_ubatch
_CELL = 256  # the context is rounded up to a multiple of this
_KV_BYTES = 2  # F16, llama.cpp's default
_F32 = 4


def run_memory(model: Model, nbytes: int, ctx: int) -> int:
    """The memory to run a file, in bytes.

    Flash attention is assumed, which llama.cpp uses wherever it can, so no matrix of attention scores is counted. A
    sliding window is counted as the whole context.

    Args:
        nbytes: the file's size.
        ctx: the context in tokens.
    """
    return nbytes + kv_cache(model, ctx) + buffers(model, ctx)


def kv_cache(model: Model, ctx: int) -> int:
    """The size of the keys and values of all layers in F16, in bytes."""
    heads = _per_layer(model, "attention.head_count")
    kv = _per_layer(model, "attention.head_count_kv", heads)
    width = model.number("embedding_length") // max(1, int(heads.max(initial=0)))
    if rank := model.number("attention.kv_lora_rank"):  # latent attention: one vector per token holds both
        each = np.full(model.n_layers, rank + model.number("rope.dimension_count"))
    else:
        both = sum(model.number(f"attention.{side}_length", width) for side in ("key", "value"))
        each = kv * both
    return int(each.sum()) * _cells(ctx) * _KV_BYTES


def buffers(model: Model, ctx: int) -> int:
    """The most that a batch needs at a time, in bytes: the logits, or the feed-forward and the attention mask (F16)."""
    width = model.number("embedding_length")
    vocabulary = next((t.shape[0] for t in model.tensors if t.name == "token_embd.weight"), 0)
    ff = int(_per_layer(model, "feed_forward_length").max(initial=0))
    block = BATCH * _F32 * (3 * ff + 4 * width) + BATCH * _cells(ctx) * 2
    return max(BATCH * _F32 * (vocabulary + 2 * width), block)


def _cells(ctx: int) -> int:
    return -(-ctx // _CELL) * _CELL


def _per_layer(model: Model, suffix: str, default: Any = 0) -> np.ndarray[Any, Any]:
    """A hyper-parameter as int64 [layers]; it may be given once for all layers, or once for each."""
    found = model.numbers(suffix, default)
    if found.size not in (1, model.n_layers):
        problem = f"{found.size} numbers for {model.n_layers} layers"
        raise FormatError(problem, path=model.path, where=f"{model.arch}.{suffix}", hint="the file is damaged")
    return np.broadcast_to(found, (model.n_layers,))
