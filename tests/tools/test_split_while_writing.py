"""Shards that are written in one pass are those of the whole file, split; and only what is missing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oracles.quantize_samples import llama
from oracles.tiny import save_tiny_llama
from quantmill import PlanOptions, SplitOptions, convert, split, write_gguf

Cli = Callable[..., Any]
Refused = Callable[..., str]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "m-f16.gguf", llama(3))
    return tmp_path / "m-f16.gguf"


def shards(folder: Path, name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob(f"{name}-0*.gguf"))]


@pytest.mark.parametrize(
    ("words", "limits"),
    [
        (("--split-max-size", "200K"), {"max_size": 200_000}),
        (("--split-max-tensors", "9"), {"max_tensors": 9}),
        (("--split-max-tensors", "9", "--no-tensor-first-split"), {"max_tensors": 9, "empty_first": True}),
        (("--split-max-tensors", "900"), {"max_tensors": 900}),
    ],
)
def test_shards_are_those_of_the_whole_file(
    cli: Cli, source: Path, words: tuple[str, ...], limits: dict[str, Any]
) -> None:
    folder = source.parent
    assert cli("quantize", source, folder / "o.gguf", "Q4_K_M", *words).code == 0
    whole = convert(source, folder / "whole.gguf", "Q4_K_M").paths[0]
    split(whole, folder / "w", **limits)
    assert shards(folder, "o") == shards(folder, "w")
    assert not (folder / "o.gguf").exists()


def test_a_checkpoint_in_shards(cli: Cli, tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "hf", layers=2)
    for level in ("f16", "Q8_0"):
        name = f"{level}.gguf"
        done = cli("convert", tmp_path / "hf", tmp_path / name, "--outtype", level, "--split-max-tensors", "7")
        assert done.code == 0, done.err
        whole = convert(tmp_path / "hf", tmp_path / "whole.gguf", level).paths[0]
        split(whole, tmp_path / f"w{level}", max_tensors=7)
        assert shards(tmp_path, level) == shards(tmp_path, f"w{level}")
        whole.unlink()


def test_only_what_is_missing(cli: Cli, refused: Refused, source: Path) -> None:
    folder = source.parent
    words = ("quantize", source, folder / "o.gguf", "Q4_K_M", "--split-max-tensors", "9", "--partial")
    assert cli(*words).code == 0
    made = shards(folder, "o")
    second, third = (folder / f"o-0000{i}-of-00004.gguf" for i in (2, 3))
    second.unlink()
    before = third.stat().st_mtime_ns
    done = cli(*words)
    assert (done.code, "3 of 4 shards are there" in done.err) == (0, True)
    assert shards(folder, "o") == made
    assert third.stat().st_mtime_ns == before
    assert cli(*words).code == 0  # nothing to do
    second.unlink()
    third.write_bytes(third.read_bytes()[:-1])
    assert "o-00003-of-00004.gguf: is another file than the shard that belongs here" in refused(*words)


def test_shards_of_a_level_that_changed_are_not_taken(source: Path) -> None:
    parts = SplitOptions(max_tensors=9, partial=True)
    first = convert(source, source.with_name("o.gguf"), "Q4_K_M", split=parts)
    first.paths[1].unlink()
    with pytest.raises(Exception, match="is another file"):
        convert(source, source.with_name("o.gguf"), "Q4_K_M", split=parts, options=PlanOptions(pure=True))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--split-max-size", "1G", "--split-max-tensors", "3"), "--split-max-size: excludes --split-max-tensors"),
        (("--keep-split", "--split-max-tensors", "3"), "--keep-split: excludes --split-max-tensors"),
        (("--partial",), "--partial: says how to split, and nothing is split"),
        (("--no-tensor-first-split",), "--no-tensor-first-split: says how to split"),
        (("--keep-split", "--no-tensor-first-split"), "--no-tensor-first-split: says how to split"),
        (("--to", "ggml", "--split-max-tensors", "3"), "--split-max-tensors: has no effect: a GGML file has no shards"),
    ],
)
def test_bad_splits(refused: Refused, source: Path, words: tuple[str, ...], line: str) -> None:
    assert line in refused("quantize", source, source.with_name("o.gguf"), "Q4_0", *words)
