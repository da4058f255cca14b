"""The factors that GGUF holds beside weights: llama.cpp multiplies what the layer of ``X.weight`` gives by ``X.scale``.

A weight of NVFP4 needs one where a checkpoint scales its blocks' scales once more. llama.cpp loads it for the roles of
a list, whatever the architecture and the weight's type; whether it multiplies depends on the architecture's graph.
``X.input_scale`` is for processors that compute in NVFP4, and changes no weight. Source: ``load_tensors`` of
llama-model.cpp (b11549), ``_write_scale_tensor`` of conversion/base.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..arrays import tensor_from_array
from ..errors import FormatError
from ..floats import to_f32
from ..ir import Model, Role, Tensor
from .scaled_roles import SCALED_ROLES

_OWN = {("gemma4", Role.FFN_DOWN_EXPS), ("gemma4", Role.FFN_GATE_INP)}  # tensors of the architecture, of that name
_WEIGHT, _SCALE, _INPUT = ".weight", ".scale", ".input_scale"
OUTPUT_SCALE = "output.scale"  # of the head; llama.cpp loads it for NVFP4 alone


@dataclass(frozen=True)
class FactoredTensor(Tensor):
    """A tensor whose weights are those of its blocks times a factor.

    Args:
        factors: float32 [1], or [matrices] of a stack.
    """

    factors: tuple[float, ...] = (1.0,)

    def row_factors(self, a: int, b: int) -> NDArray[np.float32]:
        """The factors of rows a to b: float32 [1, 1] or [b-a, 1]."""
        factors = np.array(self.factors, np.float32)
        if factors.size > 1:
            factors = factors[np.arange(a, b) // (self.n_rows // factors.size)]
        return factors[:, None]


def holds_factor(arch: str, tensor: Tensor, names: Collection[str]) -> bool:
    """Whether llama.cpp multiplies with a factor beside a weight.

    Args:
        arch: GGUF's name of the architecture.
        tensor: the weight.
        names: of the model's tensors.
    """
    stem = tensor.name.removesuffix(_WEIGHT)
    biased = tensor.role.value.startswith("ffn") and f"{stem}.bias" in names  # the bias would be multiplied, too
    return (
        tensor.name.endswith(_WEIGHT)
        and tensor.role.value in SCALED_ROLES.get(arch, "").split()
        and (arch, tensor.role) not in _OWN
        and not biased
    )


def factor_tensors(weight: Tensor, factors: NDArray[np.float32], inputs: Iterable[float]) -> Iterator[Tensor]:
    """The tensors that stand beside a weight: its factors, and those of its inputs if there are any."""
    stem = weight.name.removesuffix(_WEIGHT)
    for part, values in ((_SCALE, factors), (_INPUT, np.array(tuple(inputs), np.float32))):
        if values.size:
            made = tensor_from_array(stem + part, np.asarray(values, np.float32))
            yield replace(made, role=weight.role, layer=weight.layer, source=weight.source)


def with_factors(model: Model) -> Model:
    """The model with each factor in its weight, as a ``FactoredTensor``, in place of the tensors beside it.

    Raises:
        FormatError: a factor is not one finite float for the tensor or for each matrix of a stack.
    """
    given = {tensor.name: tensor for tensor in model}
    factors = {
        name: given[scale]
        for name, tensor in given.items()
        if (scale := name.removesuffix(_WEIGHT) + _SCALE) in given
        and name.endswith(_WEIGHT)
        and (model.arch, tensor.role) not in _OWN
    }
    if not factors:
        return model
    gone = {name.removesuffix(_WEIGHT) + part for name in factors for part in (_SCALE, _INPUT)}
    return replace(
        model,
        tensors=tuple(
            _factored(tensor, factors[tensor.name], model.path) if tensor.name in factors else tensor
            for tensor in model
            if tensor.name not in gone
        ),
    )


def _factored(weight: Tensor, scale: Tensor, path: Path) -> FactoredTensor:
    matrices = weight.shape[0] if len(weight.shape) == 3 else 1
    if not scale.qtype.is_float or scale.n_weights not in (1, matrices):
        problem = f"{scale.qtype} {list(scale.shape)} is not a factor for {list(weight.shape)} weights"
        raise FormatError(problem, path=path, where=scale.name, hint="convert the original checkpoint again")
    values = to_f32(scale.rows(0, scale.n_rows), scale.qtype).reshape(-1)
    if not np.isfinite(values).all():
        raise FormatError("a factor is not a finite number", path=path, where=scale.name, hint="the file is damaged")
    known = {one.name: getattr(weight, one.name) for one in fields(Tensor)}
    return FactoredTensor(**known, factors=tuple(float(value) for value in values))
