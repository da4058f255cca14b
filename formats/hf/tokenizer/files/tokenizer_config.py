"""tokenizer_config.json and special_tokens_map.json: which tokens are special, and transformers' options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ....ir import TokenType
from .added_tokens import AddedToken, tokens_by_id
from .json_values import (
    Fields,
    Unexpected,
    is_id_text,
    json_list,
    json_object,
    known_flag,
    mapping_of,
    optional,
    read_json,
    text,
    token_text,
    tuple_of,
)

RECORDED_KEY = "quantmill"
_MAX_EXTRA_IDS = 1 << 16  # T5 has 100
_TYPES = {int(kind) for kind in TokenType}


@dataclass(frozen=True)
class NamedTokens:
    """The special tokens that a file names.

    Args:
        by_key: such as ``bos_token`` -> its text.
        further: the texts of those without a key of their own.
    """

    by_key: Mapping[str, str]
    further: frozenset[str]

    @property
    def texts(self) -> frozenset[str]:
        """The texts of all of them."""
        return self.further.union(text for text in self.by_key.values() if text)


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
        tokens: the special tokens it names.
        added_tokens_decoder: added tokens by id.
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
    tokens: NamedTokens
    added_tokens_decoder: Mapping[int, AddedToken]
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
    document = read_json(path)
    fields = Fields(document, path)
    decoder = fields.take("added_tokens_decoder", optional(tokens_by_id))
    return TokenizerConfig(
        path=path,
        tokens=_named_tokens(fields),
        added_tokens_decoder=decoder or {},
        chat_templates=fields.take("chat_template", _chat_templates),
        tokenizer_class=fields.take("tokenizer_class", lambda value: str(value) if value else None),
        extra_ids=fields.take("extra_ids", optional(_extra_ids)),
        add_bos_token=fields.take("add_bos_token", known_flag),
        add_eos_token=fields.take("add_eos_token", known_flag),
        add_prefix_space=fields.take("add_prefix_space", known_flag),
        do_lower_case=fields.take("do_lower_case", optional(bool), missing=True),
        strip_accents=fields.take("strip_accents", optional(bool)),
        tokenize_chinese_chars=fields.take("tokenize_chinese_chars", optional(bool), missing=True),
        recorded=fields.take(RECORDED_KEY, _recorded_facts),
    )


def read_special_tokens_map(path: Path) -> NamedTokens:
    """Read special_tokens_map.json; a missing file is an empty one. Raises ``TokenizerError`` if it is damaged."""
    return _named_tokens(Fields(read_json(path), path))


def _named_tokens(fields: Fields) -> NamedTokens:
    by_key = {
        key: content
        for key, value in fields.values.items()
        if key.endswith("_token") and (content := token_text(value)) is not None
    }
    further: set[str] = set()
    for key in ("additional_special_tokens", "extra_special_tokens"):
        further.update(fields.take(key, _texts))
    return NamedTokens(by_key, frozenset(further))


def _texts(value: object) -> list[str]:
    """The texts in a list of tokens, or in an object of them, or null."""
    tokens = list(value.values()) if isinstance(value, dict) else json_list([] if value is None else value)
    return [content for token in tokens if (content := token_text(token))]


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
