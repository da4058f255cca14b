"""Handle Ctrl-C and SIGTERM at once, whatever the process is doing."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from ...formats.storage.interrupts import cut_off

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
GRACE = 0.6  # seconds that the main thread has to end after a signal


class Signals:
    """Whether a signal was received (``heard``), and whether the block that listens has ended (``ended``)."""

    def __init__(self) -> None:
        self.heard = False
        self.ended = threading.Event()


@contextmanager
def listening(prog: str) -> Iterator[Signals]:
    """Raise ``KeyboardInterrupt`` in the block on Ctrl-C or SIGTERM, so that every ``finally`` runs.

    Python raises it between two bytecode instructions only, and a matrix product or a compilation can take minutes.
    Therefore a thread receives the signal too, and ends the process if the block has not ended ``GRACE`` seconds later.
    All that a later run needs is on the disk by then, as after a crash.

    Args:
        prog: the program's name, for the message ``PROG: interrupted``.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = signal.signal(signal.SIGTERM, _terminated)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = -1 if sys.platform == "win32" else signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(prog, reader, signals), name="signals", daemon=True).start()
    try:
        yield signals
    finally:
        signals.ended.set()
        if sys.platform != "win32":
            signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, before)
        os.close(writer)


def _watch(prog: str, reader: int, signals: Signals) -> None:
    while byte := os.read(reader, 1):
        if byte[0] in (signal.SIGINT, signal.SIGTERM):
            signals.heard = True
            if not signals.ended.wait(GRACE):
                cut_off()
                os.write(2, f"{prog}: interrupted\n".encode())
                os._exit(EXIT_INTERRUPTED)
    os.close(reader)


def _terminated(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
