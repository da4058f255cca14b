from __future__ import annotations

import math
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from oracles.report_samples import HOSTILE, ROLES, hard_imatrix, hard_model
from quantmill.formats.gguf.reader import read_gguf, read_headers
from quantmill.formats.imatrix_file import read_imatrix
from quantmill.tools.reports.figures import Report, gather
from quantmill.tools.reports.html import Html, tag, text
from quantmill.tools.reports.page import _level, _short, page

TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "nav", "ul", "li", "a", "main", "section", "h1", "h2",
    "p", "dl", "div", "dt", "dd", "bdi", "span", "table", "thead", "tbody", "tr", "th", "td", "small", "details",
    "summary", "pre", "svg", "g", "rect", "i", "footer", "wbr",
}  # fmt: skip


class Outline(HTMLParser):
    """What a browser would make of a page: its tags, attributes and text; and whether every tag is closed."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("report")
    path = hard_model(folder / "m.gguf", error=0.05)
    against = read_gguf(hard_model(folder / "base.gguf"))
    imatrix = read_imatrix(hard_imatrix(folder / "<i>.imatrix.gguf"))
    return gather(read_gguf(path), read_headers(path), against=against, imatrix=imatrix, threads=2)


@pytest.fixture(scope="module")
def outline(report: Report) -> Outline:
    return Outline(page(report))


def test_nothing_in_a_file_becomes_markup(outline: Outline) -> None:
    assert outline.open == []
    assert {name for name, _ in outline.tags} <= TAGS
    attributes = [(key, value or "") for _, attrs in outline.tags for key, value in attrs.items()]
    assert not [key for key, _ in attributes if key.startswith("on")]
    assert not [(key, value) for key, value in attributes if key in ("src", "href") and not value.startswith("#")]
    shown = "".join(outline.text)
    assert shown.count("<script>alert(1)</script>") >= 3  # title, heading, key: as text
    assert r"\u202e\x00\udc80" in shown
    assert not {"\u202e", "\x00"} & set(shown)


def test_it_loads_nothing(report: Report, outline: Outline) -> None:
    policies = [attrs["content"] for name, attrs in outline.tags if attrs.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]
    raw = page(report)
    assert not [word for word in ("http:", "https:", "url(", "@import", "<script") if word in raw]


def test_figures_by_hand(report: Report) -> None:
    facts = dict(report.facts)
    assert facts["Layers"] == "28"
    assert facts["Heads"] == "4 to 8, by layer"
    assert facts["Level"] == "F16"
    # in a layer: 4 attention matrices of 128 halves, a norm of 32 floats; 7 feed forward and 3 other matrices of floats
    layer = report.layers[3]
    assert layer.nbytes == {"attention": 4 * 256 + 128, "feed forward": 7 * 512, "other": 3 * 512}
    assert layer.weights == 14 * 128 + 32
    assert report.outside_bytes == 2 * 512
    rows = {row.name: (row.n_tensors, row.nbytes) for row in report.types}
    assert rows == {"F32": (2 + 28 * 11, 2 * 512 + 28 * (10 * 512 + 128)), "F16": (112, 112 * 256)}


def test_heat_maps_are_the_figures(report: Report, tmp_path: Path) -> None:
    assert report.error_map
    assert report.importance_map
    matrices = [role for role in ROLES if "norm" not in role]
    assert set(report.error_map.roles) == set(report.importance_map.roles) == set(matrices)
    assert report.error_map.roles[:5] == ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp")
    assert len(report.error_map.cells) == 28 * 14
    assert next(iter(report.error_map.outside)) == "token_embd"
    cell = report.error_map.cells[7, "ssm_in"]
    ours, base = (read_gguf(hard_model(tmp_path / f"{error}.gguf", error)) for error in (0.05, 0.0))
    x, y = (next(t for t in m if t.name == "blk.7.ssm_in.weight").rows(0, 4).view("<f4") for m in (ours, base))
    assert cell.value == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(y), rel=1e-6)
    matrix = read_imatrix(hard_imatrix(tmp_path / "i.gguf")).vectors()["blk.7.ssm_in.weight"]
    assert report.importance_map.cells[7, "ssm_in"].value == pytest.approx(float(matrix.mean()), rel=1e-6)


def test_without_options_the_page_has_no_heat_map(tmp_path: Path) -> None:
    path = hard_model(tmp_path / "m.gguf", layers=0)
    raw = page(gather(read_gguf(path), read_headers(path)))
    assert not [word for word in ("Error per tensor", "Importance", "Size per layer", 'class="heat') if word in raw]
    assert Outline(raw).open == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0532, ".053"), (2.71, "2.7"), (5.0, "5.0"), (9.96, "10"), (140.2, "140"), (3.2e-5, "3e-5"), (0, "0"),
     (123456.0, "1e5"), (math.nan, "nan"), (math.inf, "inf")],
)  # fmt: skip
def test_short_figures(value: float, shown: str) -> None:
    assert _short(value) == shown


def test_colours_follow_the_logarithm() -> None:
    assert [_level(v, 0.01, 1.0) for v in (0.01, 0.1, 1.0, 0.0, math.nan, math.inf)] == [0, 0.5, 1, 0, 1, 1]
    assert _level(2.0, 2.0, 2.0) == 0.5


def test_html_from_python() -> None:
    assert tag("td", "a<b", None, [1, tag("b", "&")], class_="x", data_y=True, z=None) == (
        '<td class="x" data-y>a&lt;b1<b>&amp;</b></td>'
    )
    assert tag("meta", name='"') == '<meta name="&quot;">'
    assert text(Html("<b>")) == "&lt;b&gt;"
    assert HOSTILE not in tag("p", HOSTILE)


def test_the_command(cli: Callable, refused: Callable, tmp_path: Path) -> None:
    path, base = hard_model(tmp_path / "m.gguf", 0.1, layers=2), hard_model(tmp_path / "b.gguf", layers=2)
    done = cli("inspect", path, "--html", tmp_path / "r.html", "--against", base)
    assert (done.code, done.err) == (0, "")
    assert "Error per tensor" in (tmp_path / "r.html").read_text("utf-8")
    assert "exists" in refused("inspect", path, "--html", tmp_path / "r.html")
    assert cli("inspect", path, "--html", tmp_path / "r.html", "--force", "--quiet").out == ""
    assert "the output is the input" in refused("inspect", path, "--html", base, "--against", base, "--force")
    assert "not an importance matrix" in refused("inspect", path, "--html", tmp_path / "s.html", "--imatrix", base)
    assert "give --html" in cli("inspect", path, "--against", base).err
