"""The linear layers of a block, and which of them read the same input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..formats.errors import UnmatchedTensor
from ..formats.hf.tables.dimensions import at_layer
from ..formats.hf.tables.expert_names import expert_names
from ..formats.ir import Role
from .weights import Weights

if TYPE_CHECKING:
    from ..formats.hf.tables.rules import Rule

# Routers are never quantized: they decide which expert runs.
_NEVER_QUANTIZED = (Role.FFN_GATE_INP, Role.FFN_GATE_INP_SHEXP)


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer of the running block.

    Args:
        name: the module's name in the checkpoint, e.g. ``model.layers.0.self_attn.q_proj``.
        role: what it is for.
        weight: [out, in], float, the block's own memory: the block computes with what is written here.
        bias: [out], likewise, or None.
        expert: the expert's number in a stack of experts, else None.
        stored: the checkpoint's tensor that holds the weight, alone or with those of other experts.
    """

    name: str
    role: Role
    weight: torch.Tensor
    bias: torch.Tensor | None = None
    expert: int | None = None
    stored: str = ""


@dataclass(frozen=True, eq=False)
class Group:
    """Linears that read the same input."""

    linears: tuple[Linear, ...]

    @property
    def width(self) -> int:
        """Columns of the weights."""
        return int(self.linears[0].weight.shape[1])

    @property
    def name(self) -> str:
        """The first linear's name."""
        return self.linears[0].name


Stage = tuple[Group, ...]


def block_linears(weights: Weights, layer: int, module: torch.nn.Module) -> dict[str, list[tuple[Linear, ...]]]:
    """Find a block's linears: by parameter of transformers, for each expert (or once, without experts), a tuple.

    Experts that the checkpoint keeps in one tensor have the names of the architecture's layout with a tensor for each.

    Raises:
        UnmatchedTensor: the architecture has no names of their own for the experts.
    """
    config = at_layer(weights.config, layer, weights.n_layers)
    per_layer = [rule for rule in weights.arch.rules if rule.per_layer and rule.when(config)]
    rule_of = {
        name: (rule, role)
        for rule in per_layer
        for name, role in zip(rule.targets(layer, "weight"), rule.roles, strict=True)
    }
    parameters = dict(module.named_parameters())
    found: dict[str, list[tuple[Linear, ...]]] = {}
    for name, target in weights.recorded_weights(layer, module).items():
        rules = [rule_of[tensor] for tensor in target.names]
        parameter: torch.Tensor = parameters[name]
        if any(role in _NEVER_QUANTIZED or role.value.startswith("ssm") for _, role in rules):
            continue
        if target.n_matrices == 1 and parameter.dim() != 2:  # a convolution's
            continue
        if target.n_matrices == 1:
            rule, role = rules[0]
            source, *others = rule.sources(layer, "weight", weights.config)
            if others or rule.size("weight", config) != tuple(parameter.shape):
                problem = "transformers has it in several parts, of which each would be replaced alone"
                raise UnmatchedTensor(problem, path=weights.model.path, where=source)
            bias = parameters.get(f"{name.removesuffix('.weight')}.bias")
            found[name] = [(Linear(source.removesuffix(".weight"), role, parameter, bias, None, source),)]
            continue
        if target.turned is not None:
            parameter = parameter.transpose(1, 2)
        halves = parameter.chunk(len(rules), dim=1)
        named = [_expert_names(weights, rule, role, layer) for rule, role in rules]
        found[name] = [
            tuple(
                Linear(names[expert].removesuffix(".weight"), role, half[expert], None, expert, stored[expert])
                for (_, role), (names, stored), half in zip(rules, named, halves, strict=True)
            )
            for expert in range(target.n_matrices)
        ]
    return found


def _expert_names(weights: Weights, rule: Rule, role: Role, layer: int) -> tuple[Sequence[str], Sequence[str]]:
    """For each expert its weight's name, and that of the checkpoint's tensor with it."""
    names = rule.sources(layer, "weight", weights.config)
    if "{expert}" in rule.modules[0]:
        return names, names
    alone = expert_names(weights.arch, rule, role, layer, weights.config)
    if not alone:
        problem = "the checkpoint keeps all experts in one tensor, and the architecture has no names for each"
        raise UnmatchedTensor(problem, path=weights.model.path, where=names[0], hint="quantize to GGUF instead")
    return alone, names * len(alone)
