"""The card's table of what was measured: each file of the release, and files of other sets beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ....formats.storage.output import human_bytes
from .markdown import plain

# Figure, heading, the factor and the form in which it is shown.
_COLUMNS = (
    ("perplexity", "Perplexity", 1.0, ".4f"),
    ("kld_mean", "Mean KLD", 1.0, ".5f"),
    ("kld_p999", "99.9 % KLD", 1.0, ".4f"),
    ("top1", "Same top token", 100.0, ".2f"),
)
_NOTE = (
    "Perplexity is how badly the text is predicted. KLD is the Kullback-Leibler divergence of a file's predictions "
    "from the original's, in nats, on average and at the 99.9th percentile of positions; 0 means no difference. The "
    "last column is how often both find the same token most likely. Behind ± is the standard error."
)
_OTHERS = (
    "Files in italics are of other sets, and their figures are what {table} says: they compare where it was measured "
    "on the same text."
)


class Measured(Protocol):
    """A file that was measured, here or elsewhere."""

    @property
    def name(self) -> str: ...
    @property
    def level(self) -> str: ...
    @property
    def n_bytes(self) -> int: ...
    @property
    def bpw(self) -> float | None: ...
    @property
    def figures(self) -> Mapping[str, float]: ...


def measured_table(files: Sequence[Measured], others: Sequence[Measured], table: str | None) -> str:
    """Write the section of the card; empty if nothing was measured.

    Args:
        files: those of the release; without figures they are shown only beside others.
        others: files of other sets.
        table: the name of the table that names the others.
    """
    ours = [file for file in files if file.figures or others]
    if not ours:
        return ""
    shown = [column for column in _COLUMNS if any(column[0] in file.figures for file in (*ours, *others))]
    heads = ["Name", "Method", "Bits", "Size", *(column[1] for column in shown)]
    rows = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for file in sorted((*ours, *others), key=lambda file: file.n_bytes):
        name = f"*{plain(file.name)}*" if file in others else plain(file.name)
        bits = "" if file.bpw is None else f"{file.bpw:.2f}"
        cells = [_cell(file.figures, key, scale, form) for key, _, scale, form in shown]
        rows.append([name, plain(file.level), bits, human_bytes(file.n_bytes), *cells])
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    notes = [_NOTE, *([_OTHERS.format(table=plain(table or ""))] if others else [])]
    return f"## Measured\n\n{text}\n\n{' '.join(notes)}\n"


def _cell(figures: Mapping[str, float], key: str, scale: float, form: str) -> str:
    if key not in figures:
        return ""
    unit = " %" if scale != 1 else ""
    error = figures.get(f"{key}_error")
    tail = "" if error is None else f" ± {error * scale:{form}}"
    return f"{figures[key] * scale:{form}}{tail}{unit}"
