"""``quantize --refine`` from a checkpoint to a file that keeps a layer's products better in the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from oracles.tiny import TEXT, save_tiny_llama, save_tiny_mixtral
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.imatrix_file import read_imatrix, write_imatrix
from quantmill.quantize.kernels import kernel_for
from quantmill.tools.main import load_command

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refine")
    save_tiny_llama(folder / "hf", layers=1, hidden=256)
    (folder / "text.txt").write_text(TEXT * 60)
    return folder


@pytest.fixture(scope="module")
def imatrix(model: Path) -> Path:
    return second_moments(model)


def second_moments(model: Path) -> Path:
    path, f16 = model / "moments.gguf", model / "f16.gguf"
    text = ["-f", str(model / "text.txt"), "-c", "64", "--second-moments", "--no-ppl"]
    made = {"convert": [str(model / "hf"), str(f16)], "imatrix": ["-m", str(f16), *text, "-o", str(path)]}
    for name, words in made.items():
        done = CliRunner().invoke(load_command(name), words)
        assert done.exit_code == 0, done.output
    return path


def products_lost(file: Path, model: Path, imatrix: Path) -> float:
    """The squared error of every refined matrix's products with the calibration's inputs, each beside its own size."""
    moments, total = read_imatrix(imatrix).moments, 0.0
    assert moments is not None
    original = {tensor.name: tensor for tensor in read_gguf(model / "f16.gguf")}
    for tensor in read_gguf(file):
        if moments.holder(tensor.name) is None or tensor.width % 256:
            continue
        rows = []
        for source in (original[tensor.name], tensor):
            rows.append(np.empty((source.n_rows, source.width), np.float32))
            kernel_for(source.qtype).decode(source.rows(0, source.n_rows), rows[-1])
        matrices = tensor.shape[0] if len(tensor.shape) == 3 else 1
        for matrix, parts in enumerate(zip(*(np.split(part, matrices) for part in rows), strict=True)):
            at = 0
            for h in moments.blocks(tensor.name, matrix):
                w, q = (part[:, at : at + len(h)].astype(np.float64) for part in parts)
                total += float(np.einsum("ri,ij,rj->", w - q, h, w - q) / np.einsum("ri,ij,rj->", w, h, w))
                at += len(h)
    return total


def test_experts(cli: Cli, tmp_path: Path) -> None:
    """Each expert by the tokens it saw, some fewer than its columns."""
    save_tiny_mixtral(tmp_path / "hf")
    (tmp_path / "text.txt").write_text(TEXT * 8)
    imatrix = second_moments(tmp_path)
    moments = read_imatrix(imatrix).moments
    assert moments is not None
    assert min(moments.count("blk.0.ffn_down_exps.weight", i) for i in range(4)) < 512
    losses = []
    for more in ([], ["--refine"]):
        path = tmp_path / f"{len(more)}.gguf"
        assert cli("quantize", tmp_path / "f16.gguf", path, "Q3_K_M", "--imatrix", imatrix, *more, "--quiet").code == 0
        losses.append(products_lost(path, tmp_path, imatrix))
    assert losses[1] < 0.7 * losses[0]


@pytest.mark.parametrize("level", ["Q3_K_M", "IQ2_XS", "Q4_0"])
def test_products_are_kept_better(cli: Cli, model: Path, imatrix: Path, level: str) -> None:
    sizes, losses = [], []
    for more in ([], ["--refine"]):
        path = model / f"{level}{len(more)}.gguf"
        cli("quantize", model / "f16.gguf", path, level, "--imatrix", imatrix, *more, "--quiet")
        cli("verify", path)
        sizes.append(path.stat().st_size)
        losses.append(products_lost(path, model, imatrix))
    assert sizes[0] == sizes[1]
    assert losses[1] < 0.6 * losses[0]


def test_what_is_refused(refused: Cli, model: Path, imatrix: Path, tmp_path: Path) -> None:
    source = model / "f16.gguf"
    out = tmp_path / "out.gguf"
    plain = tmp_path / "plain.gguf"
    read = read_imatrix(imatrix)
    write_imatrix(plain, type(read)(read.entries, read.datasets, read.chunk_count, read.chunk_size))
    line = refused("quantize", source, out, "Q4_0", "--refine", "--imatrix", plain)
    assert "no second moments" in line
    assert "--second-moments" in line
    line = refused("quantize", source, out, "Q8_0", "--refine", "--imatrix", imatrix)
    assert "no tensor of Q8_0 can be refined" in line
    assert not out.exists()
