"""Map the tensor names of GGUF to roles and back, with one table.

A name is ``[enc.|dec.]blk.LAYER.BASE.PART`` inside the blocks and ``BASE.PART`` outside; the base name is the role's
value. Source: ``LLM_TENSOR_NAMES`` in llama.cpp's llama-arch.cpp.
"""

from __future__ import annotations

import re

from ..ir import Role

# The roles that stand outside the blocks; every other one stands in a block.
GLOBAL_ROLES = frozenset(
    {
        Role.TOKEN_EMBD,
        Role.TOKEN_EMBD_NORM,
        Role.TOKEN_TYPES,
        Role.POS_EMBD,
        Role.PER_LAYER_TOKEN_EMBD,
        Role.PER_LAYER_MODEL_PROJ,
        Role.PER_LAYER_PROJ_NORM,
        Role.HRM_Z_L_INIT,
        Role.ALTUP_PROJ,
        Role.ALTUP_UNEMBD_PROJ,
        Role.OUTPUT,
        Role.OUTPUT_NORM,
        Role.OUTPUT_HC_FN,
        Role.OUTPUT_HC_BASE,
        Role.OUTPUT_HC_SCALE,
        Role.OUTPUT_HC_NORM,
        Role.OUTPUT_HC_DOWN,
        Role.OUTPUT_HC_UP,
        Role.CLS,
        Role.CLS_OUT,
        Role.CLS_NORM,
        Role.DENSE_2,
        Role.DENSE_3,
        Role.ROPE_FREQS,
        Role.ROPE_FACTORS_LONG,
        Role.ROPE_FACTORS_SHORT,
    }
)

_BLOCK_ROLES: dict[str, Role] = {
    role.value: role for role in Role if role not in GLOBAL_ROLES and role is not Role.OTHER
}
_OUTER_ROLES: dict[str, Role] = {role.value: role for role in GLOBAL_ROLES}

# Ten digits are more layers than any file can hold, and bound the work of int() on a hostile name.
_BLOCK_NAME = re.compile(r"(?:enc\.|dec\.)?blk\.(\d{1,10})\.(.+)", re.DOTALL | re.ASCII)
_STACK_PREFIX = re.compile(r"(?:enc\.|dec\.)")
_PART = re.compile(r"\.(?:weight|bias|scale|input_scale)\Z")
_EXPERT = re.compile(
    r"\.\d+\Z", re.ASCII
)  # Mixtral files of late 2023 hold a tensor for each expert: ffn_gate.3.weight


def tensor_name(role: Role, layer: int | None = None, part: str = "weight", stack: str = "") -> str:
    """The GGUF name of a tensor.

    Args:
        role: any but ``OTHER``.
        layer: the block's number, or None for a role outside the blocks.
        part: ``weight``, ``bias``..., or ``""`` for the few names without a part (``blk.0.ssm_a``).
        stack: ``enc.`` or ``dec.`` in models that have both.

    Example:
        >>> from quantmill.formats.gguf.names import tensor_name
        >>> from quantmill.formats.ir import Role
        >>> tensor_name(Role.ATTN_Q, 3)
        'blk.3.attn_q.weight'
    """
    assert role is not Role.OTHER, "OTHER has no name"
    assert (layer is None) == (role in GLOBAL_ROLES), (role, layer)
    base = stack + (role.value if layer is None else f"blk.{layer}.{role.value}")
    return f"{base}.{part}" if part else base


def parse_name(name: str) -> tuple[Role, int | None]:
    """The role and layer of a GGUF tensor name; ``OTHER`` for an unknown name, with the layer of its ``blk.N.``.

    Several names have the same role: T5's encoder and decoder blocks, and the experts of early Mixtral files.

    Example:
        >>> from quantmill.formats.gguf.names import parse_name
        >>> parse_name("blk.3.attn_q.weight")
        (<Role.ATTN_Q: 'attn_q'>, 3)
    """
    match = _BLOCK_NAME.fullmatch(name)
    if match is None:
        return _lookup(_OUTER_ROLES, _STACK_PREFIX.sub("", name, count=1)), None
    return _lookup(_BLOCK_ROLES, match[2]), int(match[1])


def _lookup(table: dict[str, Role], base: str) -> Role:
    base = _PART.sub("", base)
    return table.get(base) or table.get(_EXPERT.sub("", base), Role.OTHER)
