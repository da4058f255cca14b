"""The report as Chromium shows it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from oracles.browser import Browser
from oracles.report_samples import HOSTILE, hard_imatrix, hard_model
from quantmill.formats.gguf.reader import read_gguf, read_headers
from quantmill.formats.imatrix_file import read_imatrix
from quantmill.tools.reports.figures import gather
from quantmill.tools.reports.page import page

pytestmark = pytest.mark.browser

_COLOURS = """[...document.querySelectorAll('td, th, p, dt, dd, a, summary, li')].map(e => {
  const behind = e => getComputedStyle(e).backgroundColor;
  let paper = e;
  while (/^(transparent|rgba\\(0, 0, 0, 0\\))$/.test(behind(paper))) paper = paper.parentElement;
  return [getComputedStyle(e).color, behind(paper), e.textContent.slice(0, 30)];
})"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    model = hard_model(folder / "m.gguf", error=0.05)
    against, imatrix = read_gguf(hard_model(folder / "base.gguf")), read_imatrix(hard_imatrix(folder / "i.gguf"))
    report = gather(read_gguf(model), read_headers(model), against=against, imatrix=imatrix)
    (folder / "report.html").write_text(page(report), "utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [375, 768, 1280])
def test_it_fits(browser: Browser, path: Path, width: int, dark: bool) -> None:
    view = browser.open(path, width, dark)
    assert (view.width, view.overflowing, view.complaints) == (width, [], [])
    assert view.height > 2000
    assert colours(view.png) > 100


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_stands_out(browser: Browser, path: Path, dark: bool) -> None:
    """WCAG 2.1's AA: a contrast of 4.5, in the heat maps' cells too."""
    browser.open(path, 375, dark)
    faint = {
        (ink, paper, said): round(found, 2)
        for ink, paper, said in browser.evaluate(_COLOURS)
        if (found := contrast(ink, paper)) < 4.5
    }
    assert not faint


def test_a_hostile_name_stays_text(browser: Browser, path: Path) -> None:
    browser.open(path, 375)
    assert browser.evaluate("document.querySelectorAll('script, img, iframe, [onerror]').length") == 0
    assert browser.evaluate("document.querySelector('h1').textContent").startswith(HOSTILE[:50])


def test_the_keyboard_reaches_what_scrolls(browser: Browser, path: Path) -> None:
    browser.open(path, 375)
    missed = browser.evaluate(
        "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1 &&"
        " getComputedStyle(e).overflowX == 'auto' && e.tabIndex != 0).length"
    )
    assert missed == 0
    assert browser.evaluate("document.querySelectorAll('.scroll[tabindex=\"0\"][role=region][aria-label]').length") > 3
    assert browser.evaluate("[...document.querySelectorAll('[role=img]')].every(e => e.ariaLabel.length > 10)")


def colours(png: bytes) -> int:
    """About how many shades a PNG has: different bytes among its (filtered) pixels."""
    data, at = b"", 8
    while at < len(png):
        size, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        data += png[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    return len(set(zlib.decompress(data)))


def contrast(ink: str, paper: str) -> float:
    """WCAG's contrast of two computed colours."""
    light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    numbers = [float(n) for n in re.findall(r"\d+\.?\d*(?:e-\d+)?", colour.removeprefix("color(srgb"))][:3]
    parts = numbers if colour.startswith("color(srgb") else [n / 255 for n in numbers]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_by_hand() -> None:
    assert contrast("rgb(0, 0, 0)", "color(srgb 1 1 1)") == 21
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.01)
