"""``quantmill verify``: figures by hand, bounds, and what makes it fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantmill.formats.gguf.writer import write_gguf
from quantmill.formats.ir import Bytes, Model, Role, Tensor, Value, ValueType
from quantmill.formats.qtypes import F32

Cli = Callable[..., object]


def write(path: Path, **arrays: np.ndarray) -> Path:
    """A GGUF file of float32 tensors."""

    def tensor(name: str, array: np.ndarray) -> Tensor:
        rows = array.astype(np.float32).reshape(-1, array.shape[-1])

        def read(a: int, b: int) -> Bytes:
            return rows[a:b].view(np.uint8)

        return Tensor(name, Role.OTHER, None, array.shape, F32, read)

    metadata = {"general.architecture": Value(ValueType.STRING, "llama")}
    tensors = tuple(tensor(name, array) for name, array in arrays.items())
    write_gguf(path, Model("llama", metadata, tensors, path.with_suffix(".memory")))
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path / "base.gguf", x=np.array([[3.0, 4.0], [0.0, 0.0]]), y=np.ones((1, 2)))


def test_figures_by_hand(cli: Cli, tmp_path: Path, base: Path) -> None:
    """x off by 1 in one of four places: RMSE sqrt(1/4) over sqrt(25/4) = 0.2; cosine 29 / (5 * sqrt(34)...)."""
    other = write(tmp_path / "a.gguf", x=np.array([[3.0, 5.0], [0.0, 0.0]]), y=np.ones((1, 2)))
    done = cli("verify", other, "--against", base, "--json")
    assert done.code == 0
    x, y = json.loads(done.out)["tensors"]
    assert x["rmse"] == pytest.approx(0.2)
    assert x["max_error"] == 1
    assert x["cosine"] == pytest.approx(29 / (5 * 34**0.5))
    assert (y["rmse"], y["max_error"], y["cosine"]) == (0, 0, pytest.approx(1))


@pytest.mark.parametrize(
    ("bound", "value", "code"),
    [
        ("--max-rmse", 0.19, 1),
        ("--max-rmse", 0.21, 0),
        ("--max-error", 0.99, 1),
        ("--max-error", 1.01, 0),
        ("--min-cosine", 0.999, 1),
        ("--min-cosine", 0.99, 0),
    ],
)
def test_bounds(cli: Cli, tmp_path: Path, base: Path, bound: str, value: float, code: int) -> None:
    other = write(tmp_path / "a.gguf", x=np.array([[3.0, 5.0], [0.0, 0.0]]), y=np.ones((1, 2)))
    done = cli("verify", other, "--against", base, bound, value, "--quiet")
    assert done.code == code
    assert ("x: " in done.err) == bool(code)
    assert "y: " not in done.err


def test_missing_and_reshaped_tensors_fail(cli: Cli, tmp_path: Path, base: Path) -> None:
    other = write(tmp_path / "a.gguf", x=np.ones((4, 1)), z=np.ones((1, 2)))
    done = cli("verify", other, "--against", base)
    assert done.code == 1
    assert "x: shape [4, 1], but [2, 2]" in done.err
    assert "z: not in" in done.err
    assert "y: only in" in done.err


def test_weights_that_are_not_finite_fail(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", x=np.array([[1.0, np.nan], [np.inf, 0.0]]))
    done = cli("verify", path)
    assert done.code == 1
    assert "x: 2 weights are NaN or Inf" in done.err


def test_a_whole_file_is_well(cli: Cli, base: Path) -> None:
    done = cli("verify", base)
    assert done.code == 0
    assert "2 tensors, all well" in done.out


def test_only_what_is_wrong_is_listed(cli: Cli, tmp_path: Path, base: Path) -> None:
    """The table of all tensors is for --verbose."""
    other = write(tmp_path / "a.gguf", x=np.array([[3.0, 5.0], [0.0, 0.0]]), y=np.ones((1, 2)))
    worst = "rel. RMSE up to 2.000e-01 (x), max error 1.000e+00, cosine from 0.9946918"
    assert cli("verify", other, "--against", base).out == f"{other}: 2 tensors, all well; {worst}\n"
    done = cli("verify", other, "--against", base, "--max-error", 0.5)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"{other}: x: largest error 1 exceeds 0.5\n"
    assert cli("verify", other, "--against", base, "--verbose").out.splitlines()[:3] == [
        "tensor  type  rel. RMSE  max error     cosine",
        "x       F32   2.000e-01  1.000e+00  0.9946918",
        "y       F32   0.000e+00  0.000e+00  1.0000000",
    ]
