"""Show on a terminal what long work reports: the listener that every command hands to the library."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from ...formats.progress import Event, Note, RowsDone, RunStarted, StepDone, WorkEnded, WorkStarted
from .lines import print_line, shown

if TYPE_CHECKING:
    from types import TracebackType

_REDRAW = 0.2  # seconds between two states of the line on a terminal
_REPEAT, _AT_LEAST = 30, 10  # seconds between two lines elsewhere; the end of a stage may come after the shorter time
_CLEAR_LINE = "\r\033[K"


class ProgressDisplay:
    """Print events on stderr: notes as lines, work over bytes as a bar, a run as one line with the time left.

    An instance is a ``Progress``: hand it to any function that takes one. It may be called from several threads. Where
    stderr is not a terminal there is no bar, and a run prints a line every half a minute.

    Args:
        quiet: print nothing but important notes.

    Example:
        >>> from quantmill.formats.progress import Note
        >>> with ProgressDisplay(quiet=True) as progress:
        ...     progress(Note("not shown"))
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._live = sys.stderr.isatty()
        self._lock = threading.RLock()
        self._bar: Any = None  # tqdm's, which is imported only where a bar is seen
        self._line = ""
        self._run: RunStarted | None = None
        self._began = time.monotonic()
        self._shown = 0.0

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if self.quiet and not (isinstance(event, Note) and event.important):
            return
        with self._lock:
            match event:
                case RowsDone():
                    if self._bar is not None:
                        self._bar.update(event.nbytes)
                case StepDone():
                    self._show_step(event)
                case Note():
                    self._print(event.text)
                case WorkStarted():
                    self._open_bar(event)
                case RunStarted():
                    self._start_run(event)
                case WorkEnded():
                    self._run = None
                    self.close()

    def close(self) -> None:
        """Remove the bar or the line, if there is one."""
        with self._lock:
            if self._bar is not None:
                self._bar.close()
                self._bar = None
            self._draw("")

    def _open_bar(self, work: WorkStarted) -> None:
        self.close()
        if self._live:
            from tqdm import tqdm

            self._bar = tqdm(
                total=work.total, unit="B", unit_scale=True, desc=shown(work.name, sys.stderr), file=sys.stderr
            )

    def _start_run(self, run: RunStarted) -> None:
        self._run, self._began = run, time.monotonic()
        self._print(f"{run.text}: {run.n_chunks} chunks of {run.n_ctx} tokens")

    def _show_step(self, step: StepDone) -> None:
        now = time.monotonic()
        since = now - self._shown
        if since < (_REDRAW if self._live else _REPEAT) and step.done < step.total:
            return
        if not self._live and since < _AT_LEAST:
            return
        self._shown = now
        line = f"{step.stage}, {step.done}/{step.total}{self._time_left(step, now)}"
        if self._live:
            self._draw(line)
        else:
            print_line(line, err=True)

    def _time_left(self, step: StepDone, now: float) -> str:
        run = self._run
        if step.layer is None or run is None:
            return ""
        done = step.layer - run.first_layer + step.done / step.total
        seconds = (now - self._began) / max(done, 1e-9) * (run.n_layers - run.first_layer - done)
        return f", {_clock(seconds)} left"

    def _print(self, text: str) -> None:
        """Print a line above the bar or the line that is redrawn."""
        line = self._line
        if self._bar is not None:
            self._bar.clear()
        self._draw("")
        print_line(text, err=True)
        self._draw(line)
        if self._bar is not None:
            self._bar.refresh()

    def _draw(self, line: str) -> None:
        if line or self._line:
            print(f"{_CLEAR_LINE}{shown(line, sys.stderr)}", end="", file=sys.stderr, flush=True)
        self._line = line


def _clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
