"""The tokenizer's files of a Hugging Face folder, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import TokenizerError
from ...ir import TokenType
from ...json_text import ROOM, parse_json
from . import schema

Json = dict[str, Any]

_ROOM_FACTOR = 16

# llama.cpp's converter takes these for control tokens whatever the files say (conversion/base.py,
# does_token_look_special): command-r, deepseek-coder and gemma mark theirs as ordinary.
_CONTROL_TEXTS = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
_CONTROL_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


@dataclass(frozen=True)
class TokenizerFiles:
    """What the folder says about its tokenizer. Missing files are empty."""

    folder: Path
    tokenizer: Json | None  # tokenizer.json
    config: Json  # tokenizer_config.json
    special_map: Json  # special_tokens_map.json
    generation: Json  # generation_config.json
    added_json: Mapping[str, int]  # added_tokens.json

    @property
    def sentencepiece(self) -> Path | None:
        """The SentencePiece model, by any of its names."""
        paths = [self.folder / name for name in ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")]
        return next((path for path in paths if path.is_file()), None)

    @property
    def recorded(self) -> Json:
        """What ``write_tokenizer`` noted of a GGUF's tokenizer that no other place in these files holds."""
        noted = self.config.get("quantmill")
        return noted if isinstance(noted, dict) else {}

    @cached_property
    def added(self) -> dict[int, AddedToken]:
        """Every added token by id: tokenizer.json's, then added_tokens.json's, then added_tokens_decoder's."""
        out = {}
        special_texts = self.special_texts
        for token in (self.tokenizer or {}).get("added_tokens") or ():
            out[int(token["id"])] = _added_token(token)
        for text, number in self.added_json.items():
            known = out.get(int(number))
            special = text in special_texts or (known is not None and known.special)
            out[int(number)] = AddedToken(text, special)
        for number, token in (self.config.get("added_tokens_decoder") or {}).items():
            out[int(number)] = _added_token(token)
        return out

    @cached_property
    def special_texts(self) -> set[str]:
        """Texts that tokenizer_config.json or special_tokens_map.json call special."""
        texts = set()
        for source in (self.config, self.special_map):
            for key, value in source.items():
                if key.endswith("_token") and (text := token_text(value)):
                    texts.add(text)
                elif key in ("additional_special_tokens", "extra_special_tokens"):
                    values = value.values() if isinstance(value, dict) else value or ()
                    texts.update(text for item in values if (text := token_text(item)))
        return texts

    @cached_property
    def chat_templates(self) -> dict[str, str]:
        """Name -> Jinja text. As in transformers, files of their own win over tokenizer_config.json."""
        templates: dict[str, str] = {}
        listed = self.config.get("chat_template")
        if isinstance(listed, str):
            templates["default"] = listed
        elif isinstance(listed, list):
            templates.update({item["name"]: item["template"] for item in listed})
        elif isinstance(listed, dict):
            templates.update(listed)
        processor = self._json("chat_template.json").get("chat_template")
        if isinstance(processor, str):
            templates.setdefault("default", processor)
        if (path := self.folder / "chat_template.jinja").is_file():
            templates["default"] = read_text(path)
        for path in sorted((self.folder / "additional_chat_templates").glob("*.jinja")):
            templates[path.stem] = read_text(path)
        return templates

    def _json(self, name: str) -> Json:
        return read_json(self.folder / name)


@dataclass(frozen=True)
class AddedToken:
    text: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False

    @property
    def type(self) -> TokenType:
        looks_special = self.text in _CONTROL_TEXTS or any(
            self.text.startswith(a) and self.text.endswith(b) for a, b in _CONTROL_BRACKETS
        )
        return TokenType.CONTROL if self.special or looks_special else TokenType.USER_DEFINED

    @property
    def stored_text(self) -> str:
        """As GGUF holds it: llama.cpp looks for user-defined tokens before it turns spaces into ▁."""
        return self.text if self.type is TokenType.CONTROL else self.text.replace("▁", " ")


def read_files(folder: Path) -> TokenizerFiles:
    """Everything but the vocabulary files themselves.

    Raises:
        TokenizerError: a file is not JSON, or not an object.
    """
    files = TokenizerFiles(
        folder=folder,
        tokenizer=read_json(folder / "tokenizer.json") or None,
        config=read_json(folder / "tokenizer_config.json"),
        special_map=read_json(folder / "special_tokens_map.json"),
        generation=read_json(folder / "generation_config.json"),
        added_json=read_json(folder / "added_tokens.json"),
    )
    schema.check(files.config, schema.CONFIG, folder / "tokenizer_config.json")
    schema.check(files.special_map, schema.SPECIAL, folder / "special_tokens_map.json")
    schema.check_ids(files.added_json, folder / "added_tokens.json")
    schema.check(files.tokenizer, schema.TOKENIZER, folder / "tokenizer.json")
    model = (files.tokenizer or {}).get("model") or {}
    table = schema.MODELS.get(model.get("type") or "BPE") if model else None
    schema.check(model, table or {}, folder / "tokenizer.json", "model.")
    return files


def _added_token(token: Json) -> AddedToken:
    return AddedToken(token["content"], *(bool(token.get(key)) for key in ("special", "lstrip", "rstrip")))


def token_text(value: Any) -> str | None:
    """A token as these files write it: its text, or an object with ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def read_json(path: Path) -> Json:
    """A JSON object, empty where there is no such file. Raises ``TokenizerError``."""
    if not path.is_file():
        return {}
    raw = read_bytes(path)
    # Gemma's tokenizer.json, the largest known, is 33 MB of text and ten times that as Python's strings and lists.
    data = parse_json(raw, path, room=_ROOM_FACTOR * len(raw) + ROOM, error=TokenizerError)
    if not isinstance(data, dict):
        raise TokenizerError("not a JSON object", path=path)
    return data


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"cannot be read: {error.strerror}", path=path) from None


def read_text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8")  # no newline translation: templates keep their \r
    except UnicodeDecodeError as error:
        raise TokenizerError(f"not UTF-8 at byte {error.start}", path=path, hint="download it again") from None
