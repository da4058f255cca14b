from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantmill.formats.arrays import model_from_arrays, tensor_from_array
from quantmill.formats.errors import FormatError
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import write_gguf


def test_written_and_read(tmp_path: Path) -> None:
    arrays = {
        "blk.0.attn_q.weight": np.arange(12, dtype=np.float32).reshape(4, 3)[:, ::-1],
        "x": np.array([[1, 2]], np.float16),
        "big": np.array([0.5], ">f8"),
        "scalar": np.array(2, np.float32),
    }
    write_gguf(tmp_path / "a.gguf", model_from_arrays("llama", arrays, {"general.name": "a", "llama.block_count": 1}))
    model = read_gguf(tmp_path / "a.gguf")
    assert (model.arch, model.get("general.name"), model.hparam("block_count")) == ("llama", "a", 1)
    for tensor, array in zip(model, arrays.values(), strict=True):
        assert tensor.shape == array.shape
        raw = tensor.rows(0, tensor.n_rows)
        assert np.array_equal(raw.reshape(-1).view(tensor.qtype.fields[0][1]), array.reshape(-1))


def test_blocks() -> None:
    tensor = tensor_from_array("t", np.zeros((3, 2, 68), np.uint8), "Q8_0")
    assert (tensor.shape, tensor.n_rows, tensor.rows(5, 6).shape) == ((3, 2, 64), 6, (1, 68))


@pytest.mark.parametrize(
    ("array", "type"),
    [(np.zeros(3, np.int32), None), (np.zeros(35, np.uint8), "Q8_0"), (np.zeros(34, np.float32), "Q8_0"),
     (np.zeros(0, np.uint8), "Q8_0")],
)  # fmt: skip
def test_refused(array: np.ndarray, type: str | None) -> None:
    with pytest.raises(FormatError, match="is not"):
        tensor_from_array("t", array, type)
