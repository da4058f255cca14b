"""Headless Chromium, driven over a pipe by its own protocol (https://chromedevtools.github.io/devtools-protocol/).

with Browser() as browser:
    view = browser.open(path, width=375)
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")

# What sticks out to the right of the window, though no frame of its own scrolls it.
_OVERFLOWING = """[...document.querySelectorAll('body *')].filter(e =>
  !e.closest('.scroll') && e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5
).map(e => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 40))"""


def find_browser() -> str:
    """The program's path. Raises when there is none: `apt-get install chromium-headless-shell` gets one."""
    for name in PROGRAMS:
        found = shutil.which(name)
        if found:
            return found
    raise FileNotFoundError(f"none of {', '.join(PROGRAMS)}; apt-get install chromium-headless-shell")


@dataclass(frozen=True)
class View:
    """A page as it was seen: a PNG of all of it, its size, what overflows when all is unfolded, and its complaints."""

    png: bytes
    width: int
    height: int
    overflowing: list[str]
    complaints: list[str]


class Browser:
    """One Chromium process and one tab in it."""

    def __enter__(self) -> Browser:
        self._folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        command_end, self._to = os.pipe()
        self._from, answer_end = os.pipe()
        command = [
            find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run", "--disable-background-networking", 
            f"--user-data-dir={self._folder.name}",
            "--remote-debugging-pipe",
        ]  # fmt: skip
        # Chromium reads commands from descriptor 3 and answers on 4; the shell puts our pipes there.
        shell = f'exec "$@" 3<&{command_end} 4>&{answer_end}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(command_end, answer_end),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_end)
        os.close(answer_end)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._to)  # Chromium ends with its pipe
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)
        self._folder.cleanup()

    def open(self, path: Path, width: int, dark: bool = False) -> View:
        """Look at a page in a window of ``width`` CSS pixels, then unfold its <details> and look for what overflows."""
        self._events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=path.resolve().as_uri())
        self._wait_for("Page.loadEventFired")
        size = self.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        self.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        overflowing = self.evaluate(_OVERFLOWING)
        return View(base64.b64decode(shot), *size, overflowing, [_told(e) for e in self._events if _told(e)])

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer; events meanwhile are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def _wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self._events):
            self._events.append(self._receive())

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._from, 1 << 16)
            if not more:
                raise RuntimeError(f"Chromium ended with {self._process.wait()}")
            self._buffer += more
        raw, self._buffer = self._buffer.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(raw)
        return answer


def _told(event: dict[str, Any]) -> str:
    """What an event complains of, if it does: errors and warnings of the console, exceptions, requests elsewhere."""
    method, params = event.get("method"), event.get("params", {})
    if method == "Runtime.exceptionThrown":
        return str(params["exceptionDetails"]["text"])
    if method == "Runtime.consoleAPICalled":
        return f"console: {params['args']}"
    if method == "Log.entryAdded":
        return str(params["entry"]["text"])
    if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:")):
        return f"request of {params['request']['url']}"
    return ""
