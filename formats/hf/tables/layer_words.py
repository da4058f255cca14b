"""What configs say of each layer other than with a list of words: values that ``Arch.implied`` makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import FormatError
from ...json_types import TEXT, TEXTS, WHOLES, either, optional, shown
from .dimensions import LAYERS, Config, Dim, Implied, LayerPattern, OrDefault
from .reads import OfParts, Reads


@dataclass(frozen=True)
class Letters:
    """A word for each layer, from a text with a letter for each; None where a config has no such text.

    Args:
        key: the config key of the text.
        words: the word of each letter.

    Example:
        >>> from quantmill.formats.hf.tables.layer_words import Letters
        >>> Letters("pattern", {"M": "mamba", "*": "attention"})({"pattern": "MM*"})
        ['mamba', 'mamba', 'attention']
    """

    key: str
    words: Mapping[str, str]

    def reads(self) -> Reads:
        return {self.key: optional(TEXT)}

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
class Ones(OfParts):
    """So many multipliers of 1, where a config has none."""

    count: int

    def __call__(self, config: Config) -> list[float]:
        return [1.0] * self.count


@dataclass(frozen=True)
class Length:
    """How many entries the list of a config key has; None where it has no list."""

    key: str

    def reads(self) -> Reads:
        return {self.key: TEXTS}

    def __call__(self, config: Config) -> int | None:
        found = config.get(self.key)
        return len(found) if isinstance(found, list) else None


@dataclass(frozen=True)
class Lettered:
    """A word for each layer, of which a key holds the letters, or the words; without the key, those of a pattern.

    Example:
        >>> from quantmill.formats.hf.tables.dimensions import Dim, LayerPattern
        >>> from quantmill.formats.hf.tables.layer_words import Lettered
        >>> words = Lettered("pattern", {"F": "full", "S": "shared"}, LayerPattern("full", "full", Dim(1)))
        >>> words({"pattern": "FSS", "num_hidden_layers": 3})
        ['full', 'shared', 'shared']
    """

    key: str
    letters: Mapping[str, str]
    otherwise: LayerPattern

    def reads(self) -> Reads:
        return {self.key: either(TEXT, TEXTS)}

    def __call__(self, config: Config) -> list[str]:
        given = config.get(self.key)
        if given is None:
            return self.otherwise(config)
        words = [self.letters.get(one, one) for one in given] if isinstance(given, str | list) else []
        if len(words) != LAYERS(config) or not {*words} <= {*self.letters.values()}:
            problem = f"is not a letter ({', '.join(self.letters)}) for each of {LAYERS(config)} layers: {shown(given)}"
            raise FormatError(problem, where=self.key)
        return words


@dataclass(frozen=True)
class ListedLayers:
    """A word for each layer, by keys that list the layers of each word, counted from 1; None where there is no list.

    Example:
        >>> from quantmill.formats.hf.tables.layer_words import ListedLayers
        >>> words = ListedLayers({"linear": "kda_layers", "full": "full_attn_layers"})
        >>> words({"num_hidden_layers": 3, "kda_layers": [1, 2], "full_attn_layers": [3]})
        ['linear', 'linear', 'full']
    """

    keys: Mapping[str, str]

    def reads(self) -> Reads:
        return dict.fromkeys(self.keys.values(), optional(WHOLES))

    def __call__(self, config: Config) -> list[str] | None:
        """Raises FormatError: a layer is in no list, or in two; or a list has layers that the model does not have."""
        lists = {key: config.get(key) for key in self.keys.values()}
        if all(numbers is None for numbers in lists.values()):
            return None
        words = {number: word for word, key in self.keys.items() for number in lists[key] or ()}
        n_layers, listed = LAYERS(config), [number for numbers in lists.values() for number in numbers or ()]
        if sorted(listed) != [*range(1, n_layers + 1)]:
            problem = f"not each of the layers 1 to {n_layers} once: {shown(listed)}"
            raise FormatError(problem, where=" and ".join(lists))
        return [words[layer] for layer in sorted(words)]


@dataclass(frozen=True)
class WordsFrom:
    """A word for each layer, by the entries that another key has for them.

    Args:
        sources: for each such key, of which the first that a config has counts, the word of each entry.
        otherwise: the word of all layers where there is no such key, or what makes their words; None for none.
        longer: whether there may be more entries, for layers that predict further tokens.

    Example:
        >>> from quantmill.formats.hf.tables.layer_words import WordsFrom
        >>> kinds = WordsFrom({"moe_layer_freq": {0: "dense", 1: "sparse"}}, "sparse")
        >>> kinds({"moe_layer_freq": [0, 1], "num_hidden_layers": 2}), kinds({"num_hidden_layers": 3})
        (['dense', 'sparse'], ['sparse', 'sparse', 'sparse'])
    """

    sources: Mapping[str, Mapping[Any, str]]
    otherwise: str | Implied | None = None
    longer: bool = False

    def reads(self) -> Reads:
        return {
            key: TEXTS if all(isinstance(entry, str) for entry in words) else WHOLES
            for key, words in self.sources.items()
        }

    def __call__(self, config: Config) -> list[str] | None:
        n = LAYERS(config)
        for key, words in self.sources.items():
            if (entries := config.get(key)) is None:
                continue
            entries = entries[:n] if self.longer else entries
            if len(entries) != n or not {*entries} <= words.keys():
                known = " or ".join(map(str, words))
                raise FormatError(f"is not {known} for each of {n} layers: {shown(entries)}", where=key)
            return [words[entry] for entry in entries]
        if callable(self.otherwise):
            made: list[str] | None = self.otherwise(config)
            return made
        return None if self.otherwise is None else [self.otherwise] * n


@dataclass(frozen=True)
class EachLayer(OfParts):
    """The same number for each layer."""

    size: Dim

    def __call__(self, config: Config) -> list[int]:
        return [self.size(config)] * LAYERS(config)


@dataclass(frozen=True)
class InTurn(OfParts):
    """Two patterns: one for the first ``count`` layers, another that begins after them."""

    first: LayerPattern
    count: Dim | OrDefault
    rest: LayerPattern

    def __call__(self, config: Config) -> list[str]:
        layers = LAYERS(config)
        count = min(self.count(config), layers)
        parts = ((self.first, count), (self.rest, layers - count))
        return [word for pattern, n in parts for word in pattern({**config, str(LAYERS.of): n})]


@dataclass(frozen=True)
class Numbered:
    """A word for the layers that a key lists, from 0, also as a text with commas, and another for all others.

    Args:
        key: the config key.
        word, other: the two words.
        first: how many layers have the other word where there is no such key; all others have the word.

    Example:
        >>> from quantmill.formats.hf.tables.layer_words import Numbered
        >>> Numbered("experts", "sparse", "dense", 3)({"experts": "1,2", "num_hidden_layers": 3})
        ['dense', 'sparse', 'sparse']
    """

    key: str
    word: str
    other: str
    first: int

    def reads(self) -> Reads:
        return {self.key: either(TEXT, WHOLES)}

    def __call__(self, config: Config) -> list[str]:
        layers, found = range(LAYERS(config)), config.get(self.key)
        entries = range(self.first, len(layers)) if found is None else found
        entries = entries.split(",") if isinstance(entries, str) else entries
        numbers = {str(entry).strip() for entry in entries} - {""}
        if not all(number.isdecimal() for number in numbers):
            raise FormatError(f"{shown(found)} is no list of layers", where=self.key)
        return [self.word if str(layer) in numbers else self.other for layer in layers]
