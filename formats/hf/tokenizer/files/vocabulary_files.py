"""Vocabularies of the time before tokenizer.json: vocab.json with merges.txt, and vocab.txt."""

from __future__ import annotations

from pathlib import Path

from ....errors import TokenizerError
from .json_values import Unexpected, read_json, read_text, token_id


def read_vocab_json(path: Path) -> dict[str, int]:
    """Read an object from texts to token ids (vocab.json, added_tokens.json), empty where there is no such file.

    Raises:
        TokenizerError: it is not JSON, or a value is not a token id.
    """
    vocab = {}
    for key, value in read_json(path).items():
        try:
            vocab[key] = token_id(value)
        except Unexpected:
            raise TokenizerError(
                f"{value!r} is not a token id", path=path, where=repr(key), hint="download it again"
            ) from None
    return vocab


def read_merges_txt(path: Path) -> tuple[str, ...]:
    """Read ``left right`` of each line after the version, in rank order.

    Raises:
        TokenizerError: a line is not a pair, or the file cannot be read.
    """
    lines = read_text(path).split("\n")
    if lines and lines[0].startswith("#version"):
        lines = lines[1:]
    merges = []
    for number, line in enumerate(lines):
        parts = line.split()
        if len(parts) not in (0, 2):
            raise TokenizerError(f"not a pair: {line!r}", path=path, where=f"merge {number}")
        if parts:
            merges.append(" ".join(parts))
    return tuple(merges)


def read_vocab_txt(path: Path) -> dict[str, int]:
    """Read a text of each line, numbered from 0. Raises ``TokenizerError`` where the file cannot be read."""
    lines = read_text(path).removesuffix("\n").split("\n")  # not splitlines: some tokens are line separators
    return {line.removesuffix("\r"): number for number, line in enumerate(lines)}
