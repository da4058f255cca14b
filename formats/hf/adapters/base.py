"""What an adapter takes for granted of its base: a head of its own, and the weights that PEFT saved along."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ..files.weights import Stored, read_weights
from ..names import our_name
from ..settle import Say, copies, is_needed, known_names, rule_of, same_weights
from ..tables.extras import Copy
from ..tables.rules import Arch


def check_base(
    arch: Arch,
    config: Mapping[str, Any],
    base: Path,
    *,
    changed: Collection[str],
    copied: Mapping[str, Stored],
    folder: Path,
    follow_links: bool,
    say: Say,
) -> None:
    """Check an adapter against its base, whose weights need not be there.

    Args:
        changed: names of the weights that it changes.
        copied: weights of the base that it holds, by their names there. PEFT puts them in the place of the base's.
        follow_links: whether links of the base's weights may lead out of its folder.

    Raises:
        FormatError: it changes a head or an embedding that are one tensor, or holds other weights than the base.
    """
    weights, known = _weights(arch, config, base, follow_links), known_names(arch, arch.slots(config))
    changed = {our_name(name, arch, known) or name for name in changed}
    for copy in copies(arch):
        name = next((name for name in (copy.name, copy.of) if name in changed), None)
        if name is not None and not _is_own(copy, arch, config, weights):
            problem = f"{copy.name} and {copy.of} are one tensor in a GGUF file of the base; only one would change"
            raise FormatError(problem, path=folder, where=name, hint="merge it into the base, and save that untied")
    for name, tensor in copied.items():
        original = weights.get(our_name(name, arch, known) or name)
        if original is None:
            say(f"{folder}: holds the base's {name}, too: not compared, as {base} does not hold it")
        elif not same_weights(tensor, original):
            problem = "the adapter holds it, too, and not with the base's weights"
            raise FormatError(problem, path=folder, where=name, hint="merge it into the base")


def _is_own(copy: Copy, arch: Arch, config: Mapping[str, Any], weights: Mapping[str, Stored]) -> bool:
    """Whether a GGUF file of the base has the copy beside the original."""
    rule = rule_of(arch, copy)
    if rule is None or is_needed(rule) or (copy.key is not None and not config.get(copy.key)):
        return rule is not None
    if copy.name not in weights or copy.of not in weights:
        return False
    return copy.kept or not same_weights(weights[copy.name], weights[copy.of])


def _weights(arch: Arch, config: Mapping[str, Any], base: Path, follow_links: bool) -> dict[str, Stored]:
    """The base's tensors under the names that the rules use; none if it has no weights, or they cannot be read."""
    try:
        stored = read_weights(base, follow_links=follow_links)
    except FormatError:
        return {}
    known = known_names(arch, arch.slots(config))
    return {our_name(name, arch, known) or name: tensor for name, tensor in stored.items()}
