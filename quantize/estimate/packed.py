"""The size of a GPTQ checkpoint, from shapes alone.

Every linear layer of the blocks becomes qweight, qzeros, scales, g_idx and a bias of zeros (AutoGPTQ wrote one even for
Llama, and the sizes published in its day include it); embeddings, norms and output matrix stay in 16 bits.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...formats.errors import PlanError
from ...formats.ir import Model, Tensor
from ..choose import may_quantize
from .levels import LevelSize

BITS = (2, 3, 4, 8)
GROUPS = (32, 64, 128, -1)
_BYTES = {"I32": 4, "F16": 2}


class PackedTensor(NamedTuple):
    """A tensor of the checkpoint to be; ``dtype`` as safetensors names it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return _BYTES[self.dtype] * math.prod(self.shape)


@dataclass(frozen=True)
class Variant:
    """The settings of a GPTQ checkpoint.

    Args:
        bits: 2, 3, 4 or 8.
        group_size: the number of inputs that share a scale; -1 for whole rows.
        desc_act: whether columns are quantized in the order of their activations. It has no influence on sizes.
    """

    bits: int
    group_size: int
    desc_act: bool

    @property
    def name(self) -> str:
        """The name that branches of published models have, such as ``4bit-128g-actorder_True``."""
        return f"{self.bits}bit-{'-1' if self.group_size < 0 else self.group_size}g-actorder_{self.desc_act}"


# The variants of a published set.
VARIANTS = (
    Variant(4, 128, False),
    Variant(4, 32, True),
    Variant(4, 64, True),
    Variant(4, 128, True),
    Variant(8, -1, True),
    Variant(8, 128, False),
    Variant(8, 128, True),
    Variant(8, 64, True),
)
_NAME = re.compile(r"(?:gptq-)?(\d+)-?bit(?:-{1,2}(\d+)g)?(?:-actorder_(true|false))?", re.IGNORECASE)


def parse_variant(text: str) -> Variant:
    """Parse a name such as ``4bit-128g``, ``8bit--1g-actorder_True`` or ``gptq-4bit-32g-actorder_False``.

    Raises:
        PlanError: the name has another form, or a number of bits or a group size that GPTQ does not have.
    """
    match = _NAME.fullmatch(text)
    hint = "such as 4bit-128g or 8bit--1g-actorder_True"
    if match is None:
        raise PlanError(f"unknown GPTQ variant {text!r}", hint=hint)
    group = -1 if match[2] in (None, "1") else int(match[2])
    if int(match[1]) not in BITS or group not in GROUPS:
        raise PlanError(f"GPTQ has no {text!r}", hint=f"bits {BITS}, groups {GROUPS}; {hint}")
    return Variant(int(match[1]), group, (match[3] or "").lower() == "true")


def size_variants(model: Model, variants: Sequence[Variant] = VARIANTS) -> list[LevelSize]:
    """Calculate the size of the safetensors file of each variant, including its header."""
    return [_size(model, variant) for variant in variants]


def _size(model: Model, variant: Variant) -> LevelSize:
    packed: list[PackedTensor] = []
    kinds: Counter[str] = Counter()
    for tensor in model.tensors:
        linear = tensor.layer is not None and len(tensor.shape) > 1 and may_quantize(tensor, model.arch)
        if linear and (problem := _misfit(tensor, variant)):
            return LevelSize(variant.name, problem=problem)
        kinds[f"GPTQ {variant.bits} bit" if linear else "F16"] += 1
        packed += _packed(tensor, variant) if linear else [PackedTensor(tensor.name, "F16", tensor.shape)]
    data = sum(one.nbytes for one in packed)
    n_weights = sum(tensor.n_weights for tensor in model.tensors)
    return LevelSize(variant.name, 8 + _header(packed) + data, data * 8 / max(1, n_weights), dict(kinds))


def _misfit(tensor: Tensor, variant: Variant) -> str:
    if tensor.width % max(variant.group_size, 32) or tensor.shape[-2] % 32:
        return f"{tensor.name}: {list(tensor.shape)} does not divide into groups of {variant.group_size} and words"
    return ""


def _packed(tensor: Tensor, variant: Variant) -> Iterator[PackedTensor]:
    """The tensors that replace a weight [out, in], or each weight of a stack."""
    *stack, n, k = tensor.shape
    groups = k // variant.group_size if variant.group_size > 0 else 1
    base = tensor.name.removesuffix(".weight")
    for i in range(stack[0] if stack else 1):
        name = f"{base}.{i}" if stack else base
        yield PackedTensor(f"{name}.qweight", "I32", (k * variant.bits // 32, n))
        yield PackedTensor(f"{name}.qzeros", "I32", (groups, n * variant.bits // 32))
        yield PackedTensor(f"{name}.scales", "F16", (groups, n))
        yield PackedTensor(f"{name}.g_idx", "I32", (k,))
        yield PackedTensor(f"{name}.bias", "F16", (n,))


def _header(packed: Sequence[PackedTensor]) -> int:
    """The size of the safetensors header, within a few kB: the checkpoint's own names are longer than GGUF's."""
    entries = {
        f"model.layers.{name}": {"dtype": dtype, "shape": shape, "data_offsets": [10**9, 10**9]}
        for name, dtype, shape in packed
    }
    return -(-len(json.dumps(entries, separators=(",", ":"))) // 8) * 8
