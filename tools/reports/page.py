"""Render a report as one page of HTML, which has no script and loads nothing: pure functions from figures to markup."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files

from ...formats.storage.output import human_bytes
from ...formats.version import __version__
from ..api.description import TypeTotals
from .figures import PARTS, Cell, HeatMap, LayerRow, Report
from .html import Child, Html, join, tag, text

_COLOURS = 8  # .f0 to .f7 in report.css
_PART_COLOURS = dict(zip(PARTS, ("f0", "f1", "f7"), strict=True))
_MAX_TEXT = 20_000  # characters of a chat template or a license; the file has the rest
# A second barrier: a browser would run and fetch nothing even if markup from a file got into the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(report: Report) -> str:
    """Render the whole page, from its doctype."""
    sections = [
        ("facts", "The model", _facts(report.facts)),
        ("types", "Tensors by type", _types(report.types)),
        ("layers", "Size per layer", _layers(report.layers, report.outside_bytes) if report.layers else None),
        ("errors", "Error per tensor", _errors(report)),
        ("importance", "Importance", _importance(report)),
        ("metadata", "Metadata", _metadata(report.metadata)),
        ("tensors", "Tensors", _tensors(report)),
    ]
    shown = [(anchor, title, body) for anchor, title, body in sections if body is not None]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{report.title} - quantmill"),
        Html(f"<style>{_style_sheet()}</style>"),
    )
    links = tag("ul", [tag("li", tag("a", title, href=f"#{anchor}")) for anchor, title, _ in shown])
    body = tag(
        "body",
        tag("header", tag("h1", tag("bdi", report.title)), tag("nav", links, aria_label="On this page")),
        tag("main", [_section(*section) for section in shown]),
        tag("footer", f"quantmill {__version__}. Figures are of the file's own bytes; MB are 10^6 bytes."),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _style_sheet() -> str:
    return files(__package__).joinpath("report.css").read_text("utf-8")


def _section(anchor: str, title: str, body: Html) -> Html:
    return tag("section", tag("h2", title, id=f"{anchor}-title"), body, id=anchor, aria_labelledby=f"{anchor}-title")


def _facts(facts: Iterable[tuple[str, str]]) -> Html:
    return tag("dl", [tag("div", tag("dt", label), tag("dd", tag("bdi", value))) for label, value in facts])


def _types(rows: Sequence[TypeTotals]) -> Html:
    total = sum(row.nbytes for row in rows) or 1
    colours = [f"f{min(i, _COLOURS - 1)}" for i in range(len(rows))]
    shares = [f"{row.nbytes * 100 / total:.1f} %" for row in rows]
    bar = tag(
        "div",
        [
            tag("span", class_=colour, style=f"flex: {row.nbytes}", title=f"{row.name}: {share}")
            for row, colour, share in zip(rows, colours, shares, strict=True)
        ],
        class_="share",
        role="img",
        aria_label="Bytes by type: " + ", ".join(f"{r.name} {s}" for r, s in zip(rows, shares, strict=True)),
    )  # fmt: skip
    body: list[list[Child]] = [
        [_swatch(colour, row.name), row.n_tensors, human_bytes(row.nbytes), share, f"{row.bpw:.3f}"]
        for row, colour, share in zip(rows, colours, shares, strict=True)
    ]
    head = ["Type", "Tensors", "Size", "Share", "bpw"]
    return join([bar, _table(head, body, "Tensors by type")])


def _swatch(colour: str, name: str) -> Html:
    return join([tag("span", class_=f"swatch {colour}", aria_hidden="true"), name])


def _layers(rows: Sequence[LayerRow], outside: int) -> Html:
    top = max(row.total for row in rows) or 1
    least = min(row.total for row in rows)
    used = [part for part in PARTS if any(row.nbytes[part] for row in rows)]
    spread = f"each {human_bytes(top)}" if least == top else f"{human_bytes(least)} to {human_bytes(top)} each"
    summary = f"{len(rows)} layers, {spread}; {human_bytes(outside)} outside the layers."
    chart = tag(
        "svg",
        [_column(i, row, top, used) for i, row in enumerate(rows)],
        class_="columns",
        viewBox=f"0 0 {10 * len(rows)} 100",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"Size per layer: {summary}",
    )
    axis = tag("div", tag("span", f"layer {rows[0].layer}"), tag("span", f"layer {rows[-1].layer}"), class_="axis")
    legend = tag("ul", [tag("li", _swatch(_PART_COLOURS[part], part)) for part in used], class_="legend")
    body: list[list[Child]] = [
        [row.layer, *(human_bytes(row.nbytes[part]) for part in used), human_bytes(row.total), _bpw(row)]
        for row in rows
    ]
    head = ["Layer", *(part.capitalize() for part in used), "All", "bpw"]
    scale = tag("div", tag("span", human_bytes(top)), class_="axis", aria_hidden="true")
    table = tag("details", tag("summary", "The same as a table"), _table(head, body, "Size per layer"))
    return join([tag("p", summary), scale, chart, axis, legend, table])


def _column(i: int, row: LayerRow, top: int, used: Sequence[str]) -> Html:
    rects = []
    y = 100.0
    for part in used:
        height = row.nbytes[part] * 100 / top
        y -= height
        rects.append(
            tag("rect", x=f"{10 * i + 1}", y=f"{y:.3f}", width=8, height=f"{height:.3f}", class_=_PART_COLOURS[part])
        )
    parts = ", ".join(f"{part} {human_bytes(row.nbytes[part])}" for part in used)
    title = f"layer {row.layer}: {human_bytes(row.total)}, {_bpw(row)} bpw ({parts})"
    return tag("g", tag("title", title), rects)


def _bpw(row: LayerRow) -> str:
    return f"{row.total * 8 / row.weights:.2f}" if row.weights else "-"


def _errors(report: Report) -> Html | None:
    if report.error_map is None:
        return None
    caption = (
        f"Root mean square error of each matrix against {report.against}, in percent of the root mean square there."
    )
    return _heat(report.error_map, "error", caption, lambda v: _short(v * 100))


def _importance(report: Report) -> Html | None:
    if report.importance_map is None:
        return None
    caption = f"The mean square of each matrix's inputs, from {report.imatrix}; errors are weighted by it."
    return _heat(report.importance_map, "importance", caption, _short)


def _heat(heat: HeatMap, kind: str, caption: str, show: Callable[[float], str]) -> Html:
    """Render a heat map as a table, its cells coloured by the logarithm of their values."""
    positive = [value for value in heat.values if 0 < value < math.inf]
    if not heat.values:
        return tag("p", "No tensor to show: the names have nothing in common.")
    low, high = (min(positive), max(positive)) if positive else (0.0, 0.0)

    def square(cell: Cell | None) -> Html:
        if cell is None:
            return tag("td", "·", class_="none")
        return tag("td", show(cell.value), style=f"--v: {_level(cell.value, low, high):.3f}", title=cell.about)

    head = tag("tr", tag("th", "layer", scope="col"), [tag("th", tag("span", r), scope="col") for r in heat.roles])
    rows = [
        tag("tr", tag("th", layer, scope="row"), [square(heat.cells.get((layer, role))) for role in heat.roles])
        for layer in heat.layers
    ]
    scale = tag(
        "div", tag("span", show(low)), tag("i", aria_hidden="true"), tag("span", show(high)), class_=f"scale {kind}"
    )
    parts: list[Child] = [tag("p", caption), scale]
    if rows:
        table = tag("table", tag("thead", head), tag("tbody", rows), class_=f"heat {kind}")
        parts.append(_scroll(table, f"{kind} by layer and role"))
    if heat.outside:
        body = [[tag("bdi", name), show(cell.value)] for name, cell in heat.outside.items()]
        outside = _table(["Outside the layers", "Value"], body, f"{kind} outside the layers")
        parts.append(tag("div", outside, class_="heat-outside"))
    return join(parts)


def _level(value: float, low: float, high: float) -> float:
    """Map a value to 0 to 1 by its logarithm, and to 1 if it is not finite."""
    if not math.isfinite(value):
        return 1.0
    if value <= 0 or low <= 0:
        return 0.0
    return math.log(value / low) / math.log(high / low) if high > low else 0.5


def _short(value: float) -> str:
    """Format a value with two significant digits in at most five characters: ``.053``, ``140``, ``3e-5``."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if 0.01 <= value < 10000:
        return f"{value:.0f}" if value >= 9.95 else f"{value:#.2g}".removeprefix("0")
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _metadata(rows: Iterable[tuple[str, str, str, str | None]]) -> Html:
    body = [
        tag(
            "tr",
            tag("th", tag("bdi", _breakable(key)), tag("small", kind), scope="row"),
            tag("td", _long(shown, whole) if whole is not None else tag("bdi", shown)),
        )
        for key, kind, shown, whole in rows
    ]
    head = tag("tr", tag("th", "Key", scope="col"), tag("th", "Value", scope="col"))
    return tag("table", tag("thead", head), tag("tbody", body), class_="wide keys")


def _breakable(key: str) -> Html:
    """Allow a narrow screen to break a key after a dot or an underscore."""
    return join([text(part), tag("wbr")] for part in re.split(r"(?<=[._])", key))


def _long(shown: str, whole: str) -> Html:
    cut = whole[:_MAX_TEXT]
    more = f"\n... {len(whole) - _MAX_TEXT} more characters" if len(whole) > _MAX_TEXT else ""
    return tag("details", tag("summary", tag("bdi", shown)), tag("pre", text(cut + more, keep="\n\t"), tabindex=0))


def _tensors(report: Report) -> Html:
    measured = report.error_map is not None
    head = ["Tensor", "Type", "Shape", "Size", *(["Relative RMSE", "Max error", "Cosine"] if measured else [])]
    body = []
    for t in report.tensors:
        row: list[Child] = [
            tag("bdi", t.name),
            t.qtype.name,
            " x ".join(map(str, t.shape)) or "1",
            human_bytes(t.nbytes),
        ]
        if measured:
            found = report.errors.get(t.name)
            figures = (found.rmse, found.max_error, found.cosine) if found else (None, None, None)
            row += [
                "-" if f is None else form.format(f)
                for f, form in zip(figures, ("{:.3e}", "{:.3e}", "{:.7f}"), strict=True)
            ]
        body.append(row)
    return tag("details", tag("summary", f"All {len(body)} tensors"), _table(head, body, "Tensors"))


def _table(head: Sequence[str], rows: Iterable[Sequence[Child]], label: str) -> Html:
    """Render a table whose first column heads its rows and whose other columns are aligned to the right."""
    top = tag("tr", [tag("th", name, scope="col", class_="n" if i else None) for i, name in enumerate(head)])
    body = [
        tag("tr", tag("th", row[0], scope="row"), [tag("td", cell, class_="n") for cell in row[1:]]) for row in rows
    ]
    return _scroll(tag("table", tag("thead", top), tag("tbody", body), class_="wide"), label)


def _scroll(table: Html, label: str) -> Html:
    """Put a table in a frame of its own, in which it scrolls where the screen is narrow, with the keyboard too."""
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)
