"""``MODEL.GGUF`` is a GGUF file: one rule for the endings of names, wherever one is looked at."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from quantmill.formats.examples import tiny_llama
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.shards import shard_prefix
from quantmill.formats.gguf.split import plan_split, write_split
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.storage.endings import ending, without_ending
from quantmill.tools.api.importance import _is_legacy
from quantmill.tools.api.models import output_path, target_kind

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.mark.parametrize("name", ["m.gguf", "m.GGUF", "M.Gguf"])
def test_gguf(name: str) -> None:
    assert ending(name) == ending(Path("x", name)) == ".gguf"
    assert without_ending(name, ".gguf") == shard_prefix(Path(name)) == name[0]
    assert target_kind(Path(name)) == "gguf"
    assert output_path(Path(name), "Q8_0").name == f"{name[0]}.Q8_0.gguf"
    assert not _is_legacy(Path(name), None)


def test_others() -> None:
    assert target_kind(Path("M.BIN")) == "ggml"
    assert target_kind(Path("M.GGUF.d")) == "hf"
    assert _is_legacy(Path("I.DAT"), None)
    assert ending("gguf") == ending(".GGUF") == ""
    assert without_ending("model.v2", ".gguf") == "model.v2"


def test_shards_in_capitals(tmp_path: Path) -> None:
    """llama.cpp looks for ``.gguf``, but files that went over a disk of capitals can be read and merged."""
    write_gguf(tmp_path / "m.GGUF", tiny_llama())
    plan = plan_split(tmp_path / "m.GGUF", tmp_path / "s", max_tensors=5)
    write_split(plan)
    shards = sorted(tmp_path.glob("s-*.gguf"))
    assert len(shards) > 1
    for shard in shards:
        shard.rename(shard.with_suffix(".GGUF"))
    assert len(read_gguf(shards[0].with_suffix(".GGUF")).tensors) == len(tiny_llama().tensors)


@pytest.mark.parametrize("name", ["out.GGUF", "OUT.BIN"])
def test_a_converted_file(name: str, tmp_path: Path) -> None:
    from quantmill import convert

    write_gguf(tmp_path / "m.gguf", tiny_llama())
    convert(tmp_path / "m.gguf", tmp_path / name, "F16")
    assert (tmp_path / name).read_bytes()[:4] == {"out.GGUF": b"GGUF", "OUT.BIN": b"tjgg"}[name]


def test_nothing_else_looks_at_endings() -> None:
    found = set()
    for room in ("formats", "quantize", "imatrix", "tools"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and node.attr == "suffix" and path.name != "endings.py":
                    found.add(str(path.relative_to(ROOT)))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                    first = ast.unparse(node.args[0])
                    if node.func.attr in ("endswith", "removesuffix") and first in ("'.gguf'", "'.bin'", "'.dat'"):
                        found.add(str(path.relative_to(ROOT)))
    assert not found
