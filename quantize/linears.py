"""What GPTQ and AWQ need to know of the linear layers in a decoder block, and what they report of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from ..formats.ir import Role


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
    """

    name: str
    role: str
    tokens: int
    loss: float
    relative: float
