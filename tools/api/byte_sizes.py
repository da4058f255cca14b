"""Sizes in bytes as people write them: ``4.5GiB``, ``5.06 GB``."""

from __future__ import annotations

import re

_UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
    "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_size(text: str) -> int:
    """The bytes of a size.

    Raises:
        ValueError: it is none, or its unit is unknown; says which.

    Example:
        >>> parse_size("1.5KiB"), parse_size("4.92 GB"), parse_size("105454144")
        (1536, 4920000000, 105454144)
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a valid size, such as 4.5GiB")
    unit = _UNITS.get(match[2].upper())
    if unit is None:
        raise ValueError(f"{text!r} has the unknown unit {match[2]!r}; GB is 10^9 bytes, GiB is 2^30, likewise M and k")
    return int(float(match[1]) * unit)
