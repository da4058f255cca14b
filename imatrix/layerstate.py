"""What a walk through a model's blocks has finished, so that a run after a crash goes on and ends in the same bytes.

A folder: a file of arrays for each finished block, the activations that enter the next one, and a journal of JSON lines
that names them with their SHA-256. Each line carries its own CRC-32; the first that is cut or wrong ends the journal.
A line is added only after the files it names are on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import OutputError
from ..formats.storage.output import explained
from .runner import Runner

Arrays = Mapping[str, NDArray[Any]]
_PIECE = 16 << 20


class LayerState:
    """A walk's state. One that is of another run, or damaged, counts as none.

    Args:
        folder: beside the output.
        key: everything the result depends on; see ``state.run_key``.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder, self.path = folder, folder / "journal"
        self._head = {"key": hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()}
        self.entries: list[dict[str, Any]] = []  # of the finished blocks, in order

    def file(self, layer: int) -> Path:
        """The arrays of a finished block, safetensors."""
        return self.folder / f"layer-{layer:05d}.safetensors"

    def resume(self, runner: Runner) -> bool:
        """Put the runner behind the last block whose outputs are there, before ``embed``; False: there is none."""
        lines = _sound_lines(self.path)
        entries = lines[1:] if lines[:1] == [self._head] else []
        while entries and not self._restore(runner, entries[-1]):
            entries.pop()
        if any(_digest(self.file(i)) != entry["arrays"] for i, entry in enumerate(entries)):
            entries = []
            runner.activations.restore(None, 0)
        self.entries = entries
        runner.layer = len(entries)
        self._rewrite()
        return bool(entries)

    def read(self) -> None:
        """Only the entries, of a walk that another process finished."""
        lines = _sound_lines(self.path)
        self.entries = lines[1:] if lines[:1] == [self._head] else []

    def _restore(self, runner: Runner, entry: dict[str, Any]) -> bool:
        if entry["activations"] is None:
            return False
        path = self.folder / entry["file"]
        if _digest(path) != entry["activations"]:
            return False
        runner.activations.restore(None if runner.activations.spills else np.fromfile(path, np.uint8), entry["turn"])
        return True

    def _rewrite(self) -> None:
        if not self.entries:
            for path in self.folder.glob("layer-*"):
                path.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        _write_synced(partial, b"".join(_line(content) for content in (self._head, *self.entries)))
        partial.replace(self.path)

    def add(self, runner: Runner, arrays: Arrays, report: Any, keep_activations: bool = True) -> None:
        """The block before ``runner.layer`` is finished.

        Args:
            runner: past the block.
            arrays: what was made of it.
            report: JSON, kept with it.
            keep_activations: whether a run can go on from here, at the price of writing them (they may be in files
                already; then it costs nothing to write them).
        """
        from safetensors.numpy import save

        layer = runner.layer - 1
        assert layer == len(self.entries), (layer, len(self.entries))
        path = self.file(layer)
        data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        partial = path.with_suffix(".partial")
        _write_synced(partial, data)
        partial.replace(path)
        entry = {"layer": layer, "arrays": hashlib.sha256(data).hexdigest(), "turn": runner.activations.turn,
                 "activations": None, "file": None, "report": report}  # fmt: skip
        if keep_activations:
            content = runner.activations.content()
            if content is None:
                where = runner.activations.file(runner.activations.turn)
                runner.activations.sync()
            else:
                where = self._spare()
                _write_synced(where, content)
            entry["activations"], entry["file"] = _digest(where), where.name
        self.entries.append(entry)
        with explained(self.path), self.path.open("ab") as file:
            file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())

    def _spare(self) -> Path:
        """Where activations may be written: not over those that the journal counts on, whatever ends this process."""
        last = next((entry["file"] for entry in reversed(self.entries) if entry["file"]), None)
        return self.folder / ("activations-b.bin" if last == "activations-a.bin" else "activations-a.bin")

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def has_blocks(folder: Path) -> bool:
    """Whether a walk that was cut off left finished blocks in its folder."""
    return len(_sound_lines(folder / "journal")) > 1


def _line(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, sort_keys=True)
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()


def _sound_lines(path: Path) -> list[dict[str, Any]]:
    """The content of the lines before the first damage."""
    found: list[dict[str, Any]] = []
    try:
        data = path.read_bytes()
    except OSError:
        return found
    for raw in data.splitlines(keepends=True):
        text = raw[:-10]
        if not raw.endswith(b"\n") or raw[-9:-1] != b"%08x" % zlib.crc32(text):
            break
        found.append(json.loads(text))
    return found


def _write_synced(path: Path, data: Any) -> None:
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
    except OutputError:
        path.unlink(missing_ok=True)
        raise


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None without one."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    except OSError:
        return None
    return digest.hexdigest()
