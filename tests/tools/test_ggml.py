"""``convert`` and ``quantize`` with GGML files: both ways, what is said on stderr, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oracles.ggml_v3 import save_gqa_llama
from quantmill.formats.gguf.reader import read_gguf

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gqa_llama(tmp_path_factory.mktemp("ggml-cli") / "gqa")


def test_there_and_back(cli: Cli, folder: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "m.ggmlv3.q4_0.bin", tmp_path / "m.gguf"
    done = cli("convert", folder, old, "--outtype", "Q4_0")
    assert done.code == 0
    assert "n_gqa=4, rms_norm_eps=1e-05, rope_freq_base=10000" in done.err
    done = cli("convert", old, new, "--eps", "1e-5")
    assert done.code == 0
    assert "--eps" not in done.err
    assert "assumed --rope-base 10000" in done.err
    assert "assumed --context 4096" in done.err
    types = {tensor.name: tensor.qtype.name for tensor in read_gguf(new)}
    assert types["output.weight"] == "Q6_K"  # the book of its day
    assert types["blk.0.ffn_down.weight"] == "Q4_0"
    assert cli("convert", new, tmp_path / "again.bin", "--quiet").err == ""
    assert (tmp_path / "again.bin").read_bytes() == old.read_bytes()


def test_quantize_names_the_file_as_was_the_custom(cli: Cli, folder: Path, tmp_path: Path) -> None:
    assert cli("convert", folder, tmp_path / "m-f16.gguf", "--outtype", "f16", "--quiet").code == 0
    assert cli("quantize", tmp_path / "m-f16.gguf", "Q4_0", "--to", "ggml", "--quiet").code == 0
    made = tmp_path / "m.ggmlv3.q4_0.bin"
    assert cli("quantize", tmp_path / "m-f16.gguf", tmp_path / "named.bin", "Q4_0", "--quiet").code == 0
    assert made.read_bytes() == (tmp_path / "named.bin").read_bytes()


def test_dry_runs_write_nothing(cli: Cli, folder: Path, tmp_path: Path) -> None:
    assert cli("convert", folder, tmp_path / "m.bin", "--outtype", "Q4_K_M", "--dry-run").code == 0
    assert not list(tmp_path.iterdir())


def test_refusals(cli: Cli, refused: Callable[..., str], folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "m.bin"
    assert cli("convert", folder, old, "--quiet").code == 0
    out = tmp_path / "m.gguf"
    assert "the file's shapes say 4" in refused("convert", old, out, "--gqa", "2")
    assert "8 heads cannot be shared by 3" in refused("convert", old, out, "--gqa", "3")
    assert "SRC is none" in refused("convert", folder, out, "--eps", "1e-6")
    assert "little-endian" in refused("convert", folder, tmp_path / "b.bin", "--big-endian", "--gguf-version", "3")
    assert "no type IQ4_XS" in refused(
        "convert", folder, tmp_path / "b.bin", "--outtype", "IQ4_XS", "--book", "current"
    )
    assert "unknown level" in refused("convert", folder, tmp_path / "b.bin", "--outtype", "IQ4_XS")
    for magic, words in ((b"lmgg", "without version"), (b"tjgg\x02\0\0\0", "version 2")):
        (tmp_path / "bad.bin").write_bytes(magic + bytes(64))
        assert words in refused("convert", tmp_path / "bad.bin", out)
