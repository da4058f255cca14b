"""What a checkpoint's tensors say of it beside config.json, and which of them are asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..ir import Role
from ..storage.output import human_bytes
from .files.weights import Stored
from .names import our_name
from .settle import Say, extra_of
from .tables.dimensions import FURTHER
from .tables.further import Mtp, with_further, without_further
from .tables.rules import Arch, Slot, further_number

# What layers for further tokens share with the model, as llama.cpp's converter writes it beside them.
_SHARED = {Role.TOKEN_EMBD, Role.OUTPUT_NORM, Role.OUTPUT}


def expected_further(arch: Arch, config: Mapping[str, Any], mtp: Mtp) -> int:
    """How many layers for further tokens a checkpoint should hold, by its completed config, if they are asked for."""
    row = arch.further
    wanted = row is not None and mtp != "leave" and (row.kept or mtp == "only")
    return row.promised(config) if row is not None and wanted else 0


def config_of(arch: Arch, config: Mapping[str, Any], found: Mapping[str, Stored]) -> dict[str, Any]:
    """A completed config with what the tensors' names tell: the layers for further tokens, and the layout of each.

    Args:
        found: the checkpoint's tensors, without the names of wrappers.
    """
    out = with_further(config, arch, _count_further(arch, config, found))
    marks = arch.further.marks(out) if arch.further else ()
    parts: tuple[dict[str, tuple[int, ...]], ...] = ({}, {})  # of the model's own layers, and of further ones
    for name, tensor in found.items():
        if extra_of(arch, out, name) is None:
            parts[any(mark in name for mark in marks)][name] = tensor.shape
    own, further = (arch.layout_of(part, out) for part in parts)
    if not parts[1] or own == further:
        return out | own
    count = out[FURTHER]
    n_own = out["num_hidden_layers"] - count
    return out | {key: [*[key in own] * n_own, *[key in further] * count] for key in {**own, **further}}


def _count_further(arch: Arch, config: Mapping[str, Any], names: Collection[str]) -> int:
    """How many further layers a checkpoint with tensors of these names has.

    Args:
        config: of the model alone.
    """
    count = 0
    while arch.further is not None:
        seen = with_further(config, arch, count + 1)
        last = seen["num_hidden_layers"] - 1
        known = {name for slot in arch.slots(seen) if slot.layer == last for name in slot.sources}
        if not any(our_name(name, arch, known) for name in names):
            break
        count += 1
    return count


def chosen(
    arch: Arch, config: Mapping[str, Any], stored: Mapping[str, Stored], mtp: Mtp, folder: Path, say: Say
) -> tuple[dict[str, Any], list[Slot], dict[str, Stored]]:
    """Leave out the layers for further tokens, or all but these, and say how much that is.

    Args:
        config: as ``config_of`` makes it.
        stored: the checkpoint's tensors, under the names that the rules use.

    Returns:
        the config, the slots and the tensors that are left.

    Raises:
        FormatError: these layers are asked for, and there are none, or llama.cpp cannot read them.
    """
    row, count = arch.further, config.get(FURTHER, 0)
    slots = list(arch.slots(config))
    if mtp == "only" and not count:
        problem = "has no layers that predict further tokens" + ("" if row else " that a GGUF file could hold")
        raise FormatError(problem, path=folder, hint="leave --mtp-only out")
    if row is not None and row.kept and row.hf in config and mtp != "leave" and (said := row.promised(config)) != count:
        numbers = f"{said} by config.json, {count} in the weights, which are right"
        say(f"{folder}: layers that predict further tokens: {numbers}")
    out, kept = dict(config), dict(stored)
    asked = mtp
    mtp = "leave" if mtp == "keep" and row is not None and not row.kept else mtp
    if mtp != "keep" and count:
        gone = {name for slot in slots if not _is_asked_for(slot, config, mtp) for name in slot.sources}
        left_out = [weights for name, weights in stored.items() if name in gone]
        size = f"{len(left_out)} tensors, {human_bytes(sum(weights.nbytes for weights in left_out))}"
        what = "the layers that predict further tokens" if mtp == "leave" else "all but the layers for further tokens"
        why = "as asked" if asked == mtp else f"since llama.cpp's {arch.gguf} wants them alone (--mtp-only)"
        say(f"{folder}: left out, {why}: {what} ({size})")
        kept = {name: weights for name, weights in stored.items() if name not in gone}
    if mtp == "leave" and row is not None:
        out = without_further(config, arch)
        if asked == "leave":
            out.pop(row.hf, None)
        slots = list(arch.slots(out))
    elif mtp == "only":
        slots = [slot for slot in slots if _is_asked_for(slot, config, mtp)]
    return out, slots, kept


def _is_asked_for(slot: Slot, config: Mapping[str, Any], mtp: Mtp) -> bool:
    further = further_number(slot.layer, config) is not None
    if mtp == "leave":
        return not further
    return further or bool(_SHARED & {*slot.rule.roles})
