"""tokenizer_config.json and special_tokens_map.json: which tokens are special, and transformers' options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ....ir import TokenType
from .added_tokens import TOKEN_KEYS, AddedToken, NamedTokens, named_token, tokens_by_id
from .json_values import (
    Fields,
    Unexpected,
    flag,
    is_id_text,
    json_object,
    mapping_of,
    optional,
    read_json,
    text,
    tuple_of,
)

RECORDED_KEY = "quantmill"
_MAX_EXTRA_IDS = 1 << 16  # T5 has 100
_TYPES = {int(kind) for kind in TokenType}


@dataclass(frozen=True)
class RecordedFacts:
    """What ``write_tokenizer`` recorded of a GGUF's tokenizer because no other place in these files holds it.

    Args:
        pre: the pre-tokenizer's name, among those that split alike.
        token_types: id -> type, where the files would say otherwise.
    """

    pre: str | None
    token_types: Mapping[int, int]


@dataclass(frozen=True)
class TokenizerConfig:
    """tokenizer_config.json; options that it does not mention are None.

    Args:
        path: the file, for messages.
        named_tokens: the special tokens it names.
        added_tokens_decoder: added tokens by id; None where it has none.
        chat_templates: name -> Jinja text; the nameless one is ``default``.
        tokenizer_class: transformers' class.
        extra_ids: how many ``<extra_id_N>`` a T5 has.
        add_bos_token: whether the class puts bos before a text.
        add_eos_token: whether the class puts eos after a text.
        add_prefix_space: whether the class puts a space before a text.
        do_lower_case: BertTokenizer's option.
        strip_accents: BertTokenizer's option.
        tokenize_chinese_chars: BertTokenizer's option.
        recorded: what ``write_tokenizer`` recorded.
    """

    path: Path
    named_tokens: NamedTokens
    added_tokens_decoder: Mapping[int, AddedToken] | None
    chat_templates: Mapping[str, str]
    tokenizer_class: str | None
    extra_ids: int | None
    add_bos_token: bool | None
    add_eos_token: bool | None
    add_prefix_space: bool | None
    do_lower_case: bool | None
    strip_accents: bool | None
    tokenize_chinese_chars: bool | None
    recorded: RecordedFacts


def read_tokenizer_config(path: Path) -> TokenizerConfig:
    """Read tokenizer_config.json; a missing file is an empty one.

    Raises:
        TokenizerError: it is not JSON, or a value is not of the type and range that transformers writes.
    """
    return parse_tokenizer_config(read_json(path), path)


def parse_tokenizer_config(document: Mapping[str, object], path: Path) -> TokenizerConfig:
    """The same of what the file holds."""
    fields = Fields(document, path)
    return TokenizerConfig(
        path=path,
        named_tokens=_named_tokens(fields),
        added_tokens_decoder=fields.take_if_there("added_tokens_decoder", tokens_by_id),
        chat_templates=fields.take("chat_template", _chat_templates),
        tokenizer_class=fields.take("tokenizer_class", optional(text)) or None,
        extra_ids=fields.take("extra_ids", optional(_extra_ids)),
        add_bos_token=fields.take("add_bos_token", optional(flag)),
        add_eos_token=fields.take("add_eos_token", optional(flag)),
        add_prefix_space=fields.take("add_prefix_space", optional(flag)),
        do_lower_case=fields.take("do_lower_case", optional(flag), missing=True),
        strip_accents=fields.take("strip_accents", optional(flag)),
        tokenize_chinese_chars=fields.take("tokenize_chinese_chars", optional(flag), missing=True),
        recorded=fields.take(RECORDED_KEY, _recorded_facts),
    )


def read_special_tokens_map(path: Path) -> NamedTokens:
    """Read special_tokens_map.json; a missing file is an empty one. Raises ``TokenizerError`` if it is damaged."""
    return parse_special_tokens_map(read_json(path), path)


def parse_special_tokens_map(document: Mapping[str, object], path: Path) -> NamedTokens:
    """The same of what the file holds."""
    return _named_tokens(Fields(document, path))


def _named_tokens(fields: Fields) -> NamedTokens:
    by_key = {key: fields.take(key, optional(named_token)) for key in TOKEN_KEYS if key in fields.values}
    others = [key for key in fields.values if key.endswith("_token") and key not in TOKEN_KEYS]
    by_key |= {key: fields.take(key, named_token) for key in others if _is_token(fields.values[key])}
    further: list[tuple[AddedToken, ...] | None] = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(fields.values.get(key), dict):  # of named ones
            by_key |= fields.take(key, mapping_of(named_token))
            further.append(None)
        else:
            further.append(fields.take(key, optional(tuple_of(named_token))))
    return NamedTokens(by_key, *further)


def _is_token(value: object) -> bool:
    """Whether it looks like one: an option may end in ``_token``, too, such as ``add_bos_token``."""
    return isinstance(value, str) or (isinstance(value, dict) and "content" in value)


def _chat_templates(value: object) -> Mapping[str, str]:
    """One text; or several, as an object or as a list of ``{"name": ..., "template": ...}``; or null."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, dict):
        return mapping_of(text)(value)
    return dict(tuple_of(_named_template)(value))


def _named_template(value: object) -> tuple[str, str]:
    template = json_object(value)
    return text(template.get("name")), text(template.get("template"))


def _extra_ids(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_EXTRA_IDS:
        raise Unexpected
    return value


def _recorded_facts(value: object) -> RecordedFacts:
    """What was recorded; anything of another form is left out, since somebody else may have written it."""
    recorded = value if isinstance(value, dict) else {}
    pre, listed = recorded.get("pre"), recorded.get("token_types")
    types: dict[int, int] = {}
    for key, kind in (listed if isinstance(listed, dict) else {}).items():
        if type(kind) is int and kind in _TYPES and is_id_text(key):
            types[int(key)] = kind
    return RecordedFacts(pre if isinstance(pre, str) else None, types)
