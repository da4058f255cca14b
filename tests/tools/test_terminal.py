"""What commands show on the terminal: progress and tables."""

from __future__ import annotations

import sys
import threading

import pytest

from quantmill.formats.progress import Event, Note, RowsDone, RunStarted, StepDone, WorkEnded, WorkStarted
from quantmill.tools.terminal import progress as module
from quantmill.tools.terminal.progress import ProgressDisplay
from quantmill.tools.terminal.table import format_table

RUN = RunStarted("text.txt", n_chunks=4, n_ctx=512, n_layers=10, first_layer=2)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> ProgressDisplay:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    return ProgressDisplay()


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = [Note("a"), WorkStarted("x", 2), RowsDone(2), WorkEnded(), RUN, StepDone("layer 3/10", 1, 1)]
    with ProgressDisplay(quiet=True) as progress:
        for event in events:
            progress(event)
    assert capsys.readouterr() == ("", "")


def test_elsewhere_than_on_a_terminal(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    """Notes and the run's begin are lines; steps are printed now and then; there is no bar."""
    progress = ProgressDisplay()
    progress(WorkStarted("x", 2))
    progress(RowsDone(2))
    progress(Note("a note"))
    progress(RUN)
    for seconds, step in (
        (0, StepDone("layer 3/10", 1, 4, layer=2)),  # the first is shown at once
        (5, StepDone("layer 3/10", 2, 4, layer=2)),
        (9, StepDone("layer 3/10", 4, 4, layer=2)),  # a stage's end, too early
        (25, StepDone("layer 4/10", 1, 4, layer=3)),
        (36, StepDone("layer 4/10", 4, 4, layer=3)),
        (100, StepDone("output", 1, 2)),
    ):
        clock.now = 1000.0 + seconds
        progress(step)
    progress(WorkEnded())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "a note",
        "text.txt: 4 chunks of 512 tokens",
        "layer 3/10, 1/4, 0:00 left",
        "layer 4/10, 4/4, 1:48 left",  # 2 of 8 layers took 36 s
        "output, 1/2",
    ]


def test_one_line_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    progress = on_a_terminal(monkeypatch)
    progress(RUN)
    for seconds in (0, 0.1, 0.3):
        clock.now = 1000.0 + seconds
        progress(StepDone("layer 3/10", 1, 4, layer=2))
    progress(Note("a note"))
    progress(WorkEnded())
    progress.close()
    err = capsys.readouterr().err
    assert err.count("layer 3/10, 1/4") == 3  # twice when due, once more below the note
    assert "\r\033[Ka note\n" in err
    assert err.endswith("\r\033[K")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    progress = on_a_terminal(monkeypatch)
    progress(WorkStarted("model.gguf", 800))
    threads = [threading.Thread(target=progress, args=(RowsDone(100),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress(WorkEnded())
    err = capsys.readouterr().err
    assert "model.gguf: 100%" in err
    assert "800/800" in err


def test_a_table() -> None:
    rows = [("name", "size", "about"), ("a", "10", ""), ("longer", "7", "a text"), ("-", "-", "x" * 90), ("b",)]
    assert format_table(rows, right=[1], indent=1) == [
        " name    size  about",
        " a         10",
        " longer     7  a text",
        f" -          -  {'x' * 90}",
        " b",
    ]
    assert format_table([("what cannot be made is explained at length", ""), ("a", "b")]) == [
        "what cannot be made is explained at length",
        "a  b",
    ]
    assert format_table([]) == []
