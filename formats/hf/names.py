"""Find which tensor of the architecture each name of a checkpoint means.

transformers adds or removes the base model's name (``model.``) where a checkpoint of one class is loaded as another, so
``layers.0.…`` and ``model.layers.0.…`` are the same. Wrappers of training leave their own names in front of all others
(``module.``, ``base_model.model.``), where transformers would fill the model with random numbers: here they come off.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError, UnmatchedTensor, name_list
from .files.weights import Stored
from .settle import Say, same_weights
from .tables.rules import Arch, HFClass

# Modules of PyTorch around a part of the model, anywhere in a name.
_PARAMETRIZED = ".parametrizations.weight.original"  # of torch, around a weight that an adapter is added to
_AROUND_PARTS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def our_name(name: str, arch: Arch, known: Collection[str]) -> str | None:
    """The rules' name of a tensor that a checkpoint calls ``name``; None if it is no tensor of the architecture."""
    found = _meaning(name, arch, known)
    return found.name if found else None


@dataclass(frozen=True)
class _Meaning:
    """The rules' name of a tensor, whether the checkpoint's lacks the base model's, and which of the roots it has."""

    name: str
    bare: bool = False
    root: str = ""


def _meaning(name: str, arch: Arch, known: Collection[str]) -> _Meaning | None:
    for whole, bare in ((name, False), (arch.base + name, True), (name.removeprefix(arch.base), False)):
        for root, ours in (("", ""), *arch.roots.items()):
            inner = ours + whole.removeprefix(root)
            for spelled in (inner, arch.respelled(inner)):
                if whole.startswith(root) and spelled in known:
                    return _Meaning(spelled, bare, root)
    return None


def without_wrappers(
    stored: Mapping[str, Stored],
    arch: Arch,
    known: Collection[str],
    ignored: Callable[[str], bool],
    folder: Path,
    say: Say,
) -> dict[str, Stored]:
    """Take the names of wrappers off the tensors' names, where tensors of the architecture are left.

    Args:
        stored: the checkpoint's tensors.
        known: the rules' names.
        ignored: whether a name is none of the text model's, such as those of a vision tower.
        folder: the checkpoint's.
        say: called with a line about what was taken off.

    Raises:
        UnmatchedTensor: the names begin differently, as those of several models.
    """
    origin: dict[str, str] = {}
    for name in stored:
        if origin.setdefault(_unwrapped(name), name) != name:
            problem = f"{origin[_unwrapped(name)]} and {name} are the same tensor: two models in one"
            raise UnmatchedTensor(problem, path=folder, hint="keep the tensors of one of them")
    plain = {name: stored[theirs] for name, theirs in origin.items()}
    beginnings: set[str] = set()
    if not any(our_name(name, arch, known) for name in plain):
        found = (_beginning(name, arch, known, ignored) for name in plain)
        beginnings = {beginning for beginning in found if beginning is not None}
    if len(beginnings) > 1:
        problem = f"tensors of several models: their names begin with {name_list(sorted(beginnings))}"
        raise UnmatchedTensor(problem, path=folder, hint="keep those of one model")
    gone = [mark for mark in (*_AROUND_PARTS, _PARAMETRIZED) if any(mark in name for name in stored)] + list(beginnings)
    if gone:
        say(f"{folder}: taken off the tensors' names, as names of wrappers: {', '.join(gone)}")
    beginning = "".join(beginnings)
    return {name.removeprefix(beginning): weights for name, weights in plain.items()}


def _unwrapped(name: str) -> str:
    name = name.replace(_PARAMETRIZED, ".weight")
    for mark in _AROUND_PARTS:
        name = f".{name}".replace(f".{mark}", ".")[1:]
    return name


def _beginning(name: str, arch: Arch, known: Collection[str], ignored: Callable[[str], bool]) -> str | None:
    """What stands before the longest end of a name that means a tensor; None if there is none, or it is ignored."""
    at = 0
    while at < len(name):
        rest = name[at:]
        if ignored(rest):
            return None
        if our_name(rest, arch, known):
            return name[:at]
        at = name.find(".", at) + 1 or len(name)
    return None


@dataclass(frozen=True)
class Named:
    """A checkpoint's tensors under the rules' names.

    Args:
        tensors: those that mean no tensor of the architecture keep their names.
        bare: they are named as in the class without a head: without ``Arch.base``.
    """

    tensors: Mapping[str, Stored]
    bare: bool


def by_our_names(
    stored: Mapping[str, Stored], arch: Arch, cls: HFClass, known: Collection[str], folder: Path, say: Say
) -> Named:
    """Find the rules' name of every tensor.

    Args:
        stored: the checkpoint's tensors, from ``without_wrappers``.
        cls: the checkpoint's class.
        known: the rules' names.
        folder: the checkpoint's.
        say: called with a line about names that transformers would not know, and about tensors that are there twice.

    Raises:
        FormatError: two tensors mean the same one and differ.
    """
    found: dict[str, Stored] = {}
    origin: dict[str, str] = {}
    bare: set[bool] = set()
    roots: set[str] = set()
    twice = []
    for name, weights in stored.items():
        meaning = _meaning(name, arch, known)
        ours = meaning.name if meaning else name
        if meaning and ours.startswith(arch.base):
            bare.add(meaning.bare)
            roots |= {meaning.root} - {""}
        if ours not in found:
            found[ours], origin[ours] = weights, name
        elif same_weights(found[ours], weights):
            twice.append(name)
        else:
            problem = f"differs from {origin[ours]}, which means the same tensor: two models in one"
            raise FormatError(problem, path=folder, where=name, hint="keep the tensors of one of them")
    if roots and not (cls.text_of or cls.wraps):
        say(f"{folder}: names that begin with {name_list(sorted(roots))} are taken for those of {arch.base}")
    if twice:
        say(f"{folder}: left out, being equal to others that mean the same: {name_list(twice)}")
    return Named(found, bare == {True})
