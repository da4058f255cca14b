"""Tables of embeddings that hashes of n-grams look up: how many rows they have, and the layers that do so.

Each head of each order of n-grams has a table of its own, with a prime number of rows: the first prime from a base on,
the next one, and so on. They stand one after the other, as one table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...errors import FormatError
from ...json_types import TEXTS, WHOLE, WHOLES, optional
from .dimensions import Condition, Config, Dim
from .reads import LAYER_TYPES, OfParts, Reads
from .rows import Getter

_MOST_HEADS = 256  # published models have 16
_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)  # enough for every number of 64 bits


@dataclass(frozen=True)
class TableRows:
    """The rows of the whole table, or of each of its equal parts.

    Args:
        parts: the config key with the number of parts; empty for the whole.

    Example:
        >>> from quantmill.formats.hf.tables.ngrams import TableRows
        >>> config = {"ngram_size": 3, "heads_per_ngram": 1, "ngram_vocab_size_base": 10}
        >>> TableRows()({**config, "make_ngram_vocab_size_divisible_by": 16})  # 11 and 13, and 8 to fill up
        32
    """

    parts: str = ""

    def reads(self) -> Reads:
        return dict.fromkeys(self.keys, WHOLE)

    @property
    def keys(self) -> tuple[str, ...]:
        """The config keys that it reads."""
        own = ("ngram_size", "heads_per_ngram", "ngram_vocab_size_base", "make_ngram_vocab_size_divisible_by")
        return (*own, self.parts) if self.parts else own

    def __call__(self, config: Config) -> int:
        """Raises FormatError: a number is not valid, or the parts are not equal."""
        size, heads, base, divisor, *parts = (Dim(key)(config) for key in self.keys)
        if size < 2 or not 1 <= (size - 1) * heads <= _MOST_HEADS:
            raise FormatError(f"{heads} heads for n-grams of up to {size} are no model's", where="heads_per_ngram")
        if not divisor:
            raise FormatError("0 is not a valid size", where="make_ngram_vocab_size_divisible_by")
        rows = sum(primes_from(base, (size - 1) * heads))
        rows += -rows % divisor
        if parts and (not parts[0] or rows % parts[0]):
            raise FormatError(f"{rows} rows do not come in {parts[0]} equal parts", where=self.parts)
        return rows // parts[0] if parts else rows


@lru_cache(maxsize=8)
def primes_from(start: int, count: int) -> tuple[int, ...]:
    """The first primes that are not less than a number.

    Raises:
        FormatError: the number has more than 32 bits.

    Example:
        >>> from quantmill.formats.hf.tables.ngrams import primes_from
        >>> primes_from(10, 3)
        (11, 13, 17)
    """
    if start >= 1 << 32:
        raise FormatError(f"{start} rows are more than any table has", where="ngram_vocab_size_base")
    found: list[int] = []
    number = max(start, 2)
    while len(found) < count:
        if _is_prime(number):
            found.append(number)
        number += 1
    return tuple(found)


def _is_prime(number: int) -> bool:
    """The test of Miller and Rabin, with witnesses that leave no doubt."""
    if any(number % prime == 0 for prime in _WITNESSES):
        return number in _WITNESSES
    odd = number - 1
    twos = (odd & -odd).bit_length() - 1
    odd >>= twos
    for witness in _WITNESSES:
        power = pow(witness, odd, number)
        if power not in (1, number - 1) and all(pow(power, 1 << i, number) != number - 1 for i in range(1, twos)):
            return False
    return True


@dataclass(frozen=True)
class TableLayer(Condition):
    """A key lists no layer or one, counted from 1, which is of a kind.

    Args:
        key: the config key.
        kind: the layer's word in ``layer_types``.
    """

    key: str
    kind: str

    def reads(self) -> Reads:
        return {self.key: optional(WHOLES), LAYER_TYPES: TEXTS}

    def __call__(self, config: Config) -> bool:
        numbers, words = config.get(self.key) or [], config.get("layer_types") or []
        return len(numbers) < 2 and all(0 < one <= len(words) and words[one - 1] == self.kind for one in numbers)


@dataclass(frozen=True)
class CountedFromOne:
    """A config key that lists layers, counted from 1, which GGUF counts from 0, and leaves out where there are none."""

    hf: str
    gguf: str

    def reads(self) -> Reads:
        return {self.hf: optional(WHOLES)}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if numbers := config.get(self.hf):
            yield self.gguf, [number - 1 for number in numbers]

    def to_hf(self, get: Getter) -> dict[str, Any]:
        found = get(self.gguf, each=True)
        return {self.hf: [number + 1 for number in found]} if isinstance(found, list) else {}


@dataclass(frozen=True)
class FirstSize(OfParts):
    """The base of the tables' sizes: the size of the first table is a prime that gives the same ones. It is only read
    back, as the sizes are tensors of the checkpoint."""

    hf: str
    gguf: str

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        return iter(())

    def to_hf(self, get: Getter) -> dict[str, Any]:
        found = get(self.gguf, each=True)
        return {self.hf: found[0]} if isinstance(found, list) and found else {}


@dataclass(frozen=True)
class FirstToken:
    """A config key with the id of a token, or with several, of which the first counts.

    Args:
        when: the condition under which it is written.
    """

    hf: str
    gguf: str
    when: Condition

    def reads(self) -> Reads:
        return {self.hf: optional(WHOLE, WHOLES)}

    def to_gguf(self, config: Config) -> Iterator[tuple[str, Any]]:
        if not self.when(config):
            return
        found = config.get(self.hf)
        first = found[0] if isinstance(found, list) and found else found
        if not isinstance(first, int):
            raise FormatError("missing: where n-grams end", where=self.hf)
        yield self.gguf, first

    def to_hf(self, get: Getter) -> dict[str, Any]:
        found = get(self.gguf)
        return {} if found is None else {self.hf: found}
