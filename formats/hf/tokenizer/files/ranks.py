"""Vocabularies of ranked bytes: the files of tiktoken, and Mistral's tekken.json."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path

from ....errors import TokenizerError
from .json_values import Fields, Unexpected, json_object, optional, read_bytes, read_json, text, token_id, tuple_of

RANKS_NAMES = ("tiktoken.model", "qwen.tiktoken", "hy.tiktoken")
_MAX_TOKEN = 1 << 11  # bytes; the longest known are runs of some hundred spaces

# What files of before 2025 leave out (mistral_common, Tekkenizer.DEPRECATED_SPECIAL_TOKENS).
_TEKKEN_SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip


@dataclass(frozen=True)
class Tekken:
    """tekken.json.

    Args:
        path: the file, for messages.
        pattern: the regex of a word.
        special: the texts of the special tokens, which have the ids from 0 on.
        ranks: bytes -> rank, of the tokens that follow them.
        version: of the format of conversations, such as ``v7``; None where the file does not say.
    """

    path: Path
    pattern: str
    special: tuple[str, ...]
    ranks: dict[bytes, int]
    version: str | None = None


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read the bytes (base64) and the rank of each line.

    Raises:
        TokenizerError: a line is something else, or the ranks are not those from 0 on, a byte's among them.
    """
    pairs = []
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        try:
            if line.strip():
                token, rank = line.split()
                pairs.append((_bytes_of(token), int(rank)))
        except ValueError:
            raise TokenizerError(
                "not a token in base64 and its rank", path=path, where=f"line {number}", hint="download it again"
            ) from None
    return _checked(pairs, path)


def read_tekken(path: Path) -> Tekken:
    """Read tekken.json. Raises ``TokenizerError`` if it is damaged."""
    fields = Fields(read_json(path), path)
    config = Fields(fields.take("config", json_object), path, "config.")
    pattern = config.take("pattern", text)
    listed = fields.take("special_tokens", optional(tuple_of(_special)))
    named = dict(enumerate(_TEKKEN_SPECIAL)) if listed is None else dict(listed)
    n_special = config.take("default_num_special_tokens", optional(token_id), missing=len(named))
    size = config.take("default_vocab_size", optional(token_id))
    tokens = fields.take("vocab", tuple_of(_token))
    n_special = len(named) if n_special is None else n_special
    if not {*named} <= {*range(n_special)}:
        raise TokenizerError(f"not the ranks from 0 to {n_special - 1}", path=path, where="special_tokens")
    tokens = tokens if size is None else tokens[: max(size - n_special, 0)]
    special = tuple(named.get(number, f"<SPECIAL_{number}>") for number in range(n_special))
    ranks = _checked([(token, rank) for rank, token in enumerate(tokens)], path)
    return Tekken(path, pattern, special, ranks, config.take("version", optional(text)))


def _checked(pairs: list[tuple[bytes, int]], path: Path) -> dict[bytes, int]:
    ranks = dict(pairs)
    if len(ranks) < len(pairs) or sorted(ranks.values()) != list(range(len(ranks))):
        raise TokenizerError(
            "two tokens of the same bytes, or ranks that are not 0, 1, 2...", path=path, hint="download it again"
        )
    if lacking := [value for value in range(256) if bytes([value]) not in ranks]:
        raise TokenizerError(f"no token for the byte 0x{lacking[0]:02X}", path=path, hint="download it again")
    return ranks


def _bytes_of(encoded: str | bytes) -> bytes:
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Unexpected from None
    if not 0 < len(raw) <= _MAX_TOKEN:
        raise Unexpected
    return raw


def _token(value: object) -> bytes:
    return _bytes_of(text(json_object(value).get("token_bytes")))


def _special(value: object) -> tuple[int, str]:
    token = json_object(value)
    return token_id(token.get("rank")), text(token.get("token_str"))
