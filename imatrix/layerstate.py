"""What a walk through a model's blocks has finished, so that a run after a crash goes on and ends in the same bytes.

A folder: a file of arrays for each finished block, the activations that enter the next one, and a journal of JSON lines
that names them with their SHA-256. Each line carries its own CRC-32; the first that is cut or wrong ends the journal.
A line is added only after the files it names are on the disk.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.storage.durable import sha256_of_file, write_durably
from ..formats.storage.journal import Journal, sound_lines
from ..formats.storage.output import explained
from .runner import Runner

Arrays = Mapping[str, NDArray[Any]]


class LayerState:
    """A walk's state. One that is of another run, or damaged, counts as none.

    Args:
        folder: beside the output.
        key: everything the result depends on; see ``state.run_key``.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder, self.path = folder, folder / "journal"
        digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
        self._head = f"quantmill layers 1 {digest}"
        self._journal = Journal(self.path, self._head)
        self.entries: list[dict[str, Any]] = []  # of the finished blocks, in order

    def file(self, layer: int) -> Path:
        """The arrays of a finished block, safetensors."""
        return self.folder / f"layer-{layer:05d}.safetensors"

    def resume(self, runner: Runner) -> bool:
        """Put the runner behind the last block whose outputs are there, before ``embed``; False: there is none."""
        self.read()
        entries = self.entries
        while entries and not self._restore(runner, entries[-1]):
            entries.pop()
        if any(_digest(self.file(i)) != entry["arrays"] for i, entry in enumerate(entries)):
            entries = []
            runner.activations.restore(None, 0)
        self.entries = entries
        runner.layer = len(entries)
        if not entries:
            for path in self.folder.glob("layer-*"):
                path.unlink()
        self._journal.keep(len(entries))
        return bool(entries)

    def read(self) -> None:
        """Only the entries, of a walk that another process finished."""
        self._journal = Journal(self.path, self._head)
        self.entries = [json.loads(line) for line in self._journal.lines]

    def _restore(self, runner: Runner, entry: dict[str, Any]) -> bool:
        if entry["activations"] is None:
            return False
        path = self.folder / entry["file"]
        if _digest(path) != entry["activations"]:
            return False
        runner.activations.restore(None if runner.activations.spills else np.fromfile(path, np.uint8), entry["turn"])
        return True

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
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(path, data)
        entry = {"layer": layer, "arrays": hashlib.sha256(data).hexdigest(), "turn": runner.activations.turn,
                 "activations": None, "file": None, "report": report}  # fmt: skip
        if keep_activations:
            content = runner.activations.content()
            if content is None:
                where = runner.activations.file(runner.activations.turn)
                runner.activations.sync()
            else:
                where = self._spare()
                where.unlink(missing_ok=True)  # first, so that the disk never holds three of them
                write_durably(where, content.data)
            entry["activations"], entry["file"] = _digest(where), where.name
        self.entries.append(entry)
        with explained(self.path):
            self._journal.add(json.dumps(entry, sort_keys=True))
        self._journal.close()

    def _spare(self) -> Path:
        """Where activations may be written: not over those that the journal counts on, whatever ends this process."""
        last = next((entry["file"] for entry in reversed(self.entries) if entry["file"]), None)
        return self.folder / ("activations-b.bin" if last == "activations-a.bin" else "activations-a.bin")

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def has_blocks(folder: Path) -> bool:
    """Whether a walk that was cut off left finished blocks in its folder."""
    return len(sound_lines(folder / "journal")) > 1


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None where it cannot be read."""
    try:
        return sha256_of_file(path)
    except OSError:
        return None
