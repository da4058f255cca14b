"""Hyper-connections (mHC): several residual streams, mixed before and after each part of a layer."""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import EMBD, Dim
from ..tables.rows import Key
from ..tables.rules import Rule
from .shared import LAYER_PREFIX

STREAMS = Dim("hc_mult")
_MIXES = (2 + STREAMS) * STREAMS  # into a part, out of it, and from stream to stream
HC_KEYS = (
    Key("hc_mult", "hyper_connection.count"),
    Key("hc_sinkhorn_iters", "hyper_connection.sinkhorn_iterations"),
    Key("hc_eps", "hyper_connection.epsilon"),
)
_PARTS = {
    "attn": (Role.HC_ATTN_FN, Role.HC_ATTN_BASE, Role.HC_ATTN_SCALE),
    "ffn": (Role.HC_FFN_FN, Role.HC_FFN_BASE, Role.HC_FFN_SCALE),
}


def hyper_connections() -> tuple[Rule, ...]:
    """The rules of the mixes around attention and MLP."""
    sizes = {"fn": (_MIXES, STREAMS * EMBD), "base": (_MIXES,), "scale": (Dim(3),)}
    return tuple(
        Rule(f"{LAYER_PREFIX}hc_{part}_{name}", role, size, tensor=True)
        for part, roles in _PARTS.items()
        for (name, size), role in zip(sizes.items(), roles, strict=True)
    )


def output_streams(at: str) -> tuple[Rule, ...]:
    """The rules of what makes one stream of all, after the last layer.

    Args:
        at: the beginning of the names.
    """
    return (
        Rule(at + "fn", Role.OUTPUT_HC_FN, (STREAMS, STREAMS * EMBD), tensor=True),
        Rule(at + "base", Role.OUTPUT_HC_BASE, (STREAMS,), tensor=True),
        Rule(at + "scale", Role.OUTPUT_HC_SCALE, (Dim(1),), tensor=True),
    )
