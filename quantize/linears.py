"""What GPTQ and AWQ need to know of the linear layers in a decoder block, and what they report of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from ..formats.errors import PlanError, QuantmillError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from ..formats.ir import Role


MIN_TOKENS = 32  # see docs/commands.md; other programs use half a percent of the text, 1,300 of its tokens

ScaleType = Literal["F32", "F16", "BF16"]


class Linear(Protocol):
    """A linear layer whose weight can be changed in place: what is written is what the block computes with."""

    @property
    def name(self) -> str:
        """The module's name in the checkpoint, such as ``model.layers.0.self_attn.q_proj``."""

    @property
    def role(self) -> Role:
        """What the layer is for."""

    @property
    def weight(self) -> torch.Tensor:
        """float [out, in]"""

    @property
    def bias(self) -> torch.Tensor | None:
        """float [out]"""

    @property
    def expert(self) -> int | None:
        """The expert's number, in a stack of experts."""

    @property
    def stored(self) -> str:
        """The checkpoint's tensor that holds the weight, alone or with those of other experts."""


class LinearGroup(Protocol):
    """Linear layers that read the same input."""

    @property
    def linears(self) -> Sequence[Linear]: ...

    @property
    def width(self) -> int:
        """How many inputs the layers have."""

    @property
    def name(self) -> str:
        """The first layer's name."""


@dataclass(frozen=True)
class LinearReport:
    """How well one linear layer was quantized.

    Args:
        name: the module's name in the checkpoint.
        role: what the layer is for, such as ``attn_q``.
        tokens: how many tokens of the text it saw; 0 for an expert that none was routed to.
        loss: squared error of its outputs, per token and output.
        relative: the same as a share of the outputs' own square.
        by_text: False for an expert that saw too few tokens, which was rounded to nearest.
    """

    name: str
    role: str
    tokens: int
    loss: float
    relative: float
    by_text: bool = field(default=True, kw_only=True)


def unseen(group: LinearGroup, tokens: int, least: int) -> bool:
    """Whether a group of an expert's linear layers saw too few tokens to be quantized by what they make of a text."""
    return tokens == 0 or (group.linears[0].expert is not None and tokens < least)


def unseen_remarks(groups: Sequence[LinearGroup], least: int) -> Iterator[str]:
    """Name the groups that were rounded to nearest: a line for each that is no expert's, and one for all experts.

    Args:
        groups: of one block.
        least: fewer tokens are too few for an expert.
    """
    experts: dict[str, list[int]] = {}
    for group in groups:
        first = group.linears[0]
        if first.expert is None:
            yield f"{group.name}: saw no tokens, rounded to nearest"
        else:
            place, number, part = group.name.rpartition(f".{first.expert}.")
            experts.setdefault(f"{place}.*{'.' if number else ''}{part}", []).append(first.expert)
    for name, numbers in experts.items():
        shown = ", ".join(map(str, sorted(numbers)))
        yield f"{name}: saw fewer than {least} tokens, rounded to nearest: {shown}"


def own_scale_type(stored: str) -> ScaleType:
    """The type that scales have beside weights of a type in the checkpoint: the same."""
    return next((one for one in get_args(ScaleType) if one == stored), "F16")


def stored_scales(scales: NDArray[np.float32], kind: ScaleType, name: str) -> NDArray[Any]:
    """Scales, to whose precision they were rounded already, as they are stored: those of BF16, which numpy has not, as
    the bits of whole numbers.

    Raises:
        QuantmillError: one has no half.
    """
    if kind == "BF16":
        bits: NDArray[np.uint32] = np.ascontiguousarray(scales).view(np.uint32)
        return (bits >> np.uint32(16)).astype(np.uint16)
    with np.errstate(over="ignore"):
        half = scales.astype(np.float16)
    if not np.isfinite(half).all():
        raise QuantmillError("a weight is too large for scales in half precision", where=name)
    return half if kind == "F16" else scales


def check_min_tokens(number: int) -> None:
    """Raise ``PlanError`` for a number of tokens below one, with which an expert would need none."""
    if number < 1:
        raise PlanError(f"{number} tokens are not enough for an expert", hint="--min-tokens 1 or more")


def module_of(module: torch.nn.Module, linear: Linear) -> torch.nn.Module:
    """The module of a block that has a linear layer's weight.

    Raises:
        PlanError: it is no module's weight, so that none could be replaced.
    """
    found = next((one for one in module.modules() if getattr(one, "weight", None) is linear.weight), None)
    if found is None:
        raise PlanError(
            "is no module's weight, and only modules are replaced", where=linear.name, hint="quantize to GGUF"
        )
    return found
