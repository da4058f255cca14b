"""A LoRA adapter's pairs added to the weights that they are for, a few rows at a time.

The sum is taken in float32: ``W + scale * alpha / rank * B A``, and rounded to the weight's own type. Source:
``merge_adapter`` of tools/export-lora (llama.cpp); for the embedding, whose rows llama.cpp looks up, A is turned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import PlanError, name_list
from ..formats.floats import from_f32, to_f32
from ..formats.ir import Bytes, Model, Role, Tensor, Value, ValueType

MERGED = "quantmill.merged.lora"  # which adapter, and how much of it
_NAMED = 3


def merge_pairs(model: Model, adapter: Model, scale: float = 1.0) -> Model:
    """The model with an adapter merged into its weights. Nothing is computed before rows are read.

    Args:
        model: the base, in floats.
        adapter: as ``read_lora`` and GGUF's files of adapters have it: NAME.lora_a and NAME.lora_b.
        scale: a factor of the whole change; 1 for what the adapter was trained to do.

    Raises:
        PlanError: the adapter is none, or of another model; a weight is quantized already.
    """
    alpha = adapter.get("adapter.lora.alpha")
    if adapter.get("general.type") != "adapter" or not isinstance(alpha, (int, float)) or alpha <= 0:
        raise PlanError("is no LoRA adapter", path=adapter.path, hint="an adapter's folder, or its GGUF file")
    if adapter.arch != model.arch:
        problem = f"is for a {adapter.arch}, and the base is a {model.arch}"
        raise PlanError(problem, path=adapter.path, hint="give the model that it was trained on")
    halves = {tensor.name: tensor for tensor in adapter.tensors}
    weights = {tensor.name: tensor for tensor in model.tensors}
    names = {name.rpartition(".")[0] for name in halves}
    odd = sorted(name for name in halves if not name.endswith((".lora_a", ".lora_b")))
    lone = sorted(name for name in names if not {f"{name}.lora_a", f"{name}.lora_b"} <= halves.keys())
    if odd or lone or not names:
        problem = f"holds {name_list(odd, _NAMED)}" if odd else f"lacks half of a pair: {name_list(lone, _NAMED)}"
        raise PlanError(problem if names else "holds no pair", path=adapter.path, hint="it is damaged")
    if strange := sorted(names - weights.keys()):
        problem = f"changes {name_list(strange, _NAMED)}, which the base does not have"
        raise PlanError(problem, path=adapter.path, hint="give the model that it was trained on")
    merged = {name: _merged(weights[name], halves, float(alpha) * scale, adapter) for name in names}
    said = Value(ValueType.STRING, f"sha256 {_digest(adapter)} x {scale:g}")
    return replace(
        model,
        metadata={**model.metadata, MERGED: said},
        tensors=tuple(merged.get(tensor.name, tensor) for tensor in model.tensors),
    )


def _digest(adapter: Model) -> str:
    """A hash of what an adapter holds: it tells interrupted work of one adapter from that of another, too."""
    digest = hashlib.sha256(str(adapter.get("adapter.lora.alpha")).encode())
    for tensor in adapter.tensors:
        digest.update(f"{tensor.name} {tensor.qtype} {tensor.shape}\n".encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(tensor.rows(0, tensor.n_rows)).data)
    return digest.hexdigest()[:32]


def _merged(weight: Tensor, halves: Mapping[str, Tensor], alpha: float, adapter: Model) -> Tensor:
    first, second = halves[f"{weight.name}.lora_a"], halves[f"{weight.name}.lora_b"]
    looked_up = weight.role is Role.TOKEN_EMBD
    left, right = (first, second) if looked_up else (second, first)
    rank = right.shape[-1] if looked_up else right.shape[-2]
    width = right.shape[-2] if looked_up else right.shape[-1]
    fits = (*left.shape[:-1], width) == weight.shape and left.shape[-1] == rank and left.shape[:-2] == right.shape[:-2]
    if not fits:
        problem = f"pair of {list(first.shape)} and {list(second.shape)} for a weight of {list(weight.shape)}"
        raise PlanError(problem, path=adapter.path, where=weight.name, hint="is the base the right one?")
    if not (weight.qtype.is_float and first.qtype.is_float and second.qtype.is_float):
        raise PlanError(
            f"{weight.qtype} is no float type: what is quantized is not merged into",
            where=weight.name,
            hint="merge into the model it was made from, and quantize the sum",
        )
    out = weight.shape[-2]

    @cache
    def matrix(i: int) -> NDArray[np.float32]:
        rows = right.shape[-2]
        found = to_f32(right.rows(i * rows, (i + 1) * rows), right.qtype)
        return np.ascontiguousarray(found.T) if looked_up else found

    def read(a: int, b: int) -> Bytes:
        values = to_f32(weight.rows(a, b), weight.qtype)
        changes = to_f32(left.rows(a, b), left.qtype) * np.float32(alpha / rank)
        for i in range(a // out, -(-b // out)):  # a stack's matrices have pairs of their own
            start, end = max(a, i * out) - a, min(b, (i + 1) * out) - a
            values[start:end] += changes[start:end] @ matrix(i)
        return from_f32(values, weight.qtype)

    return replace(weight, read=read)
