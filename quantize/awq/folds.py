"""Where AWQ's scales go: which norm or linear layer makes the inputs of which others, and so can absorb the inverse."""

from __future__ import annotations

from dataclasses import dataclass

from ...formats.ir import Role

ROUTERS = (Role.FFN_GATE_INP, Role.FFN_GATE_INP_SHEXP)
UNCLIPPED = (Role.ATTN_Q, Role.ATTN_K, Role.ATTN_QKV)  # clipping q or k changes which tokens attend to which


@dataclass(frozen=True)
class Fold:
    """A pair of layers between which inputs can be scaled without changing what the block computes.

    Args:
        source: a norm (its weight absorbs the inverse), or a linear layer (its rows do); of experts, each one's own.
        into: the linear layers whose inputs the source makes, and routers that read the same inputs.
        heads: several of the inputs may be one output of the source: attention heads that share a value head.
    """

    source: Role
    into: tuple[Role, ...]
    heads: bool = False


# In the order of the block. Whether one holds in an architecture (no norm or gate between) is tested on a chunk.
FOLDS = (
    Fold(Role.ATTN_NORM, (Role.ATTN_Q, Role.ATTN_K, Role.ATTN_V)),
    Fold(Role.ATTN_V, (Role.ATTN_OUTPUT,), heads=True),
    Fold(
        Role.FFN_NORM,
        (
            Role.FFN_GATE, Role.FFN_UP, Role.FFN_GATE_EXPS, Role.FFN_UP_EXPS, Role.FFN_GATE_SHEXP, Role.FFN_UP_SHEXP,
            *ROUTERS,
        ),
    ),
    Fold(Role.FFN_UP, (Role.FFN_DOWN,)),
    Fold(Role.FFN_UP_EXPS, (Role.FFN_DOWN_EXPS,)),
    Fold(Role.FFN_UP_SHEXP, (Role.FFN_DOWN_SHEXP,)),
)  # fmt: skip
