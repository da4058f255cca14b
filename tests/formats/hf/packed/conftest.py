"""A layer's parts as stored tensors, and what the reader makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from quantmill.formats.floats import cast
from quantmill.formats.hf.files.weights import read_weights
from quantmill.formats.hf.packed import decode_packed
from quantmill.formats.hf.tables.packed_tensors import unpack_blocks
from quantmill.formats.ir import Tensor
from quantmill.formats.qtypes import F32


@pytest.fixture
def decode(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """``decode(parts, quantization, said=[])``: the layer ``m`` of a checkpoint that has nothing else."""

    def read(parts: dict[str, torch.Tensor], quantization: dict[str, Any] | None, said: list[str] | None = None) -> Any:
        folder = tmp_path_factory.mktemp("packed")
        save_file({name: part.contiguous() for name, part in parts.items()}, folder / "model.safetensors")
        raw = {} if quantization is None else {"quantization_config": quantization}
        (folder / "config.json").write_text(json.dumps(raw))
        lines = [] if said is None else said
        return decode_packed(read_weights(folder), raw, folder, say=lines.append)

    return read


@pytest.fixture
def floats() -> Callable[[Tensor], torch.Tensor]:
    """A tensor's weights as float32, read in uneven ranges."""

    def read(tensor: Tensor) -> torch.Tensor:
        tensor = cast(unpack_blocks(tensor), F32)
        cuts = sorted({0, tensor.n_rows // 3, tensor.n_rows // 2 + 1, tensor.n_rows})
        rows = [tensor.rows(a, b) for a, b in pairwise(cuts)]
        return torch.from_numpy(np.concatenate(rows).view(np.float32).reshape(tensor.shape).copy())

    return read
