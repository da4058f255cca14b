"""Carrying out plans: the same bytes whatever the threads, memory that does not grow, errors that name the weight."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantmill.formats.errors import FormatError, OutputError, WeightError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import layout
from quantmill.formats.ir import Model, Tensor
from quantmill.formats.progress import Event, RowsDone, WorkEnded, WorkStarted
from quantmill.formats.qtypes import BY_NAME, F16, F32
from quantmill.quantize import threads as module
from quantmill.quantize.chunks import Chunk
from quantmill.quantize.decode import as_float
from quantmill.quantize.encode import Scratch
from quantmill.quantize.execute import execute
from quantmill.quantize.kernels import kernel_for
from quantmill.quantize.kernels.contract import SOURCE_CODE
from quantmill.quantize.kernels.floats import first_nonfinite
from quantmill.quantize.plan import PlanOptions, make_plan
from quantmill.quantize.threads import on_threads


def importance_of(model: Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        t.name: rng.random(t.width * int(np.prod(t.shape[:-2]))).astype(np.float32) for t in model if len(t.shape) > 1
    }


def file_of(model: Model, level: str, path: Path, **options: Any) -> bytes:
    importance = options.pop("importance", None)
    carry = {key: options.pop(key) for key in ("threads", "chunk_weights", "progress") if key in options}
    plan = make_plan(model, level, PlanOptions(importance=importance, **options))
    execute(plan, path, force=True, **carry)
    return path.read_bytes()


def test_each_row_is_its_kernels(tiny: Model, tmp_path: Path, rng: np.random.Generator) -> None:
    importance = importance_of(tiny, rng)
    file_of(tiny, "Q4_K_M", tmp_path / "o.gguf", importance=importance)
    done = {t.name: t for t in read_gguf(tmp_path / "o.gguf")}
    assert {t.qtype.name for t in done.values()} == {"F32", "Q4_K", "Q6_K"}
    for tensor in tiny:
        got = done[tensor.name]
        expected = tensor.rows(0, tensor.n_rows)
        if got.qtype is not tensor.qtype:
            expected = np.zeros((tensor.n_rows, got.row_bytes), np.uint8)
            kernel_for(got.qtype).encode(tensor.rows(0, tensor.n_rows), F16, importance[tensor.name], expected)
        assert np.array_equal(got.rows(0, got.n_rows), expected), tensor.name


def test_same_bytes_with_any_threads_and_chunks(tiny: Model, tmp_path: Path, rng: np.random.Generator) -> None:
    importance = importance_of(tiny, rng)
    digests = {
        hashlib.sha256(
            file_of(tiny, "Q4_K_M", tmp_path / "o.gguf", importance=importance, threads=threads, chunk_weights=chunk)
        ).digest()
        for threads in (1, 2, 7)
        for chunk in (1, 5000, 1 << 20)
    }
    assert len(digests) == 1


def test_every_expert_takes_its_own_importance(
    model: Callable[..., Model], tensor: Callable[..., Tensor], tmp_path: Path, rng: np.random.Generator
) -> None:
    experts = rng.standard_normal((3, 4, 256)).astype("f2")
    source = model([tensor("blk.0.ffn_up_exps.weight", experts)], experts=3)
    vector = rng.random(3 * 256).astype(np.float32) ** 4
    file_of(source, "Q4_K_S", tmp_path / "o.gguf", importance={"blk.0.ffn_up_exps.weight": vector}, chunk_weights=512)
    (done,) = read_gguf(tmp_path / "o.gguf")
    for e in range(3):
        expected = np.zeros((4, done.row_bytes), np.uint8)
        kernel_for(done.qtype).encode(experts[e].view(np.uint8), F16, vector[e * 256 : (e + 1) * 256], expected)
        assert np.array_equal(done.rows(4 * e, 4 * e + 4), expected)
        neighbours = np.zeros_like(expected)
        kernel_for(done.qtype).encode(experts[e].view(np.uint8), F16, np.roll(vector, 256)[e * 256 :][:256], neighbours)
        assert not np.array_equal(neighbours, expected)


def test_requantizing_goes_through_f32(tiny: Model, tmp_path: Path) -> None:
    file_of(tiny, "Q6_K", tmp_path / "q6.gguf")
    q6 = read_gguf(tmp_path / "q6.gguf")
    direct = file_of(q6, "Q4_K_S", tmp_path / "a.gguf", pure=True, allow_requantize=True)
    assert direct == file_of(as_float(q6), "Q4_K_S", tmp_path / "b.gguf", pure=True)


def test_big_endian(tiny: Model, tmp_path: Path) -> None:
    file_of(tiny, "Q4_K_M", tmp_path / "little.gguf", layout=partial(layout, version=3))
    file_of(tiny, "Q4_K_M", tmp_path / "big.gguf", layout=partial(layout, version=3, byteorder="big"))
    little, big = read_gguf(tmp_path / "little.gguf"), read_gguf(tmp_path / "big.gguf")
    for a, b in zip(little, big, strict=True):
        assert (a.name, a.qtype) == (b.name, b.qtype)
        assert np.array_equal(a.rows(0, a.n_rows), b.rows(0, b.n_rows))


def test_progress_counts_the_source(tiny: Model, tmp_path: Path) -> None:
    events: list[Event] = []
    file_of(tiny, "Q4_K_S", tmp_path / "o.gguf", progress=events.append)
    total = sum(t.nbytes for t in tiny)
    assert (events[0], events[-1]) == (WorkStarted("o.gguf", total), WorkEnded())
    assert sum(event.nbytes for event in events if isinstance(event, RowsDone)) == total


@pytest.mark.parametrize(("value", "word"), [(np.nan, "is nan"), (-np.inf, "is -inf")])
@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "blk.0.attn_norm.weight"])
@pytest.mark.parametrize("level", ["Q4_K_S", "Q8_0"])  # Q8_0 is looked over by its scales
def test_a_bad_weight_is_named(
    tiny: Model, tensor: Callable[..., Tensor], tmp_path: Path, value: float, word: str, name: str, level: str
) -> None:
    (old,) = (t for t in tiny if t.name == name)
    data = np.zeros(old.shape, "f4" if len(old.shape) == 1 else "f2")
    data[..., 17] = 1
    place = (100, 17) if data.ndim == 2 else (17,)
    data[place] = value
    data[..., 200] = data[..., 17]  # a later one, which is not the first
    bad = tensor(name, data)
    source = replace(tiny, tensors=tuple(bad if t.name == name else t for t in tiny))
    index = ", ".join(map(str, place))
    for threads in (1, 3):
        with pytest.raises(WeightError, match=rf"{name}: weight \[{index}\] {word} \(the checkpoint is damaged"):
            file_of(source, level, tmp_path / "o.gguf", threads=threads, chunk_weights=600)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_others_read_while_some_compute(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """When reads wait for the disk: twice as many threads, of which no more than said compute."""
    lock, computing, most, done = threading.Lock(), 0, 0, []
    readers = threading.Barrier(2 * threads, timeout=60)
    turns = threading.Barrier(threads, timeout=60)

    def do(chunk: Chunk, scratch: Scratch) -> None:
        nonlocal computing, most
        readers.wait()
        with scratch.turn:
            with lock:
                computing += 1
                most = max(most, computing)
            turns.wait()
            with lock:
                computing -= 1

    monkeypatch.setattr(module, "past_cache", lambda: True)
    chunks = [Chunk(i, 0, i, i + 1) for i in range(6 * threads)]
    on_threads(do, iter(chunks), threads, done.append)
    assert most == threads
    assert sorted(done, key=lambda chunk: chunk.number) == chunks


def test_the_first_error_whatever_the_threads(
    tiny: Model, tensor: Callable[..., Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [tensor(t.name, np.full(t.shape, np.nan, "f2")) if "ffn_up" in t.name else t for t in tiny]
    for threads, waits in [(1, False), (2, False), (8, False), (1, True), (3, True)]:
        monkeypatch.setattr(module, "past_cache", lambda waits=waits: waits)
        with pytest.raises(WeightError, match=r"blk.0.ffn_up.weight: weight \[0, 0\]"):
            file_of(replace(tiny, tensors=tuple(bad)), "Q4_K_S", tmp_path / "o.gguf", threads=threads)


def test_too_large_for_a_half(model: Callable[..., Model], tensor: Callable[..., Tensor], tmp_path: Path) -> None:
    data = np.zeros((4, 512), "f4")
    data[2, 300] = 1e30
    source = model([tensor("blk.0.attn_q.weight", data)])
    for level in ("F16", "Q4_K_S"):
        with pytest.raises(WeightError, match=r"attn_q.weight: weight \[2, (300|256)\] is too large .* \(choose bf16"):
            file_of(source, level, tmp_path / "o.gguf")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -np.nan])
@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_the_first_bad_weight_is_found(name: str, value: float) -> None:
    largest = {"F32": 0x7F7FFFFF, "F16": 0x7BFF, "BF16": 0x7F7F}[name]
    words = np.full((3, 64), largest, "u4" if name == "F32" else "u2")
    words[1] |= words.dtype.type(1 << (8 * words.itemsize - 1))  # the most negative
    code = SOURCE_CODE[name]
    assert first_nonfinite(words.view(np.uint8), code) == -1
    bits = int(np.float32(value).view(np.uint32))
    half = int(np.float16(value).view(np.uint16))
    bad = {"F32": bits, "F16": half, "BF16": bits >> 16}[name]
    words[2, 5] = words[2, 60] = bad
    assert first_nonfinite(words.view(np.uint8), code) == 2 * 64 + 5
    assert first_nonfinite(words[:0].view(np.uint8), code) == -1


def test_a_source_cut_short_meanwhile(tiny: Model, tmp_path: Path) -> None:
    file_of(tiny, "F16", tmp_path / "source.gguf")
    source = read_gguf(tmp_path / "source.gguf")
    os.truncate(tmp_path / "source.gguf", (tmp_path / "source.gguf").stat().st_size // 2)
    with pytest.raises(FormatError, match=r"source.gguf: [\w.]+: the file became shorter"):
        file_of(source, "Q4_K_S", tmp_path / "o.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


def test_an_output_that_exists_is_kept(tiny: Model, tmp_path: Path) -> None:
    path = tmp_path / "o.gguf"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists"):
        execute(make_plan(tiny, "Q4_K_S"), path)
    assert path.read_bytes() == b"precious"


def test_as_float_is_lazy_and_exact(tiny: Model, tmp_path: Path) -> None:
    file_of(tiny, "Q6_K", tmp_path / "q6.gguf")
    q6 = read_gguf(tmp_path / "q6.gguf")
    for stored, seen in zip(q6, as_float(q6), strict=True):
        assert seen.qtype is F32
        expected = np.empty((stored.n_rows, stored.width), np.float32)
        if stored.qtype is BY_NAME["Q6_K"]:
            kernel_for(stored.qtype).decode(stored.rows(0, stored.n_rows), expected)
        else:
            expected[:] = stored.rows(0, stored.n_rows).view(np.float32)
        assert np.array_equal(seen.rows(0, seen.n_rows).view(np.float32), expected)
        assert np.array_equal(seen.rows(1, 1), seen.rows(0, 0))
    halves = {t.name: t.qtype.name for t in as_float(q6, F16)}
    assert halves["blk.0.attn_q.weight"] == "F16"
    assert halves["output_norm.weight"] == "F32"
