from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oracles.llama import Llama
from oracles.split_samples import write_split_source
from oracles.tiny import save_tiny_llama
from quantmill.formats.gguf.reader import read_gguf, read_header
from quantmill.tools.terminal.units import Size

GOLDEN = Path(__file__).parents[1] / "formats" / "gguf" / "goldens" / "split.json"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_split_source(tmp_path / "m-f16.gguf")


def test_a_session(cli: Callable, source: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "m"
    planned = cli("split", source, prefix, "--max-tensors", 4, "--dry-run", "--json")
    assert planned.code == 0
    assert not list(tmp_path.glob("m-0*"))
    done = cli("split", source, prefix, "--max-tensors", 4)
    shards = sorted(tmp_path.glob("m-0*"))
    assert [path.name for path in shards] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert [(row["path"], row["tensors"], row["bytes"]) for row in json.loads(planned.out)["shards"]] == [
        (str(path), n, path.stat().st_size) for path, n in zip(shards, (4, 4, 2), strict=True)
    ]
    assert [line.split()[:3] for line in done.out.splitlines()] == [
        [str(path), n, "tensors"] for path, n in zip(shards, "442", strict=True)
    ]
    merged = cli("merge", shards[1], tmp_path / "back.gguf")
    assert (merged.code, merged.err) == (0, "")
    assert "10 tensors of 3 shards" in merged.out
    assert (tmp_path / "back.gguf").read_bytes() == source.read_bytes()


def test_refusals(cli: Callable, refused: Callable, source: Path, tmp_path: Path) -> None:
    assert cli("split", source, tmp_path / "m", "--max-tensors", 4, "--quiet").out == ""
    assert "m-00001-of-00003.gguf: exists" in refused("split", source, tmp_path / "m", "--max-tensors", 4)
    assert cli("split", source, tmp_path / "m", "--max-tensors", 4, "--force", "--quiet").code == 0
    assert "whole model" in refused("merge", source, tmp_path / "x.gguf")
    assert "exists" in refused("merge", tmp_path / "m-00001-of-00003.gguf", source)
    assert "not both" in cli("split", source, "x", "--max-tensors", 4, "--max-size", "2G").err
    assert "unknown unit 'pages'" in cli("split", source, "x", "--max-size", "2 pages").err
    assert "holds no tensor" in cli("split", source, "x", "--max-size", "0").err
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    assert "1 of the 3 shards of this model missing" in refused("verify", tmp_path / "m-00001-of-00003.gguf")
    assert "no folder" in refused("split", source, tmp_path / "none" / "x")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2G", 2 * 10**9),
        ("300M", 3 * 10**8),
        ("1.5GiB", 3 << 29),
        ("500 MB", 5 * 10**8),
        ("4096", 4096),
        ("8KiB", 8192),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


def test_shards_load_in_llama_cpp(cli: Callable, tmp_path: Path) -> None:
    whole = tmp_path / "tiny.gguf"
    assert cli("convert", save_tiny_llama(tmp_path / "tiny"), whole, "--outtype", "f32").code == 0
    assert cli("split", whole, tmp_path / "s", "--max-size", "60k", "--no-tensor-first-split").code == 0
    shards = sorted(tmp_path.glob("s-0*"))
    assert len(shards) > 4
    tokens = list(range(100, 108))
    with Llama(whole) as one, Llama(shards[0]) as many:
        np.testing.assert_array_equal(many.logits(tokens), one.logits(tokens))


def test_commands_take_any_shard(cli: Callable, source: Path, tmp_path: Path) -> None:
    assert cli("split", source, tmp_path / "s", "--max-tensors", 4, "--quiet").code == 0
    shards = sorted(tmp_path.glob("s-0*"))
    done = cli("verify", shards[1], "--against", source, "--json")
    assert done.code == 0, done
    assert {row["max_error"] for row in json.loads(done.out)["tensors"]} == {0.0}
    assert cli("convert", shards[2], tmp_path / "w.gguf", "--gguf-version", 3).code == 0
    assert (tmp_path / "w.gguf").read_bytes() == source.read_bytes()
    assert cli("quantize", shards[0], tmp_path / "q.gguf", "Q8_0", "--allow-requantize", "--quiet").code == 0
    assert cli("quantize", source, tmp_path / "p.gguf", "Q8_0", "--allow-requantize", "--quiet").code == 0
    assert (tmp_path / "q.gguf").read_bytes() == (tmp_path / "p.gguf").read_bytes()


@pytest.mark.parametrize("empty_first", [False, True])
def test_keep_split(cli: Callable, source: Path, tmp_path: Path, empty_first: bool) -> None:
    options = ["--no-tensor-first-split"] if empty_first else []
    assert cli("split", source, tmp_path / "m-f16", "--max-tensors", 4, *options).code == 0
    first = sorted(tmp_path.glob("m-f16-0*"))[0]
    done = cli("quantize", first, "Q8_0", "--allow-requantize", "--keep-split", "--json")
    assert done.code == 0, done
    report = json.loads(done.out)
    made = sorted(tmp_path.glob("m.Q8_0-0*"))
    assert report["shards"] == [str(path) for path in made]
    assert report["size"] == sum(path.stat().st_size for path in made)
    assert len(made) == 3 + empty_first
    assert cli("quantize", first, tmp_path / "one.gguf", "Q8_0", "--allow-requantize").code == 0
    shards, one = read_gguf(made[0]), read_gguf(tmp_path / "one.gguf")
    assert [s.n_tensors for s in shards.shards] == [*([0] if empty_first else []), 4, 4, 2]
    assert dict(shards.metadata).keys() == dict(one.metadata).keys()
    ours = {t.name: (t.qtype, t.rows(0, t.n_rows).tobytes()) for t in shards}
    assert ours == {t.name: (t.qtype, t.rows(0, t.n_rows).tobytes()) for t in one}
    assert list(read_header(made[0]).metadata)[-3:] == ["split.no", "split.count", "split.tensors.count"]


def test_keep_split_is_llama_quantizes(cli: Callable, smollm2_q4_1: Path, tmp_path: Path) -> None:
    wanted = json.loads(GOLDEN.read_text())["keep_split"]["shards"]
    assert cli("split", smollm2_q4_1, tmp_path / "s", "--max-size", "40M").code == 0
    options = ["--allow-requantize", "--keep-split", "--gguf-version", 3]
    done = cli("quantize", tmp_path / "s-00001-of-00003.gguf", tmp_path / "k.gguf", "Q8_0", *options)
    assert done.code == 0, done
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.glob("k-*.gguf")} == wanted


def test_keep_split_is_refused_without_shards(cli: Callable, refused: Callable, source: Path, tmp_path: Path) -> None:
    said = refused("quantize", source, tmp_path / "x", "Q8_0", "--allow-requantize", "--keep-split")
    assert "no shards to keep" in said
    assert "no shards" in cli("quantize", source, tmp_path / "x.bin", "Q8_0", "--keep-split").err
