"""torch's files read without torch: what torch.load makes of them, and nothing else."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quantmill.formats.errors import FormatError, SourceError
from quantmill.formats.hf.files.torchfile import read_torch_file
from quantmill.formats.hf.files.weights import read_bin

base = torch.arange(600, dtype=torch.float32)
STATES = {
    "several": torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3)).bfloat16().state_dict(),
    "parameter": {"p": torch.nn.Parameter(torch.randn(4, 6))},
    "a piece of a larger storage": {"a": base[100:220].reshape(3, 4, 10), "b": base[7:9]},
    "transposed": {"t": torch.randn(6, 4).half().t(), "spread": torch.randn(3, 1).expand(3, 5)},
    "no axes": {"s": torch.tensor(1.5), "none": torch.empty(0, 4)},
    "other types": {"i": torch.arange(5), "b": torch.ones(3, dtype=torch.bool), "u": torch.ones(2).to(torch.uint16),
                    "f8": torch.randn(3, 8).to(torch.float8_e4m3fn), "d": torch.randn(2, 2).double(),
                    "c": torch.randn(2, 2).to(torch.complex128), "e8": torch.ones(4).to(torch.float8_e8m0fnu)},
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_the_bytes_are_those_of_torch(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    torch.save(STATES[name], path)
    ours, theirs = read_torch_file(path), torch.load(path, weights_only=True)
    assert list(ours) == list(theirs)
    for key, tensor in theirs.items():
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        rows = tensor[..., 0].numel() if tensor.dim() > 1 else 1
        assert ours[key].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(ours[key].rows(0, rows).reshape(-1), raw)
        np.testing.assert_array_equal(ours[key].rows(rows // 2, rows), ours[key].rows(0, rows)[rows // 2 :])


def test_a_file_that_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    torch.save({"w": torch.randn(1 << 10, 1 << 8)}, path)
    tensor = read_bin(path)["w"]
    os.truncate(path, 4096)
    with pytest.raises(SourceError, match=r"x\.bin: the file became shorter while it was read"):
        tensor.rows(500, 600)  # type: ignore[union-attr]


class Calls:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("call", [(os.system, "exit 1"), (torch.load, "x"), (getattr, "x", "upper"), (eval, "1")])
def test_nothing_runs(call: tuple[Any, ...], tmp_path: Path) -> None:
    torch.save({"w": Calls(*call)}, tmp_path / "x.bin")
    with pytest.raises(pickle.UnpicklingError):
        read_torch_file(tmp_path / "x.bin")
    with pytest.raises(FormatError, match="holds more than tensors"):
        read_bin(tmp_path / "x.bin")


def test_a_tensor_beyond_its_storage(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(77.0)}, tmp_path / "x.bin")
    with zipfile.ZipFile(tmp_path / "x.bin") as old, zipfile.ZipFile(tmp_path / "y.bin", "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, data.replace(b"KM\x85", b"KN\x85") if "data.pkl" in info.filename else data)
    assert (tmp_path / "y.bin").read_bytes().count(b"KN\x85") == 1
    with pytest.raises(FormatError, match=r"a tensor of shape \(78,\) ends after its storage"):
        read_bin(tmp_path / "y.bin")


@pytest.mark.parametrize("cut", [10, 500, 5000])
def test_damage(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    torch.save({"w": torch.randn(40, 40)}, path)
    os.truncate(path, path.stat().st_size - cut)
    with pytest.raises(FormatError, match="damaged or truncated"):
        read_bin(path)
