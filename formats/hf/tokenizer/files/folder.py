"""The tokenizer's files of a Hugging Face folder as one typed description, each file read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from ....ir import TokenType
from .added_tokens import TOKEN_KEYS, AddedToken, NamedTokens
from .json_values import Fields, distinct_ids, optional, read_json, read_text, text, token_ids
from .numbering import AddedTokens, TokenSources, merge_added_tokens
from .ranks import RANKS_NAMES
from .sentencepiece_model import NAMES, VERSIONED, SentencePieceModel, read_sentencepiece_model
from .tokenizer_config import (
    TokenizerConfig,
    parse_special_tokens_map,
    parse_tokenizer_config,
    read_special_tokens_map,
    read_tokenizer_config,
)
from .tokenizer_json import BpeModel, Model, TokenizerJson, UnigramModel, WordPieceModel, read_tokenizer_json
from .vocabulary_files import read_merges_txt, read_vocab_json, read_vocab_txt

M = TypeVar("M", bound=Model)
_NO_DEFAULTS: Mapping[str, str] = {}


@dataclass(frozen=True)
class TokenizerFolder:
    """What a folder says about its tokenizer.

    The JSON files are read when it is made. Vocabularies outside of tokenizer.json and chat templates are read when
    they are asked for, once, because most folders hold some that nobody needs.

    Args:
        path: the folder, for messages.
        tokenizer_json: tokenizer.json, or None where it is missing.
        config: tokenizer_config.json.
        special_tokens_map: the tokens that special_tokens_map.json names.
        added_tokens_json: added_tokens.json: text -> id.
        stops: generation_config.json's ``eos_token_id``: the ids that generation stops at.
        own: only the files of Mistral's own format count: tekken.json, or a SentencePiece model with its version behind
            its name.
    """

    path: Path
    tokenizer_json: TokenizerJson | None
    config: TokenizerConfig
    special_tokens_map: NamedTokens
    added_tokens_json: Mapping[str, int]
    stops: tuple[int, ...]
    own: bool = False

    def has(self, *names: str) -> bool:
        """Whether all of these files are in the folder."""
        return all((self.path / name).is_file() for name in names)

    def document(self, model: type[M]) -> tuple[TokenizerJson, M]:
        """tokenizer.json and its model, for readers that are chosen only where the model is of this type."""
        assert self.tokenizer_json is not None
        assert isinstance(self.tokenizer_json.model, model)
        return self.tokenizer_json, self.tokenizer_json.model

    def named_texts(self, *keys: str) -> list[str]:
        """The texts of the tokens that the files name by these keys, such as ``bos_token``: the first key's first."""
        found = (self.named_tokens.by_key.get(key) for key in keys)
        return [token.text for token in found if token is not None]

    @cached_property
    def named_tokens(self) -> NamedTokens:
        """The special tokens that the files name.

        special_tokens_map.json counts where tokenizer_config.json has no ``added_tokens_decoder``.
        """
        named = self.config.named_tokens
        return named if self.config.added_tokens_decoder is not None else named.updated(self.special_tokens_map)

    @cached_property
    def differing_piece(self) -> tuple[int, str, str | None] | None:
        """The first piece that is another token in tokenizer.json: its id, its text, and the text there; or None.

        transformers runs tokenizer.json, whatever lies beside it. Bytes may be written as characters there (Gemma), and
        added tokens may take the places of pieces.
        """
        document = self.tokenizer_json
        if document is None or document.is_byte_level or isinstance(document.model, UnigramModel | WordPieceModel):
            return None  # a SentencePiece model beside such a file is another program's
        if (found := self.sentencepiece) is None or found.is_unigram:
            return None
        vocab = document.model.vocab if isinstance(document.model, BpeModel) else {}
        texts = {number: content for content, number in vocab.items()}
        added = {token.text for _, token in document.added_tokens}
        for number, piece in enumerate(found.pieces):
            there = texts.pop(number, None)
            free = piece.type in (TokenType.BYTE, TokenType.UNKNOWN) and there is not None
            if there != piece.text and there not in added and not free:
                return number, piece.text, there
        beyond = next(((number, content) for number, content in texts.items() if content not in added), None)
        return None if beyond is None else (beyond[0], "", beyond[1])

    @property
    def notes(self) -> list[str]:
        """A line about each thing that is left aside."""
        lines = [self.tokenizer_json.note] if self.tokenizer_json is not None and self.tokenizer_json.note else []
        if self.differing_piece is not None:
            number, here, there = self.differing_piece
            lines.append(
                f"tokenizer.json is read, not tokenizer.model: token {number} is {there!r} there, {here!r} here"
            )
        for key in TOKEN_KEYS:
            files = {
                "tokenizer_config.json": self.config.named_tokens,
                "special_tokens_map.json": self.special_tokens_map,
            }
            said = {name: _text(tokens.by_key[key]) for name, tokens in files.items() if key in tokens.by_key}
            taken = _text(self.named_tokens.by_key.get(key))
            lines += [
                f"{name}: its {key} {text!r} is not taken, as in transformers: {taken!r} is"
                for name, text in said.items()
                if text != taken
            ]
        return lines

    def added_tokens(
        self, base: Mapping[str, int], *, defaults: Mapping[str, str] = _NO_DEFAULTS, ids_stand: bool = False
    ) -> AddedTokens:
        """The added tokens by their ids; see ``merge_added_tokens``.

        Args:
            base: text -> id of the vocabulary without added tokens.
            defaults: the special tokens that transformers' class has by their keys where the files name no others.
            ids_stand: whether the ids that the files declare stand.
        """
        own = {key: AddedToken(content, special=True) for key, content in defaults.items()}
        sources = TokenSources(
            path=self.path,
            listed=None if self.tokenizer_json is None else self.tokenizer_json.added_tokens,
            decoder=self.config.added_tokens_decoder,
            ids=self.added_tokens_json,
            named=NamedTokens(own, None, None).updated(self.named_tokens),
            tokenizer_class=self.config.tokenizer_class,
        )
        return merge_added_tokens(base, sources, ids_stand=ids_stand)

    @cached_property
    def sentencepiece_path(self) -> Path | None:
        """The SentencePiece model, by any of its names; in Mistral's own format the last, as in mistral-common."""
        if self.own:
            names = [path.name for path in self.path.glob("*.model*") if VERSIONED.fullmatch(path.name)]
            return self.path / max(names) if names else None
        return next((self.path / name for name in NAMES if self.has(name)), None)

    @cached_property
    def sentencepiece(self) -> SentencePieceModel | None:
        """The SentencePiece model; None where there is none, or the file of its name holds something else."""
        return None if self.sentencepiece_path is None else read_sentencepiece_model(self.sentencepiece_path)

    @property
    def ranks_path(self) -> Path | None:
        """The file of tiktoken's ranks, by any of its names."""
        return next((self.path / name for name in RANKS_NAMES if self.has(name)), None)

    @cached_property
    def vocab_json(self) -> dict[str, int]:
        """vocab.json: text -> id."""
        return distinct_ids(read_vocab_json(self.path / "vocab.json"), self.path / "vocab.json")

    @cached_property
    def merges_txt(self) -> tuple[str, ...]:
        """merges.txt: ``left right`` in rank order."""
        return read_merges_txt(self.path / "merges.txt")

    @cached_property
    def vocab_txt(self) -> dict[str, int]:
        """vocab.txt: text -> id."""
        return read_vocab_txt(self.path / "vocab.txt")

    @cached_property
    def chat_templates(self) -> dict[str, str]:
        """Name -> Jinja text. As in transformers, files of their own win over tokenizer_config.json."""
        if self.own:
            name = "chat_template.jinja"
            return {"default": read_text(self.path / name)} if self.has(name) else {}
        templates = dict(self.config.chat_templates)
        path = self.path / "chat_template.json"
        of_processor = Fields(read_json(path), path).take("chat_template", optional(text))
        if of_processor is not None:
            templates.setdefault("default", of_processor)
        if self.has("chat_template.jinja"):
            templates["default"] = read_text(self.path / "chat_template.jinja")
        for path in sorted((self.path / "additional_chat_templates").glob("*.jinja")):
            templates[path.stem] = read_text(path)
        return templates


def read_folder(path: Path) -> TokenizerFolder:
    """Read the tokenizer's files of a folder; missing ones are empty.

    Raises:
        TokenizerError: a file is not JSON, is not an object, or holds a value of another type or range than its
            program writes.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "added_tokens.json").write_text('{"<think>": 7}')
        >>> read_folder(folder).added_tokens({"a": 0}, ids_stand=True).by_id
        {7: AddedToken(text='<think>', special=False, lstrip=False, rstrip=False)}
    """
    generation = Fields(read_json(path / "generation_config.json"), path / "generation_config.json")
    return TokenizerFolder(
        path=path,
        config=read_tokenizer_config(path / "tokenizer_config.json"),
        special_tokens_map=read_special_tokens_map(path / "special_tokens_map.json"),
        added_tokens_json=read_vocab_json(path / "added_tokens.json"),
        stops=generation.take("eos_token_id", token_ids),
        tokenizer_json=read_tokenizer_json(path / "tokenizer.json"),
    )


def read_own_folder(path: Path) -> TokenizerFolder:
    """Read a folder in Mistral's own format: what Hugging Face's files say is not read, though they may lie beside."""
    return TokenizerFolder(
        path=path,
        config=parse_tokenizer_config({}, path / "tokenizer_config.json"),
        special_tokens_map=parse_special_tokens_map({}, path / "special_tokens_map.json"),
        added_tokens_json={},
        stops=(),
        tokenizer_json=None,
        own=True,
    )


def _text(token: AddedToken | None) -> str | None:
    return None if token is None else token.text
