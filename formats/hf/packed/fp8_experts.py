"""FP8 experts as transformers 5 saves them: the scales of all of a layer's experts in one tensor.

``experts.gate_up_proj_scale_inv`` [E, rows, columns] stands beside each expert's own ``gate_proj.weight`` (or ``w1``),
and the rows of ``up_proj`` follow those of ``gate_proj``; or beside ``experts.gate_up_proj`` [E, 2I, H]. Source:
``FP8Experts`` of integrations/finegrained_fp8.py and the conversion of experts in conversion_mapping.py, 5.23.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from ...errors import FormatError
from ..files.safetensors import DTYPE_BITS, StoredTensor
from ..files.weights import Stored

SCALE = "_scale_inv"
# The experts' own projections whose rows a tensor of all experts joins, in order.
_JOINED = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
    "up_proj": (("up_proj",), ("w3",)),
}


def spread_scales(weights: Mapping[str, Stored]) -> dict[str, Stored]:
    """Give each expert's weight, or the weight of them all, the scales that belong to it, under its own name.

    Args:
        weights: the checkpoint's tensors.

    Returns:
        the tensors; a weight of all experts under its name and ``.weight``.

    Raises:
        FormatError: the scales fit no number of experts.
    """
    found = dict(weights)
    for name in weights:
        stem, _, joined = name.removesuffix(SCALE).rpartition(".")
        if not name.endswith(SCALE) or joined not in _JOINED or not _are_experts(stem):
            continue
        together = f"{stem}.{joined}"
        if together in weights:
            found[f"{together}.weight"] = found.pop(together)
            found[f"{together}.weight{SCALE}"] = found.pop(name)
        else:
            found |= _of_each(found.pop(name), stem, joined, weights)
    return found


def is_of_all(module: str) -> bool:
    """Whether a module's name is that of a weight of all experts, which has no ``.weight`` in the checkpoint."""
    stem, _, last = module.rpartition(".")
    return last in _JOINED and _are_experts(stem)


def _are_experts(module: str) -> bool:
    """Whether a module is that of all experts: ``mlp.experts``, and not ``mlp.shared_experts``, which is one layer."""
    return module.rpartition(".")[2] == "experts"


def _of_each(scales: Stored, stem: str, joined: str, weights: Mapping[str, Stored]) -> dict[str, Stored]:
    parts = next((one for one in _JOINED[joined] if f"{stem}.0.{one[0]}.weight" in weights), None)
    if parts is None or not isinstance(scales, StoredTensor):
        return {f"{stem}.{joined}{SCALE}": scales}  # of no weight that there is: told as an unknown tensor
    n = len(parts)
    shape = scales.shape
    if len(shape) != 3 or shape[1] % n or f"{stem}.{shape[0] - 1}.{parts[0]}.weight" not in weights:
        problem = f"its shape is {list(shape)}, not [experts, rows of {' and '.join(parts)}, columns]"
        raise FormatError(problem, path=scales.path, where=scales.name)
    each = (shape[1] // n, shape[2])
    size = prod(each) * DTYPE_BITS[scales.dtype] // 8
    found: dict[str, Stored] = {}
    for i in range(shape[0] * n):
        name = f"{stem}.{i // n}.{parts[i % n]}.weight{SCALE}"
        found[name] = replace(scales, name=name, shape=each, offset=scales.offset + i * size, nbytes=size)
    return found
