"""Files made to fill the memory: a reader takes no more than the file's size and 64 MB, refused or not."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from attacks import readers, samples
from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.wire import encode_string
from quantmill.formats.json_text import read_json

ROOM = 64 << 20


def gguf(n_keys: int = 0, body: bytes = b"", n_tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + body


def key(type: int, value: bytes) -> bytes:
    return encode_string("k") + struct.pack("<I", type) + value


def array(item: int, count: int, items: bytes) -> bytes:
    return key(9, struct.pack("<IQ", item, count) + items)


def many_keys(n: int) -> bytes:
    return b"".join(struct.pack("<Q6sIB", 6, b"%06d" % i, 0, 1) for i in range(n))


def many_tensors(n: int) -> bytes:
    return b"".join(struct.pack("<Q6sIIQ", 6, b"%06d" % i, 0, 0, i * 32) for i in range(n))


def string(text: str) -> bytes:
    return key(8, encode_string(text))


GGUF: dict[str, Callable[[], bytes]] = {
    "short strings": lambda: gguf(1, array(8, 1_500_000, struct.pack("<Q3s", 3, b"abc") * 1_500_000)),
    "empty arrays": lambda: gguf(1, array(9, 500_000, struct.pack("<IQ", 0, 0) * 500_000)),
    "keys": lambda: gguf(200_000, many_keys(200_000)),
    "tensors": lambda: gguf(0, many_tensors(100_000) + bytes(32 * 100_000), 100_000),
    "a long text with one wide character": lambda: gguf(1, string("a" * 60_000_000 + "\U0001f600")),
    "a long text that is not UTF-8": lambda: gguf(1, key(8, struct.pack("<Q", 30_000_000) + b"\xff" * 30_000_000)),
    "a long text": lambda: gguf(1, string("a" * 60_000_000)),
    "a long array": lambda: gguf(1, array(4, 20_000_000, bytes(80_000_000))),
    "an array of bools": lambda: gguf(1, array(7, 80_000_000, b"\x02" * 80_000_000)),
    "a key of 40 MB": lambda: gguf(1, encode_string("k" * 40_000_000) + struct.pack("<IB", 0, 1)),
}
READ = {"a long text", "a long array", "an array of bools"}
SLOW = {"short strings", "keys", "tensors", "ggml: tokens"}  # tracemalloc looks at every object of theirs
OTHERS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "dat: entries": ("imatrix", lambda: samples.dat_bytes([str(i) for i in range(200_000)], 1)),
    "dat: a long name": ("imatrix", lambda: samples.dat_bytes(["x" * 40_000_000], 1)),
    "imatrix: counts": ("imatrix", lambda: samples.imatrix_bytes(["x"], 1, 10_000_000)),
    "ggml: tokens": ("ggml", lambda: samples.ggml_bytes()[:8] + struct.pack("<7I", 500_000, 32, 32, 2, 1, 16, 0)
                     + struct.pack("<I1sf", 1, b"a", 0.0) * 500_000),
    "safetensors: lists": ("safetensors", lambda: headed(b'{"a":[' + b"[]," * 2_000_000 + b"[]]}")),
    "safetensors: objects": ("safetensors", lambda: headed(b'{"a":[' + b'{"b":0},' * 1_000_000 + b"0]}")),
    "safetensors: a wide text": ("safetensors", lambda: headed(json.dumps({"a": "x" * 30_000_000 + "😀"}).encode())),
}  # fmt: skip


def slowly(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


def headed(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def peak(read: Callable[[], object]) -> tuple[int, bool]:
    """Bytes taken at most, and whether it was read."""
    tracemalloc.start()
    try:
        read()
        done = True
    except FormatError:
        done = False
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return most, done


@pytest.mark.parametrize("name", slowly(GGUF))
def test_gguf(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(GGUF[name]())
    most, done = peak(lambda: read_gguf(path))
    assert most < path.stat().st_size + ROOM
    assert done == (name in READ)


@pytest.mark.parametrize("name", slowly(OTHERS))
def test_other_formats(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    reader, data = OTHERS[name]
    path.write_bytes(data())
    most, done = peak(lambda: readers.FILES[reader](path))
    assert most < path.stat().st_size + ROOM
    assert not done


@pytest.mark.parametrize("text", [b"[]," * 1_500_000 + b"[]", b'{"a":1},' * 500_000 + b"1", b'"ab",' * 900_000 + b"1"])
def test_index(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(b'{"weight_map": [' + text + b"]}")
    most, _ = peak(lambda: read_json(path))
    assert most < path.stat().st_size + ROOM


@pytest.mark.slow
def test_what_is_as_large_as_its_file_is_read(tmp_path: Path) -> None:
    """The other side: GPT-4o's 200,000 tokens and 446,000 merges in a file of nothing else."""
    path = tmp_path / "x"
    tokens = b"".join(encode_string(f"Ġtoken{i:x}") for i in range(200_000))
    merges = b"".join(encode_string(f"Ġ {i:x}") for i in range(446_000))
    body = array(8, 200_000, tokens) + encode_string("m") + struct.pack("<IIQ", 9, 8, 446_000) + merges
    path.write_bytes(gguf(2, body))
    most, done = peak(lambda: read_gguf(path))
    assert done
    assert most < path.stat().st_size + ROOM
