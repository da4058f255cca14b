"""Diffusers' names of tensors beside the original ones, as data, and the moves between them: both ways by one table.

ComfyUI-GGUF loads original names alone. Diffusers loads both: from a single file it converts original names to its own
(``convert_*`` in loaders/single_file_utils.py of diffusers 0.42), whose inverse these rows are. Each row is an original
name and the diffusers names of its parts, in order: ``*`` stands for a number, ``@`` for ``weight`` or ``bias``, ``~``
for a tensor whose halves (shift and scale) change places, ``~last`` for one that does so in the last block only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from .naming_rows import ROWS

_NUMBER, _KIND = r"(\d{1,5})", "(weight|bias)"


@dataclass(frozen=True)
class Row:
    """An original name and its parts in diffusers.

    Args:
        original: the pattern of the original name.
        parts: the patterns of diffusers' names, in the order in which the original tensor's rows hold them.
        swapped: ``""``, ``"all"`` or ``"last"``: in which blocks the halves change places.
    """

    original: str
    parts: tuple[str, ...]
    swapped: str = ""


@dataclass(frozen=True)
class Move:
    """An original tensor of one model, and its parts in diffusers.

    Args:
        original: its name.
        parts: diffusers' names.
        swapped: whether its halves change places.
    """

    original: str
    parts: tuple[str, ...]
    swapped: bool = False


@cache
def rows_of(layout: str) -> tuple[Row, ...]:
    """The rows of a layout; none for one that diffusers names as the original does.

    Example:
        >>> from quantmill.formats.diffusion.naming import rows_of
        >>> rows_of("wan")[0].original
        'patch_embedding.@'
    """
    return tuple(_parse(line) for line in ROWS.get(layout, "").strip().splitlines() if line.strip())


def _parse(line: str) -> Row:
    original, _, right = line.partition(" = ")
    words = right.split()
    swapped = {"~": "all", "~last": "last"}.get(words[0], "")
    parts = tuple(word for word in words[bool(swapped) :] if word != "+")
    return Row(original.strip(), parts, swapped)


def original_moves(layout: str, names: Iterable[str]) -> tuple[list[Move], list[str]]:
    """What becomes of diffusers' tensors under original names.

    Args:
        layout: the layout's name.
        names: diffusers' names of a model's tensors.

    Returns:
        the moves, and the names that no row of the layout has.

    Example:
        >>> from quantmill.formats.diffusion.naming import original_moves
        >>> moves, unknown = original_moves("wan", ["blocks.0.attn1.to_q.weight", "other"])
        >>> moves[0].original, unknown
        ('blocks.0.self_attn.q.weight', ['other'])
    """
    moves, unknown = _moves([(row, part) for row in rows_of(layout) for part in row.parts], names)
    return list({move.original: move for move in moves}.values()), unknown


def diffusers_moves(layout: str, names: Iterable[str]) -> tuple[list[Move], list[str]]:
    """As ``original_moves``, for original names that become diffusers'.

    Example:
        >>> from quantmill.formats.diffusion.naming import diffusers_moves
        >>> moves, _ = diffusers_moves("flux", ["double_blocks.0.img_attn.qkv.bias"])
        >>> moves[0].parts[1:]
        ('transformer_blocks.0.attn.to_k.bias', 'transformer_blocks.0.attn.to_v.bias')
    """
    return _moves([(row, row.original) for row in rows_of(layout)], names)


def _moves(sought: Sequence[tuple[Row, str]], names: Iterable[str]) -> tuple[list[Move], list[str]]:
    """The move of each name by the first row whose pattern, beside it, the name has; and the names that have none."""
    listed = list(names)
    table = [(row, _pattern(text)) for row, text in sought]
    last = _last_blocks(listed)
    found, unknown = [], []
    for name in listed:
        match = next(((row, hit) for row, pattern in table if (hit := pattern.fullmatch(name))), None)
        if match is None:
            unknown.append(name)
            continue
        row, groups = match[0], match[1].groups()
        swapped = row.swapped == "all" or (row.swapped == "last" and _is_last(name, last))
        found.append(Move(_filled(row.original, groups), tuple(_filled(part, groups) for part in row.parts), swapped))
    return found, unknown


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\*", _NUMBER).replace("@", _KIND), re.ASCII)


def _filled(text: str, groups: Iterable[str]) -> str:
    values: Iterator[str] = iter(groups)
    return re.sub(r"[*@]", lambda _: next(values), text)


def _last_blocks(names: Iterable[str]) -> Mapping[str, int]:
    """The number of the last block of each list of blocks."""
    found: dict[str, int] = {}
    for name in names:
        words = name.split(".", 2)
        if len(words) == 3 and words[1].isdecimal():
            found[words[0]] = max(found.get(words[0], 0), int(words[1]))
    return found


def _is_last(name: str, last: Mapping[str, int]) -> bool:
    words = name.split(".", 2)
    return last.get(words[0]) == int(words[1])
