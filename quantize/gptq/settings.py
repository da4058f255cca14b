"""The settings of GPTQ."""

from __future__ import annotations

from dataclasses import dataclass

from ...formats.errors import PlanError
from ..linears import MIN_TOKENS, check_min_tokens

BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class GPTQSettings:
    """How GPTQ quantizes each linear layer.

    Args:
        bits: of a weight: 2, 3, 4 or 8.
        group_size: how many inputs share a scale; -1 for all of them.
        desc_act: make groups of inputs with similar activations, the largest first, so that ``g_idx`` is in no order.
        static_groups: take scales from the original weights; inputs are quantized in the order of ``desc_act``, but
            groups are not made in that order.
        sym: the zero point is the middle code, instead of any.
        damp: what is added to the Hessian's diagonal, as a part of the diagonal's mean.
        search: try smaller scales than the largest weight needs.
        min_tokens: an expert that saw fewer tokens of the text is rounded to nearest, without it.

    Example:
        >>> from quantmill import GPTQSettings
        >>> GPTQSettings(bits=5).check()
        Traceback (most recent call last):
        quantmill.formats.errors.PlanError: 5 bits cannot be stored (one of 2, 3, 4, 8)
        >>> GPTQSettings(group_size=128).groups(576)
        5
    """

    bits: int = 4
    group_size: int = 128
    desc_act: bool = False
    static_groups: bool = False
    sym: bool = True
    damp: float = 0.01
    search: bool = True
    min_tokens: int = MIN_TOKENS

    def check(self) -> None:
        """Raise ``PlanError`` if no weight can be written with these settings."""
        if self.bits not in BITS:
            raise PlanError(f"{self.bits} bits cannot be stored", hint=f"one of {', '.join(map(str, BITS))}")
        if self.group_size != -1 and self.group_size < 1:
            raise PlanError(f"invalid group size {self.group_size}", hint="128, 64, 32, or -1 for one group")
        if not 0 <= self.damp < 1:
            raise PlanError(f"invalid damping {self.damp:g}", hint="0 or more, and less than 1")
        check_min_tokens(self.min_tokens)

    def check_shape(self, name: str, n_out: int, n_in: int) -> None:
        """Raise ``PlanError`` if a weight [n_out, n_in] cannot be written with these settings."""
        for count, what in ((n_in, "inputs"), (n_out, "outputs")):
            if count * self.bits % 32:
                raise PlanError(f"{count} {what} of {self.bits} bits do not fill words of 32 bits", where=name)

    def groups(self, n_in: int) -> int:
        """How many groups ``n_in`` inputs make; the last is smaller where the size does not divide the width."""
        return 1 if self.group_size == -1 else -(-n_in // self.group_size)
