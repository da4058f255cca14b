"""The settings of AWQ."""

from __future__ import annotations

from dataclasses import dataclass

from ...formats.errors import PlanError
from ..linears import MIN_TOKENS, check_min_tokens

GROUP_SIZES = (32, 64, 128, -1)  # those that clients take; -1: all inputs of a row


@dataclass(frozen=True)
class AWQSettings:
    """How AWQ quantizes each linear layer, in 4 bits.

    Args:
        group_size: how many inputs share a scale: 32, 64, 128, or -1 for all of a row.
        scales: search scales for the inputs before weights are rounded.
        clip: search smaller ranges for the groups. Without both, each weight is rounded to nearest.
        min_tokens: an expert that saw fewer tokens of the text is rounded to nearest, without it.
        sym: the zero point is the middle code, instead of any.

    Example:
        >>> from quantmill import AWQSettings
        >>> AWQSettings(group_size=48).check()
        Traceback (most recent call last):
        quantmill.formats.errors.PlanError: AWQ has no groups of 48 (one of 32, 64, 128, -1)
    """

    group_size: int = 128
    scales: bool = True
    clip: bool = True
    min_tokens: int = MIN_TOKENS
    sym: bool = False

    def check(self) -> None:
        """Raise ``PlanError`` for a group size that no client takes."""
        if self.group_size not in GROUP_SIZES:
            sizes = ", ".join(map(str, GROUP_SIZES))
            raise PlanError(f"AWQ has no groups of {self.group_size}", hint=f"one of {sizes}")
        check_min_tokens(self.min_tokens)

    def check_shape(self, name: str, n_out: int, n_in: int) -> None:
        """Raise ``PlanError`` if a weight [n_out, n_in] cannot be written with these settings."""
        if self.group_size > 0 and n_in % self.group_size:
            fits = next((size for size in (128, 64, 32) if n_in % size == 0), -1)
            problem = f"groups of {self.group_size} do not divide its {n_in} inputs"
            raise PlanError(problem, where=name, hint=f"--group-size {fits}")
        if n_out % 8:
            raise PlanError(f"{n_out} outputs do not fill words of eight codes", where=name, hint="quantize to GGUF")
