"""Sizes in bytes as people write and read them: ``4.5GiB``, ``5.06 GB``."""

from __future__ import annotations

import click

from ..api.byte_sizes import parse_size


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
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def in_gb(n: int) -> str:
    """Format a size as published tables do: in GB with two decimals, below 1 GB in MB with one.

    Example:
        >>> in_gb(5_060_000_000), in_gb(500_000)
        ('5.06 GB', '0.5 MB')
    """
    return f"{n / 1e9:.2f} GB" if n >= 10**9 else f"{n / 1e6:.1f} MB"
