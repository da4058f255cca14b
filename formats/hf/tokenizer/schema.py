"""What a tokenizer's JSON files must look like before anything is taken out of them.

One table a file; everything after it may index without asking. Only what is read here is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import TokenizerError

Check = Callable[[Any], bool]

_MAX_ID = 2**31  # llama_token is an int32
_MAX_SCORE = 3.4e38  # float32's
_MAX_DEPTH = 16  # of steps within steps; tokenizers nest two or three
# What holds further steps in normalizers, pre-tokenizers, decoders and post-processors.
_INNER = ("normalizers", "pretokenizers", "decoders", "processors")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _id(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_ID


def _score(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _MAX_SCORE  # not NaN either


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _maybe(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def _list(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _map(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _fields(**checks: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(check(value.get(name)) for name, check in checks.items())


def _part(part: Any) -> bool:
    """A part of a template: a special token's, or a text's."""
    return isinstance(part, dict) and isinstance(part.get("SpecialToken", {}), dict)


def _step(value: Any, depth: int = 0) -> bool:
    """A step, or a tree of them."""
    if not isinstance(value, dict) or not isinstance(value.get("type"), str) or depth > _MAX_DEPTH:
        return False
    if not all(_maybe(_list(_part))(value.get(name)) for name in ("single", "pair")):
        return False
    inner = [value.get(name, []) for name in _INNER]
    return all(isinstance(steps, list) and all(_step(step, depth + 1) for step in steps) for steps in inner)


def _piece(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _text(value[0]) and _score(value[1])


def _merge(value: Any) -> bool:
    return " " in value if isinstance(value, str) else isinstance(value, list) and list(map(type, value)) == [str, str]


def _numbered(value: Any) -> bool:
    """``{"17": {"content": ...}}``."""
    return isinstance(value, dict) and all(
        key.isascii() and key.isdecimal() and len(key) < 11 and int(key) < _MAX_ID and _fields(content=_text)(token)
        for key, token in value.items()
    )


TOKENIZER: Mapping[str, Check] = {
    "normalizer": _maybe(_step),
    "pre_tokenizer": _maybe(_step),
    "decoder": _maybe(_step),
    "post_processor": _maybe(_step),
    "added_tokens": _maybe(_list(_fields(id=_id, content=_text))),
    "model": _maybe(_fields(type=_maybe(_text), unk_token=_maybe(_text), unk_id=_maybe(_id))),
}
# By the model's type; one without is a BPE of before 2020.
MODELS: Mapping[str, Mapping[str, Check]] = {
    "BPE": {"vocab": _map(_id), "merges": _list(_merge)},
    "WordPiece": {"vocab": _map(_id)},
    "Unigram": {"vocab": _list(_piece)},
}
CONFIG: Mapping[str, Check] = {
    "added_tokens_decoder": _maybe(_numbered),
    "additional_special_tokens": _maybe(_either(_object, lambda value: isinstance(value, list))),
    "extra_special_tokens": _maybe(_either(_object, lambda value: isinstance(value, list))),
    "chat_template": _maybe(_either(_text, _map(_text), _list(_fields(name=_text, template=_text)))),
    "extra_ids": _maybe(lambda value: type(value) is int and 0 <= value <= 1 << 16),
}
SPECIAL: Mapping[str, Check] = {key: CONFIG[key] for key in ("additional_special_tokens", "extra_special_tokens")}


def check(document: Mapping[str, Any] | None, table: Mapping[str, Check], path: Path, inside: str = "") -> None:
    """Raise ``TokenizerError`` unless the document's values are as the table says."""
    for key, is_sound in table.items():
        if document is not None and not is_sound(document.get(key)):
            raise TokenizerError(
                "is not what tokenizer files hold here", path=path, where=inside + key, hint="download it again"
            )


def check_ids(document: Mapping[str, Any], path: Path) -> None:
    """Raise ``TokenizerError`` unless it is a map from texts to ids."""
    for text, number in document.items():
        if not _id(number):
            raise TokenizerError(f"{number!r} is no token's id", path=path, where=repr(text), hint="download it again")
