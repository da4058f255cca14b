"""Sizes as people write and read them."""

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
    """``4.5GiB``, ``500 MB``, or bytes."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is no size such as 4.5GiB", param, ctx)
        unit = _UNITS.get(match[2].upper())
        if unit is None:
            self.fail(
                f"{value!r}: unknown unit {match[2]!r}; GB is 10^9 bytes, GiB is 2^30, likewise M and k", param, ctx
            )
        return int(float(match[1]) * unit)


def in_gb(n: int) -> str:
    """``5.06 GB``, with the two decimals of published tables; what is smaller in MB."""
    return f"{n / 1e9:.2f} GB" if n >= 10**9 else f"{n / 1e6:.1f} MB"
