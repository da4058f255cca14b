"""The tokenizer's files of a Hugging Face folder as one typed description, each file read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from .added_tokens import AddedToken, merge_added_tokens
from .json_values import read_json, read_text, token_ids
from .sentencepiece_model import NAMES, SentencePieceModel, read_sentencepiece_model
from .tokenizer_config import NamedTokens, TokenizerConfig, read_special_tokens_map, read_tokenizer_config
from .tokenizer_json import Model, TokenizerJson, read_tokenizer_json
from .vocabulary_files import read_merges_txt, read_vocab_json, read_vocab_txt

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class TokenizerFolder:
    """What a folder says about its tokenizer.

    The JSON files are read when it is made. Vocabularies outside of tokenizer.json and chat templates are read when
    they are asked for, once, because most folders hold some that nobody needs.

    Args:
        path: the folder, for messages.
        tokenizer_json: tokenizer.json, or None where it is missing.
        config: tokenizer_config.json.
        special_tokens_map: special_tokens_map.json.
        added_tokens_json: added_tokens.json: text -> id.
        stops: generation_config.json's ``eos_token_id``: the ids that generation stops at.
    """

    path: Path
    tokenizer_json: TokenizerJson | None
    config: TokenizerConfig
    special_tokens_map: NamedTokens
    added_tokens_json: Mapping[str, int]
    stops: tuple[int, ...]

    def has(self, *names: str) -> bool:
        """Whether all of these files are in the folder."""
        return all((self.path / name).is_file() for name in names)

    def document(self, model: type[M]) -> tuple[TokenizerJson, M]:
        """tokenizer.json and its model, for readers that are chosen only where the model is of this type."""
        assert self.tokenizer_json is not None
        assert isinstance(self.tokenizer_json.model, model)
        return self.tokenizer_json, self.tokenizer_json.model

    def named_texts(self, *keys: str) -> list[str]:
        """The texts that the files give under these keys, such as ``bos_token``: the first key's texts first."""
        sources = (self.config.tokens.by_key, self.special_tokens_map.by_key)
        return [source[key] for key in keys for source in sources if key in source]

    @cached_property
    def special_texts(self) -> frozenset[str]:
        """Texts that tokenizer_config.json or special_tokens_map.json call special."""
        return self.config.tokens.texts | self.special_tokens_map.texts

    @cached_property
    def added_tokens(self) -> dict[int, AddedToken]:
        """Every added token by its id; the later of tokenizer.json, added_tokens.json, tokenizer_config.json wins."""
        listed = () if self.tokenizer_json is None else self.tokenizer_json.added_tokens
        return merge_added_tokens(listed, self.added_tokens_json, self.config.added_tokens_decoder, self.special_texts)

    @cached_property
    def sentencepiece_path(self) -> Path | None:
        """The SentencePiece model, by any of its names."""
        return next((self.path / name for name in NAMES if self.has(name)), None)

    @cached_property
    def sentencepiece(self) -> SentencePieceModel | None:
        """The SentencePiece model; None where there is none, or the file of its name holds something else."""
        return None if self.sentencepiece_path is None else read_sentencepiece_model(self.sentencepiece_path)

    @cached_property
    def vocab_json(self) -> dict[str, int]:
        """vocab.json: text -> id."""
        return read_vocab_json(self.path / "vocab.json")

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
        templates = dict(self.config.chat_templates)
        of_processor = read_json(self.path / "chat_template.json").get("chat_template")
        if isinstance(of_processor, str):
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
        >>> read_folder(folder).added_tokens
        {7: AddedToken(text='<think>', special=False, lstrip=False, rstrip=False)}
    """
    return TokenizerFolder(
        path=path,
        config=read_tokenizer_config(path / "tokenizer_config.json"),
        special_tokens_map=read_special_tokens_map(path / "special_tokens_map.json"),
        added_tokens_json=read_vocab_json(path / "added_tokens.json"),
        stops=token_ids(read_json(path / "generation_config.json").get("eos_token_id")),
        tokenizer_json=read_tokenizer_json(path / "tokenizer.json"),
    )
