"""Where AWQ's scales go: what makes the inputs of which linears, and can take their inverse into its own weights."""

from __future__ import annotations

from dataclasses import dataclass

from ...formats.ir import Role

ROUTERS = (Role.FFN_GATE_INP, Role.FFN_GATE_INP_SHEXP)
UNCLIPPED = (Role.ATTN_Q, Role.ATTN_K, Role.ATTN_QKV)  # a clipped q or k changes which tokens attend to which


@dataclass(frozen=True)
class Fold:
    """One place for scales.

    Args:
        source: a norm (its weight takes them), or a linear (its rows do); of experts, each one's own.
        into: the linears whose inputs it makes, with all that read the same: a router must see them undone.
        heads: several of the linear's inputs may be one output of the source: attention heads that share a value head.
    """

    source: Role
    into: tuple[Role, ...]
    heads: bool = False


# In the order of the block. Whether one holds in an architecture (no norm or gate between) is tried on a text's chunk.
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
