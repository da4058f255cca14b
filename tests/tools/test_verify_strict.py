"""``quantmill verify --strict``: a sound file passes, and each thing that a reader forgives is told."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.samples import gguf_bytes, vocabulary
from quantmill.formats.ir import Value, ValueType
from quantmill.formats.qtypes import BY_NAME

V = ValueType
TOKENS = ("<s>", "▁a", "▁b")
F32, Q8_0 = BY_NAME["F32"], BY_NAME["Q8_0"]
SHAPES = [("token_embd.weight", (3, 32), F32), ("blk.0.attn_q.weight", (2, 32), F32), ("output_norm.weight", (4,), F32)]
KEYS = {
    "general.architecture": Value(V.STRING, "llama"),
    "llama.context_length": Value(V.UINT32, 32),
    "llama.block_count": Value(V.UINT32, 1),
    "llama.embedding_length": Value(V.UINT32, 32),
    "general.file_type": Value(V.UINT32, 0),
    **vocabulary(TOKENS),
}


def sound(changes: dict[str, Value | None] | None = None, shapes: Any = SHAPES) -> bytes:
    keys = {key: value for key, value in (KEYS | (changes or {})).items() if value is not None}
    return gguf_bytes(keys, shapes)


def test_sound(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(sound())
    done = cli("verify", path, "--strict")
    assert (done.code, done.err) == (0, "")
    assert "3 tensors, all well" in done.out


def test_a_split_file_is_sound(cli: Callable[..., Any], tmp_path: Path) -> None:
    """Later shards have no architecture and no vocabulary of their own."""
    (tmp_path / "x.gguf").write_bytes(sound())
    assert cli("split", tmp_path / "x.gguf", tmp_path / "s", "--max-tensors", 1).code == 0
    done = cli("verify", tmp_path / "s-00002-of-00003.gguf", "--strict")
    assert (done.code, done.err) == (0, "")


def test_a_published_file_is_sound(cli: Callable[..., Any], smollm2_q4_1: Path) -> None:
    done = cli("verify", smollm2_q4_1, "--strict", "--quiet")
    assert (done.code, done.err) == (0, "")


def ints(*numbers: int) -> Value:
    return Value(V.ARRAY, np.array(numbers, np.int32), V.INT32)


def texts(*items: str) -> Value:
    return Value(V.ARRAY, items, V.STRING)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"llama.block_count": Value(V.STRING, "1")}, "'llama.block_count': is string; must be uint32"),
        ({"llama.block_count": Value(V.UINT32, 0)}, "'llama.block_count': is 0; there is a blk.0"),
        ({"llama.embedding_length": Value(V.UINT32, 64)}, "rows of 32; llama.embedding_length is 64"),
        ({"general.file_type": Value(V.UINT32, 999)}, "999 is not the number of a level"),
        ({"general.architecture": None}, "'general.architecture': is missing"),
        ({"llama.rope.freq_base": Value(V.FLOAT32, float("nan"))}, "'llama.rope.freq_base': is nan"),
        ({"general.name": Value(V.STRING, "\udcff")}, "'general.name': is not UTF-8"),
        ({"not a key": Value(V.UINT8, 1)}, "'not a key': is not made of words joined by dots"),
        ({"tokenizer.ggml.token_type": ints(1, 1)}, "2 entries for 3 tokens"),
        ({"tokenizer.ggml.token_type": ints(1, 1, 9)}, "types of 1 to 9; 1 to 6 are known"),
        ({"tokenizer.ggml.token_type": ints(3, 1, 6)}, "1 tokens are bytes"),
        ({"tokenizer.ggml.tokens": texts("<s>", "a", "a")}, "1 tokens occur twice"),
        ({"tokenizer.ggml.merges": texts("ab")}, "entry 0, 'ab', is not a pair"),
        ({"tokenizer.ggml.scores": None}, "a llama tokenizer needs scores"),
        ({"tokenizer.ggml.bos_token_id": Value(V.UINT32, 7)}, "7 is not one of 3 tokens"),
        ({"tokenizer.ggml.scores": Value(V.ARRAY, np.array([0, np.nan, 1], np.float32), V.FLOAT32)}, "entry 1 is nan"),
    ],
)
def test_metadata(cli: Callable[..., Any], tmp_path: Path, changes: dict[str, Value | None], words: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(sound(changes))
    done = cli("verify", path, "--strict")
    assert done.code == 2
    lines = [line for line in done.err.splitlines() if words in line]
    assert len(lines) == 1, done.err
    assert lines[0].startswith(f"{path}: ")
    assert lines[0].endswith(")")


def after(data: bytes) -> bytes:
    return data + bytes(32)


def cut(data: bytes) -> bytes:
    return data[:-16]  # output_norm has 16 bytes and as many of padding


def padding(data: bytes) -> bytes:
    return data[:-1] + b"\x01"


def not_finite(data: bytes) -> bytes:
    return data[:-32] + struct.pack("<f", float("inf")) + data[-28:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (after, "32 bytes after the end of the last tensor"),
        (cut, "the last tensor's padding ends at byte"),
        (padding, "padding is 1, not 0"),
        (not_finite, "tensor 'output_norm.weight': row 0, block 0: its x is not finite"),
    ],
)
def test_structure(cli: Callable[..., Any], tmp_path: Path, change: Callable[[bytes], bytes], words: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(change(sound()))
    done = cli("verify", path, "--strict")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert words in done.err


def test_a_hole_and_a_long_name(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    data = sound(shapes=[*SHAPES[:2], ("n" * 64, (8,), F32)])
    path.write_bytes(data)
    done = cli("verify", path, "--strict")
    assert done.code == 2
    assert "a name must have 1 to 63 bytes" in done.err
    last = struct.pack("<Q", 3 * 32 * 4 + 2 * 32 * 4)
    assert data.count(last) >= 1
    at = data.rindex(last)
    path.write_bytes(data[:at] + struct.pack("<Q", 672) + data[at + 8 :] + bytes(32))
    done = cli("verify", path, "--strict")
    assert "must start at" in done.err


def test_a_scale(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    data = bytearray(sound(shapes=[("token_embd.weight", (3, 32), Q8_0)]))
    start = len(data) - 128  # three blocks of 34 bytes and padding
    for block in range(3):
        data[start + 34 * block : start + 34 * block + 2] = b"\x00\x3c"
    path.write_bytes(data)
    assert cli("verify", path, "--strict").code == 0
    data[start + 34 : start + 36] = b"\x00\x7e"
    path.write_bytes(data)
    done = cli("verify", path, "--strict")
    assert done.code == 2
    assert "row 1, block 0: its d is not finite" in done.err


def test_only_gguf(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "--strict is for GGUF files" in refused("verify", tmp_path, "--strict")
