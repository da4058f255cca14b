"""The architectures that can be converted, and what is proven of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ...formats.hf.rules import Arch

# What tests/formats/hf/test_archs.py shows of every entry; an architecture without a proof fails there.
PROVEN = {
    "logits": "llama.cpp computes transformers' logits from the converted file",
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
        kind: ``text``, a model of text.
        proof: what proves that llama.cpp runs the same model: ``logits``, by the numbers that it computes, or
            ``converter``, where it computes others than transformers: by the file of its own converter alone.
    """

    name: str
    gguf: str
    hf_classes: tuple[str, ...]
    proven: tuple[str, ...] = tuple(PROVEN)
    kind: Literal["text"] = "text"
    proof: Literal["logits", "converter"] = "logits"


def architectures(pattern: str = "") -> tuple[Architecture, ...]:
    """List the architectures whose name, or whose model class's name, contains a text; all if it is empty.

    Example:
        >>> from quantmill import architectures
        >>> [arch.name for arch in architectures("mixtral")]
        ['mixtral']
    """
    from ...formats.hf.archs import ARCHS

    wanted = pattern.lower()
    all_of_them = (Architecture(arch.name, arch.gguf, _classes(arch)) for arch in ARCHS)
    found = [arch for arch in all_of_them if any(wanted in name.lower() for name in (arch.name, *arch.hf_classes))]
    return tuple(sorted(found, key=lambda arch: arch.name))


def _classes(arch: Arch) -> tuple[str, ...]:
    """The classes whose checkpoints become files that llama.cpp loads: bare ones only where it needs no head."""
    return tuple(name for name, cls in arch.classes.items() if not (cls.bare and arch.needs_head))
