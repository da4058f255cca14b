"""Sizes in bytes as people write and read them: ``4.5GiB``, ``5.06 GB``."""

from __future__ import annotations

import re

import click

_UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
    "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", re.ASCII)


class Size(click.ParamType):  # type: ignore[type-arg]  # generic in some versions of click only
    """A click parameter type for sizes: ``4.5GiB``, ``500 MB``, or a number of bytes.

    Example:
        >>> Size().convert("1.5KiB", None, None)
        1536
    """

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is not a valid size, such as 4.5GiB", param, ctx)
        unit = _UNITS.get(match[2].upper())
        if unit is None:
            self.fail(
                f"{value!r} has the unknown unit {match[2]!r}; GB is 10^9 bytes, GiB is 2^30, likewise M and k",
                param,
                ctx,
            )
        return int(float(match[1]) * unit)


def in_gb(n: int) -> str:
    """Format a size as published tables do: in GB with two decimals, below 1 GB in MB with one.

    Example:
        >>> in_gb(5_060_000_000), in_gb(500_000)
        ('5.06 GB', '0.5 MB')
    """
    return f"{n / 1e9:.2f} GB" if n >= 10**9 else f"{n / 1e6:.1f} MB"
