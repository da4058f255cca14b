"""How a tower is described: an encoder of images or sound, and its projector, in the language of architectures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from .rules import Arch

# Objects beside the encoder's config that rows and rules read, as ``text_config.hidden_size``.
TEXT, OUTER, PROCESSOR, TOKENS = "text_config", "outer", "preprocessor_config", "tokens"
PARTS = (TEXT, OUTER, PROCESSOR, TOKENS)


@dataclass(frozen=True)
class Tower(Arch):
    """A tower, as data. Its config is the encoder's object of config.json; ``PARTS`` stand for what lies around that.

    ``classes`` are those that have the tower. ``roots`` and ``extras`` are as in ``Arch``.

    Args:
        modality: what it encodes; the beginning of its keys in GGUF.
        at: the place of its object in config.json, with dots.
        also: what published objects say for the ``model_type`` that transformers writes.
        owns: patterns of the names of all its tensors in checkpoints: ``*`` stands for anything.
        written: the beginnings, of ``roots``, of a checkpoint that is made of files of other programs.
        processor: the object of processor_config.json that speaks of its inputs.
        tokens: tokens of which the rules read the ids, by the part behind the dot (``tokens.img_break``).
        text: beginnings of the text model's names, and those that they have beside this tower.
        projector_key: the key that names it, which is that of its modality where files may hold several towers.
    """

    gguf_name: str = "clip"
    base: str = ""
    modality: Literal["vision", "audio"] = "vision"
    at: str = "vision_config"
    also: tuple[str, ...] = ()
    owns: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    processor: str = "image_processor"
    tokens: Mapping[str, str] = field(default_factory=dict)
    text: Mapping[str, str] = field(default_factory=lambda: {"model.": "model.language_model."})
    needed: tuple[str, ...] = ()
    projector_key: str = "clip.projector_type"

    @property
    def projector(self) -> str:
        """The value of ``projector_key``."""
        return self.name

    def kind(self, name: str) -> str:
        """The ``model_type`` of its object in a config of a class."""
        return self.classes[name].model_type

    def takes(self, name: str, own: Mapping[str, Any]) -> bool:
        """Whether an object of a class's config.json is its encoder's."""
        return own.get("model_type", self.kind(name)) in (self.kind(name), *self.also)

    def has(self, name: str) -> bool:
        """Whether a tensor of this name, as a checkpoint has it, is the tower's."""
        return any(fnmatchcase(name, pattern) for pattern in self.owns)
