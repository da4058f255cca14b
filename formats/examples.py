"""A small complete model of random weights, for examples, experiments and tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arrays import model_from_arrays
from .gguf.vocab import tokenizer_to_metadata
from .ir import Model, Tokenizer, TokenType

_LETTERS = "▁etaoinshrdlcumwfgypbvkjxqz."  # after the space by how often English has them


def tiny_llama(*, layers: int = 1, width: int = 256, seed: int = 0) -> Model:
    """Make a Llama of random float16 weights that has everything a checkpoint has, a tokenizer included.

    It can be written in every format, quantized to every level, and run.

    Args:
        layers: number of transformer blocks.
        width: of the embedding, a multiple of 64, and for k-quants of 256; the feed-forward layers are three times as
            wide.
        seed: of the random weights.

    Example:
        >>> from quantmill.formats.examples import tiny_llama
        >>> model = tiny_llama()
        >>> model.arch, model.n_layers, len(model.tensors), sum(tensor.n_weights for tensor in model)
        ('llama', 1, 12, 999680)
    """
    random = np.random.default_rng(seed)
    tokenizer = _tokenizer()
    shapes = {"token_embd": (len(tokenizer.tokens), width)}
    for layer in range(layers):
        shapes |= {f"blk.{layer}.attn_{name}": (width, width) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{layer}.ffn_{name}": (3 * width, width) for name in ("gate", "up")}
        shapes[f"blk.{layer}.ffn_down"] = (width, 3 * width)
    shapes["output"] = shapes["token_embd"]
    arrays: dict[str, NDArray[np.generic]] = {
        f"{name}.weight": (random.standard_normal(shape) / np.sqrt(width)).astype(np.float16)
        for name, shape in shapes.items()
    }
    norms = ["output_norm", *(f"blk.{layer}.{name}" for layer in range(layers) for name in ("attn_norm", "ffn_norm"))]
    arrays |= {f"{name}.weight": np.ones(width, np.float32) for name in norms}
    heads = width // 64
    numbers = {
        "block_count": layers,
        "context_length": 512,
        "embedding_length": width,
        "feed_forward_length": 3 * width,
        "attention.head_count": heads,
        "attention.head_count_kv": heads,
        "rope.freq_base": 10000.0,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "vocab_size": len(tokenizer.tokens),
        "rope.dimension_count": 64,
    }
    metadata = {f"llama.{key}": number for key, number in numbers.items()}
    return model_from_arrays("llama", arrays, {**metadata, **tokenizer_to_metadata(tokenizer)}, path="tiny-llama")


def _tokenizer() -> Tokenizer:
    """SentencePiece's layout: three special tokens, the 256 bytes, then letters, of which text is made."""
    tokens = ("<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), *_LETTERS)
    fixed = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    types = np.array([*fixed, *[TokenType.NORMAL] * len(_LETTERS)], np.int32)
    scores = np.array([*[0.0] * len(fixed), *(-float(i) for i in range(len(_LETTERS)))], np.float32)
    special, flags = {"bos": 1, "eos": 2, "unk": 0}, {"add_bos_token": True, "add_eos_token": False}
    return Tokenizer("llama", "default", tokens, types, scores, special=special, flags=flags)
