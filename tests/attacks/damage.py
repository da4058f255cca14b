"""Damaging a file: flipped bits, cuts, lengths overwritten with extremes, pieces moved about."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

_EXTREMES = (0, 1, 2, 7, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1,
             2**63, 2**64 - 32, 2**64 - 1)  # fmt: skip


def _flip(data: bytearray, random: Random) -> None:
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _cut(data: bytearray, random: Random) -> None:
    del data[random.randrange(len(data)) :]


def _overwrite(data: bytearray, random: Random) -> None:
    """Any place with a number of any width."""
    width = random.choice((1, 2, 4, 8))
    if len(data) >= width:
        _put(data, random.randrange(len(data) - width + 1), width, random.choice(_EXTREMES), random)


def _lengthen(data: bytearray, random: Random) -> None:
    """A number that may be a length, a count or a type: one that is no larger than the file."""
    width = random.choice((4, 8))
    order = random.choice("<<<>")
    start = random.randrange(len(data))
    for at in range(start, min(start + 256, len(data) - width + 1)):
        (number,) = struct.unpack_from(order + ("I" if width == 4 else "Q"), data, at)
        if 0 < number <= len(data):
            near = (number - 1, number + 1, number * 2, len(data), len(data) - at, *_EXTREMES)
            _put(data, at, width, random.choice(near), random, order)
            return


def _splice(data: bytearray, random: Random) -> None:
    """A piece left out, doubled, or put somewhere else."""
    a = random.randrange(len(data))
    piece = data[a : a + random.choice((1, 4, 8, 12, 32, 200))]
    if random.random() < 0.5:
        del data[a : a + len(piece)]
    if random.random() < 0.7:
        b = random.randrange(len(data) + 1)
        data[b : b + (len(piece) if random.random() < 0.5 else 0)] = piece


def _grow(data: bytearray, random: Random) -> None:
    data += random.randbytes(random.choice((1, 16, 100)))


_WAYS: tuple[Callable[[bytearray, Random], None], ...] = (_flip, _cut, _overwrite, _lengthen, _lengthen, _splice, _grow)


def _put(data: bytearray, at: int, width: int, number: int, random: Random, order: str = "<") -> None:
    number %= 1 << 8 * width
    data[at : at + width] = number.to_bytes(width, "little" if order == "<" else "big")


def damaged(whole: bytes, random: Random) -> bytes:
    """The file with one to three of these done to it."""
    data = bytearray(whole)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if data:
            random.choice(_WAYS)(data, random)
    return bytes(data)


_STRANGE: tuple[Any, ...] = (
    None, True, 0, -1, 3, 2**31, 2**70, 10**30, 1.5, 1e308, float("nan"), float("inf"), "", "a", "\0", "\ud800",
    "x" * 300, "../x", "/etc/passwd", [], [[]], [None], [1, 2], ["a"], ["a", "b", "c"], [{}], {}, {"a": None},
    {"type": 3}, {"type": "Sequence"}, {"id": -1}, {"content": 3},
)  # fmt: skip


def strange_json(value: Any, random: Random) -> Any:
    """The value with one piece of it, at any depth, replaced, left out, doubled or under another name."""
    inner: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    if not inner or random.random() < 0.15:
        return random.choice(_STRANGE)
    key = random.choice(inner[:12] + inner[-3:])
    out = value.copy()
    way = random.random()
    if way < 0.1:
        del out[key]
    elif way < 0.15 and isinstance(out, dict):
        out[random.choice(("", "0", "\ud800", "type", "x" * 100))] = out[key]
    elif way < 0.15:
        out.append(out[key])
    else:
        out[key] = strange_json(value[key], random)
    return out


def json_bytes(value: Any) -> bytes:
    """As a stranger may write it: lone surrogates and NaN included."""
    return json.dumps(value).encode()
