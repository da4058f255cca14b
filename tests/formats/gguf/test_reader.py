from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from oracles.gguf_samples import without_official_gaps
from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.reader import read_gguf, read_header
from quantmill.formats.gguf.wire import encode_string, encode_value
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.ir import Model, Value, ValueType

V = ValueType


def key(name: str, value: Value) -> bytes:
    return encode_string(name) + encode_value(value)


def info(name: str = "t", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    dims = b"".join(struct.pack("<Q", n) for n in reversed(shape))
    return encode_string(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", kind, offset)


def file(
    keys: list[bytes], infos: list[bytes], data: bytes = bytes(64), version: int = 3, alignment: int = 32
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(infos), len(keys)) + b"".join(keys + infos)
    return head + bytes(-len(head) % alignment) + data


def test_the_official_writers_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_token_list(["a", "▁b"])
    weights = np.arange(64, dtype=np.float16).reshape(2, 32)
    writer.add_tensor("token_embd.weight", weights)
    writer.add_tensor("blk.1.attn_q.weight", gguf.quantize(weights, gguf.GGMLQuantizationType.Q8_0),
                      raw_dtype=gguf.GGMLQuantizationType.Q8_0)  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = read_gguf(path)
    assert (model.arch, model.hparam("context_length")) == ("llama", 128)
    assert model.get("tokenizer.ggml.tokens") == ("a", "▁b")
    embd, q = model.tensors
    assert (embd.shape, embd.qtype.name, q.layer, q.qtype.name) == ((2, 32), "F16", 1, "Q8_0")
    np.testing.assert_array_equal(embd.rows(1, 2).view(np.float16), weights[1:])
    np.testing.assert_array_equal(q.rows(0, 2), gguf.quantize(weights, gguf.GGMLQuantizationType.Q8_0))


def test_the_official_reader_reads_ours(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    known = Model("llama", model.metadata, without_official_gaps(model.tensors), model.path)
    write_gguf(path, known)
    reader = gguf.GGUFReader(path)
    for tensor, theirs in zip(known.tensors, reader.tensors, strict=True):
        assert tensor.name == theirs.name
        assert tensor.shape == tuple(reversed(theirs.shape.tolist()))
        np.testing.assert_array_equal(theirs.data.view(np.uint8).reshape(-1), tensor.rows(0, 3).reshape(-1))
    for name, value in known.metadata.items():
        contents = reader.fields[name].contents()
        assert contents == (list(value.data) if value.item is not None else value.data)


def test_a_version_2_file_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    weights = np.arange(6, dtype="<f4")
    keys = [key("general.architecture", Value(V.STRING, "llama"))]
    path.write_bytes(file(keys, [info("output.weight", (2, 3))], weights.tobytes(), version=2))
    header = read_header(path)
    assert (header.version, header.byteorder, header.alignment) == (2, "little", 32)
    (tensor,) = read_gguf(path).tensors
    np.testing.assert_array_equal(tensor.rows(0, 2).view("<f4"), weights.reshape(2, 3))
    with pytest.raises(ValueError, match="read-only"):
        tensor.rows(0, 1)[0, 0] = 1


def test_truncated_at_every_byte(model: Model, tmp_path: Path) -> None:
    """Never anything but a FormatError, and always one: the last tensor's bytes end the file."""
    path = tmp_path / "m.gguf"
    small = Model("llama", model.metadata, model.tensors[:2], model.path)
    plan = write_gguf(path, small)
    end = plan.offsets[-1] + small.tensors[-1].nbytes
    whole = path.read_bytes()
    for n in range(end):
        path.write_bytes(whole[:n])
        with pytest.raises(FormatError) as caught:
            read_gguf(path)
        assert str(path) in str(caught.value)
    path.write_bytes(whole[:end])  # padding after the last tensor may be missing
    assert len(read_gguf(path).tensors) == 2


def test_every_bit_of_a_header_flipped(model: Model, tmp_path: Path) -> None:
    """A damaged header is read or refused; no other error, no endless loop, no huge allocation."""
    path = tmp_path / "m.gguf"
    plan = write_gguf(path, Model("llama", model.metadata, model.tensors[:2], model.path))
    whole = path.read_bytes()
    refused = 0
    for i in range(0, len(plan.header) * 8, 3):
        damaged = bytearray(whole)
        damaged[i // 8] ^= 1 << i % 8
        path.write_bytes(damaged)
        try:
            read_gguf(path)
        except FormatError:
            refused += 1
    assert refused > 200


def test_a_truncated_file_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(file([], [info("output.weight", (32,))], bytes(100)))
    with pytest.raises(FormatError, match=r"tensor 'output.weight', byte 96: truncated: .* 196 bytes, 28 are missing"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "empty"),
        (b"GG", "truncated: only 2 bytes"),
        (b"tjgg\x03\0\0\0", "ggjt"),
        (b"PK\x03\x04....", "zip archive"),
        (b"\x80\x02}q", "pickle"),
        (struct.pack("<Q", 40) + b'{"__metadata__":{}}', "safetensors"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"/annex/objects/SHA256E-s9--12.gguf\n", "git annex get"),
        (b"../../blobs/0123abcd", "the text of a link"),
        (b"<!doctype html>", "web page"),
        (b"\x7fELF....", r"begins with b'\\x7fELF'"),
        (b"GGUF" + struct.pack("<IIII", 1, 0, 0, 0), "version 1 .* no longer"),
        (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "version 4 is unknown"),
        (b"GGUF" + struct.pack("<IQQ", 0, 0, 0), "version 0 is unknown"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 0), "announces"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**62), "announces"),
        (file([key("", Value(V.UINT8, 1)) + bytes(9)], []), "key is empty"),
        (file([key("a", Value(V.UINT8, 1))] * 2, []), "second 'a'"),
        (file([encode_string("a") + struct.pack("<I", 13)], []), "type has the id 13"),
        (file([key("general.alignment", Value(V.UINT32, 24))], []), "power of two"),
        (file([key("general.alignment", Value(V.UINT32, 0))], []), "power of two"),
        (file([key("general.alignment", Value(V.UINT64, 32))], []), "must be a uint32"),
        (file([], [info(shape=(1, 1, 1, 1, 1))]), "5 axes"),
        (file([], [info(shape=(2**32, 2**32))]), "overflows"),
        (file([], [info(shape=(0, 2**63))]), "overflows"),
        (file([], [info(kind=99)]), "id 99"),
        (file([], [info(kind=4)]), "Q4_2 was removed"),
        (file([], [info(kind=31)]), "Q4_0_4_4 was removed"),
        (file([], [info(kind=12, shape=(100,))]), "not a multiple of Q4_K's block of 256"),
        (file([], [info(offset=8)]), "not aligned"),
        (file([], [info("a"), info("b")]), "overlaps a"),
        (file([], [info("a"), info("a", offset=32)]), "second tensor"),
        (file([], [info(offset=2**40)]), "missing"),
        (file([], [info(offset=2**64 - 32)]), "missing"),
        (file([key("split.count", Value(V.UINT16, 3))], []), "no split.no"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, raw: bytes, problem: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=problem) as caught:
        read_gguf(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_gaps_and_any_order_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    data = np.arange(32, dtype="<f4").tobytes()
    path.write_bytes(file([], [info("b", offset=96), info("a", offset=32), info("none", (0, 4), offset=32)], data))
    b, a, none = read_gguf(path).tensors
    assert b.rows(0, 1).view("<f4").tolist() == [[24, 25, 26, 27]]
    assert a.rows(0, 1).view("<f4").tolist() == [[8, 9, 10, 11]]
    assert none.rows(0, 0).shape == (0, 16)


def test_a_large_vocabulary_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    tokens = Value(V.ARRAY, tuple(f"token{i}" for i in range(128_256)), V.STRING)
    path.write_bytes(file([key("tokenizer.ggml.tokens", tokens)], []))
    start = time.perf_counter()
    header = read_header(path)
    assert time.perf_counter() - start < 2  # 0.05 s on an idle core
    assert header.metadata["tokenizer.ggml.tokens"] == tokens


def test_smollm2_is_rewritten_to_the_same_bytes(
    smollm2_q4_1: Path, tmp_path: Path, equal: Callable[[Model, Model], None]
) -> None:
    model = read_gguf(smollm2_q4_1)
    assert (model.arch, len(model.tensors)) == ("llama", 272)
    version = read_header(smollm2_q4_1).version
    write_gguf(tmp_path / "again.gguf", model, version=version)
    assert (tmp_path / "again.gguf").read_bytes() == smollm2_q4_1.read_bytes()
