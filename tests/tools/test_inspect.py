from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from oracles.gguf_samples import METADATA, every_type
from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.keys import typed
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.ir import Model
from quantmill.formats.qtypes import BY_NAME
from quantmill.tools.inspect import command


@pytest.fixture
def path(tmp_path: Path) -> Path:
    metadata = {**METADATA, "general.file_type": typed("general.file_type", 15), "a.nan": typed("x", float("nan"))}
    write_gguf(tmp_path / "m.gguf", Model("llama", metadata, every_type(), tmp_path), version=3)
    return tmp_path / "m.gguf"


def run(*args: object) -> str:
    return CliRunner().invoke(command, [str(a) for a in args], catch_exceptions=False).output


def test_for_people(path: Path) -> None:
    out = run(path)
    assert f"GGUF v3, little-endian, {path.stat().st_size / 1e3:.1f} kB" in out
    assert f"{len(BY_NAME)} tensors" in out
    assert "  15 (Q4_K_M)\n" in out
    assert "tokenizer.ggml.eos_token_id  2 '</s>'" in out
    assert "blk.0.q4_k.weight" in out
    assert "3 x 512" in out
    assert "blk.0.q4_k.weight" not in run(path, "--no-tensors")


def test_as_json(path: Path) -> None:
    report = json.loads(run(path, "--json"), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    weights = sum(3 * 2 * t.block_size for t in BY_NAME.values())
    nbytes = sum(3 * 2 * t.block_bytes for t in BY_NAME.values())
    assert (report["weights"], report["tensor_bytes"]) == (weights, nbytes)
    assert report["bpw"] == nbytes * 8 / weights
    assert report["types"]["Q4_K"] == {"tensors": 1, "weights": 1536, "bytes": 864, "bpw": 4.5}
    assert report["metadata"]["a.ints"] == {"type": "int32[]", "value": [1, -2, 3]}
    assert report["metadata"]["a.nan"]["value"] == "nan"
    assert report["metadata"]["a.strings"]["value"][2] == "▁the"
    first = report["tensors"][0]
    assert (first["name"], first["shape"], first["offset"]) == ("blk.0.f32.weight", [3, 2], report["data_start"])


def test_a_shard_stands_for_its_model(path: Path) -> None:
    from quantmill.formats.gguf.split import plan_split, write_split

    plan = plan_split(path, path.with_name("s"), max_tensors=20)
    write_split(plan)
    whole, shards = (json.loads(run(p, "--json")) for p in (path, plan.shards[1].path))
    for key in ("weights", "tensor_bytes", "bpw", "types"):
        assert shards[key] == whole[key]
    assert [t["name"] for t in shards["tensors"]] == [t["name"] for t in whole["tensors"]]
    assert [row["path"] for row in shards["shards"]] == [str(shard.path) for shard in plan.shards]
    assert shards["file_size"] == sum(shard.path.stat().st_size for shard in plan.shards)
    assert f" in {len(plan.shards)} shards" in run(plan.shards[0].path)


def test_a_bad_file(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(FormatError, match="zip archive"):
        run(tmp_path / "x.gguf")
