"""The architectures that can be converted, and what is proven of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ...formats.hf.tables.rules import Arch

# What tests/formats/hf/test_archs.py shows of every entry; an architecture without a proof fails there.
PROVEN = {
    "logits": "llama.cpp computes transformers' logits from the converted file",
    "embeddings": "llama.cpp makes of an image what transformers makes of it",
    "converter": "the file is that of llama.cpp's own converter, but for listed differences",
    "identity": "back from GGUF, weights, config and logits are the checkpoint's, bit for bit",
    "levels": "every level is planned; a k-quant and an IQ file run in llama.cpp",
}


@dataclass(frozen=True)
class Architecture:
    """An architecture that can be converted.

    Args:
        name: its name here.
        gguf: its name in GGUF, ``general.architecture``.
        hf_classes: the transformers classes whose checkpoints it reads, the bare ones without a head (``LlamaModel``)
            last.
        proven: what tests prove of it; keys of ``PROVEN``.
        kind: ``text``, a model of text, or ``tower``, an encoder of images or sound with its projector.
        proof: what proves that llama.cpp runs the same model: ``logits`` or, of a tower, ``embeddings``, by the numbers
            that it computes; or ``converter``, where they are others than transformers': by its converter's file.
    """

    name: str
    gguf: str
    hf_classes: tuple[str, ...]
    proven: tuple[str, ...] = ("logits", "converter", "identity", "levels")
    kind: Literal["text", "tower"] = "text"
    proof: Literal["logits", "embeddings", "converter"] = "logits"


def architectures(pattern: str = "") -> tuple[Architecture, ...]:
    """List the architectures whose name, or whose model class's name, contains a text; all if it is empty.

    Example:
        >>> from quantmill import architectures
        >>> [arch.name for arch in architectures("mixtral")]
        ['mixtral']
    """
    from ...formats.hf.archs import ARCHS
    from ...formats.hf.towers import TOWERS

    wanted = pattern.lower()
    all_of_them = (_of_text(arch) for arch in ARCHS)
    towers = (
        Architecture(
            tower.name, tower.gguf, tuple(tower.classes), ("embeddings", "converter", "identity"), "tower", "embeddings"
        )
        for tower in TOWERS
    )
    found = [
        arch
        for arch in (*all_of_them, *towers)
        if any(wanted in name.lower() for name in (arch.name, *arch.hf_classes))
    ]
    return tuple(sorted(found, key=lambda arch: (arch.kind, arch.name)))


def _of_text(arch: Arch) -> Architecture:
    proof: Literal["logits", "converter"] = "converter" if arch.by_converter else "logits"
    proven = tuple(
        one
        for one in ("logits", "converter", "identity", "levels")
        if not (one == "logits" and arch.by_converter) and not (one == "identity" and arch.one_way)
    )
    return Architecture(arch.name, arch.gguf, _classes(arch), proven, proof=proof)


def _classes(arch: Arch) -> tuple[str, ...]:
    """The classes whose checkpoints become files that llama.cpp loads: bare ones only where these have all it needs."""
    needs_head = arch.needs_head and not arch.always_bare
    return tuple(name for name, cls in arch.classes.items() if not (cls.bare and needs_head))
