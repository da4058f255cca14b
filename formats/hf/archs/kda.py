"""Kimi Delta Attention (KDA), linear attention in which each channel forgets on its own: what all that have it share.

llama.cpp has as many heads of it as of attention, and no rope in the latter's key for layers without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import EMBD, Condition, Dim, Is
from ..tables.ops import Op, Reshape
from ..tables.rules import Rule
from .mla import ATTN

LINEAR = Is("layer_types", "linear_attention")
KDA_HEADS, KDA_DIM, KERNEL = Dim("linear_num_heads"), Dim("linear_head_dim"), Dim("linear_conv_kernel_dim")
INNER = KDA_HEADS * KDA_DIM
_CONV = (INNER, Dim(1), KERNEL)


def kda_rules(*decay: Op, shape: tuple[Dim, ...], low_rank: bool = True) -> tuple[Rule, ...]:
    """The rules of a layer's KDA.

    Args:
        decay: what happens to A_log, the logarithm of the decay rates, of this ``shape``.
        low_rank: whether the gates are products of two matrices.
    """
    roles = {"q": Role.ATTN_Q, "k": Role.ATTN_K, "v": Role.ATTN_V}
    convs = {"q": Role.SSM_CONV1D_Q, "k": Role.SSM_CONV1D_K, "v": Role.SSM_CONV1D_V}
    flat = (Reshape(_CONV, (1, INNER, 1, KERNEL)),)
    gates = {"f": (Role.SSM_F_A, Role.SSM_F_B), "g": (Role.SSM_G_A, Role.SSM_G_B)}
    rules = (
        *(Rule(f"{ATTN}{name}_proj", role, (INNER, EMBD)) for name, role in roles.items()),
        *(Rule(f"{ATTN}{name}_conv1d", role, _CONV, flat) for name, role in convs.items()),
        *(
            rule
            for name, (first, second) in gates.items()
            for rule in (
                (
                    Rule(f"{ATTN}{name}_a_proj", first, (KDA_DIM, EMBD)),
                    Rule(f"{ATTN}{name}_b_proj", second, (INNER, KDA_DIM)),
                )
                if low_rank
                else (Rule(f"{ATTN}{name}_proj", first, (INNER, EMBD)),)
            )
        ),
        Rule(ATTN + "dt_bias", Role.SSM_DT, (INNER,), tensor=True, part="bias"),
        Rule(ATTN + "A_log", Role.SSM_A, shape, decay, tensor=True, part=""),
        Rule(ATTN + "b_proj", Role.SSM_BETA, (KDA_HEADS, EMBD)),
        Rule(ATTN + "o_norm", Role.SSM_NORM, (KDA_DIM,)),
        Rule(ATTN + "o_proj", Role.ATTN_OUTPUT, (EMBD, INNER)),
    )
    return only(LINEAR, rules)


def renamed(rules: tuple[Rule, ...], names: Mapping[str, str]) -> tuple[Rule, ...]:
    """The same rules for modules of other names: these parts of them are called otherwise."""

    def of(name: str) -> str:
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        return name

    return tuple(replace(rule, hf=of(rule.modules[0])) for rule in rules)


def only(when: Condition, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The same rules, in layers of which this is true."""
    return tuple(replace(rule, when=rule.when & when) for rule in rules)
