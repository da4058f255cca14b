"""``--target-size`` and ``--target-bpw`` of ``quantize`` and ``plan``: sizes kept, the choice shown, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oracles.tiny import save_tiny_llama
from quantmill.formats.gguf.names import parse_name
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.ir import Model, Tensor, Value, ValueType
from quantmill.formats.qtypes import F16

Cli = Callable[..., Any]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("target") / "tiny", layers=3, hidden=256)


@pytest.fixture(scope="module")
def gguf(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from click.testing import CliRunner

    from quantmill.tools.convert import command

    path = tmp_path_factory.mktemp("target-gguf") / "tiny-f16.gguf"
    done = CliRunner().invoke(command, [str(checkpoint), str(path), "--outtype", "f16"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture
def nameless(tmp_path: Path) -> Path:
    """A file that cannot be run: two matrices of a model without vocabulary or embeddings."""
    rng = np.random.default_rng(0)
    tensors = []
    for name, shape in {"attn_q": (256, 256), "ffn_down": (128, 512)}.items():
        rows = rng.standard_normal(shape).astype("f2").view(np.uint8)
        full = f"blk.0.{name}.weight"
        tensors.append(Tensor(full, *parse_name(full), shape, F16, lambda a, b, rows=rows: rows[a:b]))
    metadata = {
        "general.architecture": Value(ValueType.STRING, "llama"),
        "llama.block_count": Value(ValueType.UINT32, 1),
        "llama.attention.head_count": Value(ValueType.UINT32, 4),
    }
    path = tmp_path / "nameless-f16.gguf"
    write_gguf(path, Model("llama", metadata, tuple(tensors), Path("none")))
    return path


def test_the_file_has_the_size_and_the_planned_types(cli: Cli, gguf: Path, tmp_path: Path) -> None:
    target = 1_000_000
    done = cli("plan", gguf, "--target-size", target, "--json", "--quiet")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert plan["target_bytes"] == target
    assert target * 0.995 <= plan["bytes"] <= target
    assert 0 < plan["expected_kld"] < 10
    out = tmp_path / "small.gguf"
    done = cli("quantize", gguf, out, "--target-size", "1MB")
    assert done.code == 0, done.err
    assert "expected KL divergence" in done.out
    assert "layer" in done.out
    assert out.stat().st_size == plan["bytes"]
    assert {tensor.name: tensor.qtype.name for tensor in read_gguf(out)} == plan["tensors"]


def test_bits_per_weight_of_a_checkpoint(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    done = cli("quantize", checkpoint, tmp_path / "out.gguf", "--target-bpw", "6.0", "--typical-sensitivity", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert 5.97 <= found["bpw"] <= 6.0
    assert found["size"] == (tmp_path / "out.gguf").stat().st_size


def test_what_cannot_be_run_has_usual_sensitivities(cli: Cli, nameless: Path) -> None:
    done = cli("quantize", nameless, "--target-bpw", "4.0", "--quiet")
    assert done.code == 0, done.err
    assert "usual sensitivities are assumed" in done.err
    (made,) = [path for path in nameless.parent.iterdir() if path != nameless]
    assert made.name.startswith("nameless.")
    assert made.name.endswith("bpw.gguf")
    done = cli("quantize", nameless, "--target-bpw", "4.0", "--dry-run", "--typical-sensitivity")
    assert "usual" not in done.err
    assert "chosen for the budget" in done.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--target-size", "5kB"], "smallest possible file has"),
        (["--target-size", "1GB"], "more than the model has"),
        (["--target-bpw", "20"], "more than the model has"),
        (["--target-bpw", "4", "--imatrix", "/nonexistent.dat"], "cannot be read"),
        (["--target-bpw", "4", "--output-tensor-type", "Q9"], "unknown tensor type"),
        (["--target-bpw", "4", "--sensitivity-text", "/nonexistent.txt"], "cannot be read"),
    ],
)
def test_refused(refused: Callable[..., str], gguf: Path, args: list[str], message: str) -> None:
    assert message in refused("quantize", gguf, *args, "--quiet")


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("quantize", ["--target-size", "1MB", "--target-bpw", "4"], "give one"),
        ("quantize", ["--target-size", "4GX"], "unknown unit"),
        ("quantize", ["Q4_K_M", "--target-bpw", "4"], "is a level"),
        ("quantize", ["out.gguf", "Q4_K_M", "--target-bpw", "4"], "a target takes the level's place"),
        ("quantize", ["out.bin", "--target-bpw", "4"], "for GGUF files"),
        ("quantize", ["--target-bpw", "4", "--pure"], "--pure"),
        ("quantize", ["Q4_K_M", "--typical-sensitivity"], "are for --target-size"),
        ("quantize", [], "LEVEL"),
        ("plan", ["Q4_K_M", "--target-bpw", "4"], "whatever the level"),
        ("plan", ["--target-bpw", "4", "--format", "gptq"], "whatever the level"),
    ],
)
def test_used_wrongly(cli: Cli, gguf: Path, name: str, args: list[str], message: str) -> None:
    done = cli(name, gguf, *args)
    assert done.code == 2
    assert message in done.err
    assert sorted(path.name for path in gguf.parent.iterdir()) == [gguf.name]
