"""What configs say of each layer other than with a list of words: values that ``Arch.implied`` makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import FormatError
from ..json_types import shown
from .dimensions import Config


@dataclass(frozen=True)
class Letters:
    """A word for each layer, from a text with a letter for each; None where a config has no such text.

    Args:
        key: the config key of the text.
        words: the word of each letter.

    Example:
        >>> from quantmill.formats.hf.layer_words import Letters
        >>> Letters("pattern", {"M": "mamba", "*": "attention"})({"pattern": "MM*"})
        ['mamba', 'mamba', 'attention']
    """

    key: str
    words: Mapping[str, str]

    def __call__(self, config: Config) -> list[str] | None:
        text = config.get(self.key)
        if text is None:
            return None
        unknown = next((letter for letter in text if letter not in self.words), None)
        if unknown is not None:
            hint = f"known: {', '.join(sorted(self.words))}"
            raise FormatError(f"{shown(unknown)} has no meaning here", where=self.key, hint=hint)
        layers = config.get("num_hidden_layers", len(text))
        if len(text) != layers:
            problem = f"{len(text)} letters for {shown(layers)} layers"
            raise FormatError(problem, where=self.key, hint="is config.json of one model?")
        return [self.words[letter] for letter in text]


@dataclass(frozen=True)
class Length:
    """How many entries the list of a config key has; None where it has no list."""

    key: str

    def __call__(self, config: Config) -> int | None:
        found = config.get(self.key)
        return len(found) if isinstance(found, list) else None
