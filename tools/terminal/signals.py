"""Ctrl-C and SIGTERM: heard at once, whatever the process is in the middle of."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ...formats.storage.interrupts import cut_off

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
GRACE = 0.6  # seconds that the main thread has to end by itself


class Signals:
    """``heard`` is True once one came."""

    def __init__(self) -> None:
        self.heard = False
        self.ended = threading.Event()


@contextmanager
def listening(prog: str) -> Iterator[Signals]:
    """Both raise ``KeyboardInterrupt`` in the block, so that every ``finally`` runs.

    Python does so between two steps of its own; a matrix product or a compilation can be minutes long. A thread hears
    the signal at once, and ends the process if the block has not ended ``GRACE`` seconds later. What counts is on the
    disk by then, as after a crash.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = signal.signal(signal.SIGTERM, _terminated)
    heard, told = os.pipe()
    os.set_blocking(told, False)
    wakeup = -1 if sys.platform == "win32" else signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(prog, heard, signals), name="signals", daemon=True).start()
    try:
        yield signals
    finally:
        signals.ended.set()
        if sys.platform != "win32":
            signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, before)
        os.close(told)


def _watch(prog: str, heard: int, signals: Signals) -> None:
    while byte := os.read(heard, 1):
        if byte[0] in (signal.SIGINT, signal.SIGTERM):
            signals.heard = True
            if not signals.ended.wait(GRACE):
                cut_off()
                os.write(2, f"{prog}: interrupted\n".encode())
                os._exit(EXIT_INTERRUPTED)
    os.close(heard)


def _terminated(signum: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt
