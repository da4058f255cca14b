"""The folds of a decoder block: where its inputs can be scaled, and the tensors that change with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ...formats.ir import Role
from ..linears import Linear, LinearGroup
from .folds import FOLDS, ROUTERS, Fold

Member = tuple[Linear, LinearGroup]


@dataclass(frozen=True, eq=False)
class FloatTensor:
    """A tensor of a block that stays in floats: a norm's, or a router's.

    Args:
        name: its name in the checkpoint.
        values: the block's own memory, or None where the block has no such parameter.
        offset: what the block adds to the values before it uses them, as some norms do with 1.
    """

    name: str
    values: torch.Tensor | None
    offset: float = 0.0


FloatTensors = Mapping[tuple[Role, str], FloatTensor]  # by role and part, "weight" or "bias"


@dataclass(frozen=True, eq=False)
class BlockFold:
    """A fold that a block has the parts for, and its tensors.

    Args:
        fold: which.
        name: the source's name in the checkpoint, without ``.weight``.
        source: the norm's or the linear layer's weight, [n] or [n, in].
        bias: its bias, or None.
        offset: what the norm adds to its weight.
        into: the linear layers whose inputs are scaled, and the groups they belong to.
        routers: (name in the checkpoint, weight) of what reads the same inputs and stays in floats.
        shared: [n_kv, heads, dim] of the inputs, where several inputs are one row of the source.
    """

    fold: Fold
    name: str
    source: torch.Tensor
    bias: torch.Tensor | None
    offset: float
    into: tuple[Member, ...]
    routers: tuple[tuple[str, torch.Tensor], ...] = ()
    shared: tuple[int, int, int] | None = None

    @property
    def groups(self) -> tuple[LinearGroup, ...]:
        return tuple(dict.fromkeys(group for _, group in self.into))

    def average_shared(self, values: torch.Tensor) -> torch.Tensor:
        """float [in] with the mean in place of inputs that are one row of the source."""
        if self.shared is None:
            return values
        return values.reshape(self.shared).mean(1, keepdim=True).expand(self.shared).reshape(-1)

    def to_source(self, scales: torch.Tensor) -> torch.Tensor:
        """Scales of the inputs [in] as scales of the source's rows [n]."""
        return scales if self.shared is None else scales.reshape(self.shared)[:, 0].reshape(-1)

    def to_inputs(self, scales: torch.Tensor) -> torch.Tensor:
        """The inverse of ``to_source``."""
        if self.shared is None:
            return scales
        kv, _, dim = self.shared
        return scales.reshape(kv, 1, dim).expand(self.shared).reshape(-1)

    def apply(self, scales: torch.Tensor) -> None:
        """Multiply the columns of all that reads the inputs by ``scales`` [in], and divide the source's rows."""
        for weight in (*(linear.weight for linear, _ in self.into), *(weight for _, weight in self.routers)):
            weight.mul_(scales)
        own = self.to_source(scales)
        if self.source.dim() == 1:
            self.source.add_(self.offset).div_(own).sub_(self.offset)
        else:
            self.source.div_(own[:, None])
        if self.bias is not None:
            self.bias.div_(own)


def find_folds(stage: Sequence[LinearGroup], floats: FloatTensors, head_dim: int) -> Iterator[BlockFold]:
    """The folds that a block has the parts for.

    Args:
        stage: all linear layers of the block.
        floats: its norms and routers.
        head_dim: width of an attention head; 0 where it is not known.
    """
    linears: dict[Role, list[Member]] = {}
    for group in stage:
        for linear in group.linears:
            linears.setdefault(linear.role, []).append((linear, group))
    for fold in FOLDS:
        into = [member for role in fold.into for member in linears.get(role, ())]
        if fold.source in linears:
            yield from _from_linears(fold, linears[fold.source], into, head_dim)
        elif into and (fold.source, "weight") in floats:
            norm = floats[fold.source, "weight"]
            bias = floats.get((fold.source, "bias"))
            readers = [floats[role, "weight"] for role in fold.into if role in ROUTERS and (role, "weight") in floats]
            routers = tuple((router.name, router.values) for router in readers if router.values is not None)
            if norm.values is not None and norm.values.dim() == 1 and len(routers) == len(readers):
                name = norm.name.removesuffix(".weight")
                bias_values = None if bias is None else bias.values
                yield BlockFold(fold, name, norm.values, bias_values, norm.offset, tuple(into), routers)


def _from_linears(fold: Fold, sources: Sequence[Member], into: Sequence[Member], head_dim: int) -> Iterator[BlockFold]:
    for source, _ in sources:
        mine = tuple((linear, group) for linear, group in into if linear.expert == source.expert)
        rows = len(source.weight)
        if not mine or mine[0][1].width % rows:
            continue
        heads, shared = mine[0][1].width // rows, None
        if heads > 1:
            if not fold.heads or not head_dim or rows % head_dim:
                continue
            shared = (rows // head_dim, heads, head_dim)
        yield BlockFold(fold, source.name, source.weight, source.bias, 0.0, mine, (), shared)
