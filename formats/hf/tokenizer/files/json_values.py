"""Values taken out of the JSON files of a tokenizer, each checked for its type and range as it is taken.

A parser is a function that takes any JSON value and returns the typed one, or raises ``Unexpected``. ``Fields`` applies
parsers to the keys of an object, and its errors name the file and the key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ....errors import TokenizerError
from ....json_text import ROOM, parse_json
from ....pointers import check_pointer

Json = dict[str, object]
T = TypeVar("T")
Parser = Callable[[object], T]

# Gemma's tokenizer.json, the largest known, is 33 MB of text and ten times that as Python's strings and lists.
_MEMORY_PER_BYTE = 16
_MAX_ID = 2**31  # llama_token is an int32
_MAX_SCORE = 3.4e38  # float32's


class Unexpected(ValueError):
    """A JSON value of another type, or out of range."""


@dataclass(frozen=True)
class Fields:
    """The keys of a JSON object, to be taken out with a parser each.

    Args:
        values: the object.
        path: its file, for messages.
        inside: what comes before its keys in messages, such as ``model.``.
    """

    values: Mapping[str, object]
    path: Path
    inside: str = ""

    def take(self, key: str, parse: Parser[T], *, missing: object = None) -> T:
        """The value of a key, or ``missing`` where the object has no such key, as ``parse`` returns it.

        Raises:
            TokenizerError: the parser refuses the value.
        """
        try:
            return parse(self.values.get(key, missing))
        except Unexpected:
            raise TokenizerError(
                "is not what tokenizer files hold here",
                path=self.path,
                where=self.inside + key,
                hint="download it again",
            ) from None

    def take_if_there(self, key: str, parse: Parser[T]) -> T | None:
        """As ``take``, or None where the object has no such key; a null is a value that the parser must accept."""
        return self.take(key, parse) if key in self.values else None


def text(value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        raise Unexpected
    return value


def token_id(value: object) -> int:
    """A number that is a token's id: not negative, and an int32."""
    if type(value) is not int or not 0 <= value < _MAX_ID:
        raise Unexpected
    return value


def is_id_text(value: str) -> bool:
    """Whether an object's key is the text of an id, such as ``"17"``."""
    return value.isascii() and value.isdecimal() and len(value) < 11


def token_id_text(value: str) -> int:
    """The id that an object's key is the text of, such as ``"17"``."""
    if not is_id_text(value):
        raise Unexpected
    return token_id(int(value))


def score(value: object) -> float:
    """A finite number that float32 can hold."""
    if (type(value) is int or type(value) is float) and abs(value) <= _MAX_SCORE:  # NaN is not
        return float(value)
    raise Unexpected


def json_object(value: object) -> Json:
    """An object, its values unchecked."""
    if not isinstance(value, dict):
        raise Unexpected
    return value


def json_list(value: object) -> list[object]:
    """A list, its items unchecked."""
    if not isinstance(value, list):
        raise Unexpected
    return value


def distinct_ids(vocab: dict[str, int], path: Path, where: str | None = None) -> dict[str, int]:
    """The vocabulary, text -> id. Raises ``TokenizerError`` where two texts have one id."""
    if len(texts := {number: text for text, number in vocab.items()}) < len(vocab):
        text = next(text for text, number in vocab.items() if texts[number] != text)
        raise TokenizerError(
            f"{text!r} and {texts[vocab[text]]!r} have the same id, {vocab[text]}", path=path, where=where
        )
    return vocab


def optional(parse: Parser[T]) -> Parser[T | None]:
    """Null, or what ``parse`` accepts."""
    return lambda value: None if value is None else parse(value)


def tuple_of(parse: Parser[T]) -> Parser[tuple[T, ...]]:
    """A list whose items ``parse`` accepts."""
    return lambda value: tuple(map(parse, json_list(value)))


def mapping_of(parse: Parser[T]) -> Parser[dict[str, T]]:
    """An object whose values ``parse`` accepts."""
    return lambda value: {key: parse(item) for key, item in json_object(value).items()}


def flag(value: object) -> bool:
    """A boolean."""
    if not isinstance(value, bool):
        raise Unexpected
    return value


def token_ids(value: object) -> tuple[int, ...]:
    """The ids in null, a number or a list of numbers; negative ones stand for none."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(token_id(number) for number in values if type(number) is not int or number >= 0)


def read_json(path: Path) -> Json:
    """A JSON object, empty where there is no such file.

    Raises:
        TokenizerError: the file cannot be read, is not JSON, is not an object, or would fill the memory.
    """
    if not path.is_file():
        return {}
    raw = read_bytes(path)
    data = parse_json(raw, path, room=_MEMORY_PER_BYTE * len(raw) + ROOM, error=TokenizerError)
    if not isinstance(data, dict):
        raise TokenizerError("not a JSON object", path=path)
    return data


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises ``TokenizerError`` where it cannot be read, or only points to the file."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"cannot be read: {error.strerror}", path=path) from None
    check_pointer(raw, path, error=TokenizerError)
    return raw


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, its line ends untouched. Raises ``TokenizerError``."""
    try:
        return read_bytes(path).decode("utf-8")  # no newline translation: templates keep their \r
    except UnicodeDecodeError as error:
        raise TokenizerError(f"not UTF-8 at byte {error.start}", path=path, hint="download it again") from None
