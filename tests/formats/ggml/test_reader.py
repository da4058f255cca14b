"""Reading GGML files, from bytes laid out by hand."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantmill.formats.errors import FormatError, TokenizerError, UnmatchedTensor
from quantmill.formats.ggml.reader import GGMLSettings, read_ggml
from quantmill.formats.ggml.wire import Hparams, n_ff

# 2 heads of 2 that share one of keys and values, one layer; n_ff = 10 is two thirds of 16, rounded up to n_mult = 5.
HEADER = {"n_vocab": 260, "n_embd": 4, "n_mult": 5, "n_head": 2, "n_layer": 1, "n_rot": 2, "ftype": 0}
SHAPES = {
    "tok_embeddings": (260, 4), "norm": (4,), "output": (260, 4), "layers.0.attention_norm": (4,),
    "layers.0.attention.wq": (4, 4), "layers.0.attention.wk": (2, 4), "layers.0.attention.wv": (2, 4),
    "layers.0.attention.wo": (4, 4), "layers.0.ffn_norm": (4,), "layers.0.feed_forward.w1": (10, 4),
    "layers.0.feed_forward.w2": (4, 10), "layers.0.feed_forward.w3": (10, 4),
}  # fmt: skip
WORDS = [" ⁇ ".encode(), b"", b"", *(bytes([i]) for i in range(256)), b" the"]


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape), dtype="<f4").reshape(shape) + len(name)


def build(
    *,
    magic: bytes = b"tjgg",
    version: int = 3,
    words: list[bytes] = WORDS,
    shapes: dict[str, tuple[int, ...]] = SHAPES,
    type: int = 0,
    **changes: int,
) -> bytes:
    """A file's bytes; tensors of more than one axis in F32 unless their data type says F16 (1)."""
    out = bytearray(magic + struct.pack("<I7I", version, *(HEADER | changes).values()))
    for i, word in enumerate(words):
        out += struct.pack("<I", len(word)) + word + struct.pack("<f", -float(i))
    for name, shape in shapes.items():
        kind = type if len(shape) > 1 else 0
        full = f"{name}.weight".encode()
        out += struct.pack("<III", len(shape), len(full), kind) + struct.pack(f"<{len(shape)}I", *shape[::-1]) + full
        out += bytes(-len(out) % 32)
        out += values(name, shape).astype("<f2" if kind == 1 else "<f4").tobytes()
    return bytes(out)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(**changes: object) -> Path:
        path = tmp_path / "llama.ggmlv3.bin"
        path.write_bytes(build(**changes))  # type: ignore[arg-type]
        return path

    return save


@pytest.mark.parametrize(("version", "type"), [(1, 0), (1, 1), (3, 0), (3, 1)])
def test_by_hand(saved: Callable[..., Path], version: int, type: int) -> None:
    lines: list[str] = []
    model = read_ggml(saved(version=version, type=type, ftype=type), warn=lines.append)
    assert model.hparam("attention.head_count") == 2
    assert model.hparam("attention.head_count_kv") == 1
    assert model.hparam("feed_forward_length") == 10
    assert model.hparam("block_count") == 1
    assert model.get("general.file_type") == type
    tensors = {tensor.name: tensor for tensor in model}
    assert len(tensors) == len(SHAPES)
    pairs = {
        "token_embd": "tok_embeddings", "output_norm": "norm", "blk.0.attn_k": "layers.0.attention.wk",
        "blk.0.ffn_gate": "layers.0.feed_forward.w1", "blk.0.ffn_down": "layers.0.feed_forward.w2",
        "blk.0.ffn_up": "layers.0.feed_forward.w3", "blk.0.attn_output": "layers.0.attention.wo",
    }  # fmt: skip
    for new, old in pairs.items():
        tensor = tensors[f"{new}.weight"]
        assert tensor.shape == SHAPES[old]
        dtype = "<f2" if tensor.qtype.name == "F16" else "<f4"
        got = tensor.rows(0, tensor.n_rows).view(dtype).reshape(tensor.shape)
        assert np.array_equal(got, values(old, SHAPES[old]).astype(dtype)), new
    for option in ("--eps 1e-05", "--rope-base 10000", "--context 4096"):
        assert sum(option in line for line in lines) == 1
    assert len(lines) == 3


def test_what_is_given_is_not_assumed(saved: Callable[..., Path]) -> None:
    lines: list[str] = []
    settings = GGMLSettings(gqa=2, eps=1e-6, rope_base=1e6, context=123)
    model = read_ggml(saved(), settings, warn=lines.append)
    assert not lines
    assert model.hparam("context_length") == 123
    assert model.hparam("rope.freq_base") == 1e6
    assert model.hparam("attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)


def test_vocabulary(saved: Callable[..., Path]) -> None:
    model = read_ggml(saved())
    tokens = model.get("tokenizer.ggml.tokens")
    assert tokens[:5] == ("<unk>", "<s>", "</s>", "<0x00>", "<0x01>")
    assert tokens[258:] == ("<0xFF>", "▁the")
    assert model.get("tokenizer.ggml.token_type")[[0, 1, 2, 3, 258, 259]].tolist() == [2, 3, 3, 6, 6, 1]
    assert model.get("tokenizer.ggml.scores")[259] == -259
    assert [model.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "unknown")] == [1, 2, 0]


def test_another_vocabulary_needs_a_folder(saved: Callable[..., Path], checkpoint: Path) -> None:
    words = [b"word%d" % i for i in range(260)]
    with pytest.raises(TokenizerError, match="--vocab-dir"):
        read_ggml(saved(words=words))
    shapes = SHAPES | {"tok_embeddings": (900, 4), "output": (900, 4)}
    path = saved(words=[*words, *[b"more"] * 640], shapes=shapes, n_vocab=900)
    model = read_ggml(path, GGMLSettings(vocab_dir=checkpoint))
    assert model.get("tokenizer.ggml.tokens")[3] == "<0x00>"


def test_every_truncation_is_an_error(saved: Callable[..., Path]) -> None:
    path = saved()
    read_ggml(path)
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(FormatError):
            read_ggml(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, "version 2 has blocks of another layout"),
        ({"version": 9}, "version 9 is unknown"),
        ({"magic": b"lmgg"}, "without version"),
        ({"magic": b"fmgg"}, "ggmf"),
        ({"magic": b"ccgg"}, "Falcon"),
        ({"magic": b"algg"}, "LoRA"),
        ({"magic": b"GGUF"}, "begins with"),
        ({"n_layer": 0}, "n_layer is 0"),
        ({"n_layer": 2**32 - 1}, "blk.1.attn_norm.weight is missing"),
        ({"n_vocab": 2**32 - 1}, "truncated"),
        ({"n_head": 3}, "3 heads of 2 do not make 4"),
        ({"n_mult": 7}, r"its shape is \[10, 4\], the header makes it \[14, 4\]"),
        ({"shapes": SHAPES | {"layers.0.attention.wk": (3, 4)}}, "do not divide"),
        ({"shapes": SHAPES | {"layers.1.ffn_norm": (4,)}}, "beyond the header's 1 layers"),
        ({"version": 1, "type": 2}, "type Q4_0 is not read from ggjt version 1"),
        ({"type": 99}, "type 99"),
        ({"type": 12}, "not a multiple of Q4_K"),
    ],
)
def test_refusals(saved: Callable[..., Path], changes: dict[str, object], words: str) -> None:
    path = saved(**changes)
    with pytest.raises(FormatError, match=words) as error:
        read_ggml(path)
    assert str(path) in str(error.value)


def test_another_architecture(saved: Callable[..., Path]) -> None:
    with pytest.raises(UnmatchedTensor, match="word_embeddings"):
        read_ggml(saved(shapes={"transformer.word_embeddings": (4, 4)}))


@pytest.mark.parametrize("gqa", [3, 1, 4])
def test_impossible_gqa(saved: Callable[..., Path], gqa: int) -> None:
    with pytest.raises(FormatError, match="--gqa"):
        read_ggml(saved(), GGMLSettings(gqa=gqa))


def test_a_rope_buffer_is_passed_over(saved: Callable[..., Path]) -> None:
    """With a word, unless it is what clients compute."""
    path = saved(shapes=SHAPES | {"rope.freqs": (1,)})
    for value, wrong in ((10.0, 1), (1.0, 0)):
        path.write_bytes(path.read_bytes()[:-4] + struct.pack("<f", value))
        said: list[str] = []
        assert len(read_ggml(path, warn=said.append).tensors) == len(SHAPES)
        line = f"{path}: rope.freqs.weight is not what the rotary base makes it; ignored, as clients do (--rope-base)"
        assert said.count(line) == wrong


def test_n_ff_of_the_published_models() -> None:
    """Llama 2 7B, 13B and 70B, whose 1.3 the header does not hold."""
    assert n_ff(Hparams(32000, 4096, 256, 32, 32, 128, 1), 1) == 11008
    assert n_ff(Hparams(32000, 5120, 256, 40, 40, 128, 1), 1) == 13824
    assert n_ff(Hparams(32000, 8192, 4096, 64, 80, 128, 1), 8) == 28672
