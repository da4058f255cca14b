"""Layers packed by GPTQModel and compressed-tensors themselves, against their own decode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

GOLDENS = Path(__file__).parent / "goldens"
ORACLES = {
    "gptq": ("gptqmodel 7.6.0", 8),
    "awq": ("gptqmodel 7.6.0", 1),
    "bitsandbytes": ("bitsandbytes 0.50.2", 10),
    "compressed": ("compressed-tensors 0.20.0", 10),
}


@pytest.mark.parametrize("name", ORACLES)
def test_as_the_library_decodes(name: str, decode: Any, floats: Any) -> None:
    with safe_open(GOLDENS / f"{name}.safetensors", "pt") as file:
        oracle, configs = file.metadata()["oracle"], json.loads(file.metadata()["configs"])
        assert (oracle, len(configs)) == ORACLES[name]
        for case, config in configs.items():
            names = [name for name in file.offset_keys() if name.startswith(f"{case}.")]
            parts = {name.removeprefix(f"{case}."): file.get_tensor(name) for name in names}
            wanted = parts.pop("decoded")
            found = decode({f"m.{part}": tensor for part, tensor in parts.items()}, config)
            assert list(found) == ["m.weight"], case
            assert np.array_equal(floats(found["m.weight"]).numpy(), wanted.numpy()), case
