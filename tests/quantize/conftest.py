"""Models in memory, and llama.cpp's answers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantmill.formats.gguf.names import parse_name
from quantmill.formats.ir import Model, Tensor, Value, ValueType
from quantmill.formats.qtypes import F16, F32

GOLDENS = Path(__file__).parent / "goldens"


def _u32(n: int) -> Value:
    return Value(ValueType.UINT32, n)


def model_of(
    tensors: list[Tensor], arch: str = "llama", layers: int = 1, heads: int = 8, kv: int = 8, experts: int = 0
) -> Model:
    metadata = {
        "general.architecture": Value(ValueType.STRING, arch),
        f"{arch}.block_count": _u32(layers),
        f"{arch}.attention.head_count": _u32(heads),
        f"{arch}.attention.head_count_kv": _u32(kv),
    }
    if experts:
        metadata[f"{arch}.expert_count"] = _u32(experts)
    return Model(arch, metadata, tuple(tensors), Path("model.gguf"))


def tensor_of(name: str, data: np.ndarray) -> Tensor:
    qtype = {np.dtype("f2"): F16, np.dtype("f4"): F32}[data.dtype]
    rows = np.ascontiguousarray(data).reshape(-1, data.shape[-1]).view(np.uint8)
    role, layer = parse_name(name)
    return Tensor(name, role, layer, data.shape, qtype, lambda a, b: rows[a:b])


def _no_weights(a: int, b: int) -> Any:
    raise AssertionError("a plan reads no weights")


def shell_of(spec: dict[str, Any]) -> Model:
    """A model of the goldens: shapes without weights."""
    tensors = [
        Tensor(name, *parse_name(name), tuple(shape), F32 if len(shape) == 1 else F16, _no_weights)
        for name, shape in spec["shapes"].items()
    ]
    return model_of(tensors, spec["arch"], spec["layers"], spec["heads"], spec["kv"], spec["experts"])


@pytest.fixture(scope="session")
def goldens() -> dict[str, Any]:
    """Types by llama.cpp; made by tests/oracles/make_type_goldens.py."""
    found: dict[str, Any] = json.loads(gzip.decompress((GOLDENS / "types.json.gz").read_bytes()))
    return found


@pytest.fixture(scope="session")
def shell() -> Callable[[dict[str, Any]], Model]:
    return shell_of


@pytest.fixture
def tensor() -> Callable[[str, np.ndarray], Tensor]:
    return tensor_of


@pytest.fixture
def model() -> Callable[..., Model]:
    return model_of


@pytest.fixture
def tiny(rng: np.random.Generator) -> Model:
    """A Llama of two layers, 256 wide, F16 with F32 norms."""
    shapes = {"token_embd": (40, 256), "output_norm": (256,), "output": (40, 256)}
    for i in range(2):
        block = {f"attn_{x}": (256, 256) for x in ("q", "k", "v", "output")}
        block |= {"attn_norm": (256,), "ffn_norm": (256,)}
        block |= {"ffn_gate": (512, 256), "ffn_up": (512, 256), "ffn_down": (256, 512)}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in block.items()}
    tensors = [
        tensor_of(f"{name}.weight", rng.standard_normal(shape).astype("f4" if len(shape) == 1 else "f2"))
        for name, shape in shapes.items()
    ]
    return model_of(tensors, layers=2, heads=4, kv=4)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
