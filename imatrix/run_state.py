"""The state of a run through a model's blocks: after a crash the next run goes on with it, and ends in the same bytes.

It is a folder with a file of arrays for each finished block, the activations that enter the next block, and a journal
whose lines are JSON and name those files with their SHA-256. A line is added only after the files it names are on the
disk, so that whatever ends the process, the state is that after some block.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..formats.json_types import TEXT, WHOLE, JsonType, by_name, optional
from ..formats.storage.durable import sha256_of_file, write_durably
from ..formats.storage.journal import Journal, sound_lines
from ..formats.storage.output import explained
from .activations import Activations
from .runner import Runner

Say = Callable[[str], object]
_KIND = "quantmill run 1 "  # the first line of the journal, before the key
_JOURNAL = "journal"


class Walk(Protocol):
    """What goes through a model's blocks: a ``Runner``, or several that keep step.

    Attributes:
        layer: the next block's number.
        dropped: the chunks that were left out, and where each went wrong.
        activations: between two blocks.
    """

    layer: int
    dropped: dict[int, str]
    activations: Activations


class RunState:
    """The state of one run.

    Args:
        folder: for all files of the state, beside the output.
        key: everything that the run's result depends on, ready for JSON; see ``run_key``. The state of a run with
            another key is discarded.

    Attributes:
        entries: one for each finished block, in order; ``entry["report"]`` is what ``add`` was given.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        self._key = json.loads(json.dumps(dict(key)))  # as it is read back
        self.read()

    def read(self) -> None:
        """Read the entries again, of a run that another process is doing."""
        self._journal = Journal(self.folder / _JOURNAL, _KIND + json.dumps(self._key, sort_keys=True))
        self.entries = _sound_entries(self._journal.lines)

    def file(self, layer: int) -> Path:
        """The safetensors file with a finished block's arrays."""
        return self.folder / f"layer-{layer:05d}.safetensors"

    def resume(self, runner: Walk, say: Say | None = None) -> bool:
        """Go on after the last block whose activations are there. To be called before ``runner.embed``.

        Args:
            runner: a new runner, of the same run.
            say: called with one line of text if there is a state that is of no use.

        Returns:
            Whether there is such a block. If not, the state is discarded, and the run begins anew.
        """
        saved = any(entry["activations"] is not None for entry in self.entries)
        saved = saved or len(self.entries) < len(self._journal.lines)
        while self.entries and not self._restore(runner, self.entries[-1]):
            self.entries.pop()
        if any(_digest(self.file(i)) != entry["arrays"] for i, entry in enumerate(self.entries)):
            self.entries = []
        if not self.entries:
            if say is not None and self._journal.other is not None:
                say(f"{self.folder}: an unfinished run with another {self._differences()} is discarded")
            elif say is not None and saved:
                say(f"{self.folder}: damaged, so the unfinished run is discarded")
            self.discard(runner)
            return False
        with explained(self._journal.path):
            self._journal.keep(len(self.entries))
        runner.layer = len(self.entries)
        runner.dropped = {int(chunk): where for chunk, where in self.entries[-1]["dropped"].items()}
        return True

    def _restore(self, runner: Walk, entry: Mapping[str, Any]) -> bool:
        if entry["activations"] is None:
            return False
        path = self.folder / entry["file"]
        if _digest(path) != entry["activations"]:
            return False
        runner.activations.restore(None if runner.activations.spills else np.fromfile(path, np.uint8), entry["turn"])
        return True

    def _differences(self) -> str:
        """What the run that is there has other than this one, in words."""
        other = self._journal.other or ""
        if not other.startswith(_KIND):
            return "version of this program"
        theirs = _parsed(other.removeprefix(_KIND))
        if not isinstance(theirs, dict):
            return "form"
        return ", ".join(name for name in {**self._key, **theirs} if theirs.get(name) != self._key.get(name))

    def discard(self, runner: Walk) -> None:
        """Remove the state; the runner begins anew."""
        self.entries = []
        with explained(self.folder):
            self._journal.keep(0)  # first: it names the other files
            for path in self.folder.glob("layer-*"):
                path.unlink()
        runner.activations.restore(None, 0)
        runner.layer, runner.dropped = 0, {}

    def add(self, runner: Walk, arrays: Mapping[str, NDArray[Any]], report: Any, keep_activations: bool = True) -> None:
        """Add the block before ``runner.layer``, which is finished.

        Args:
            runner: past the block.
            arrays: what was made of the block.
            report: what else is to be kept with it, ready for JSON.
            keep_activations: whether a run can go on from here, at the price of writing the activations. Where they are
                in files already, that costs little.

        Raises:
            OutputError: the disk is full. The state is what it was before.
        """
        from safetensors.numpy import save

        layer = runner.layer - 1
        assert layer == len(self.entries), (layer, len(self.entries))
        data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(self.file(layer), data)
        entry = {"layer": layer, "arrays": hashlib.sha256(data).hexdigest(), "turn": runner.activations.turn,
                 "dropped": runner.dropped, "activations": None, "file": None, "report": report}  # fmt: skip
        if keep_activations:
            content = runner.activations.content()
            if content is None:
                where = runner.activations.file(runner.activations.turn)
                runner.activations.sync()
            else:
                where = self._spare()
                where.unlink(missing_ok=True)  # so that the disk holds no more than two of them
                write_durably(where, content.data)
            entry["activations"], entry["file"] = _digest(where), where.name
        line = json.dumps(entry, sort_keys=True)
        with explained(self._journal.path):
            self._journal.add(line)
        self._journal.close()
        self.entries.append(json.loads(line))

    def _spare(self) -> Path:
        """Where activations may be written: not over those that the journal names last, whatever ends the process."""
        last = next((entry["file"] for entry in reversed(self.entries) if entry["file"]), None)
        return self.folder / ("activations-b.bin" if last == "activations-a.bin" else "activations-a.bin")


def state_folder(output: Path) -> Path:
    """The folder for the state of a run that will write ``output``."""
    return output.with_name(output.name + ".state")


def finished_blocks(folder: Path) -> int:
    """How many finished blocks are in a state's folder, perhaps of a run that another process is doing."""
    return max(0, len(sound_lines(folder / _JOURNAL)) - 1)


def remove_state(folder: Path) -> None:
    """Remove a state's folder, as far as the system allows."""
    shutil.rmtree(folder, ignore_errors=True)


def run_key(runner: Runner, model: Path, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a run by everything its result depends on, ready for JSON.

    Args:
        runner: of the run.
        model: the model's file or folder.
        extra: what else the result depends on, by names that a person understands.
    """
    files = sorted(model.iterdir()) if model.is_dir() else [model]
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return {
        "model": hashlib.sha256(repr(stats).encode()).hexdigest(),
        "text": hashlib.sha256(runner.corpus.inputs.tobytes()).hexdigest(),
        "context size": runner.corpus.n_ctx,
        "batch": len(runner.batches[0]),
        "dtype": runner.options.dtype,
        "device": runner.options.device,
        **extra,
    }


_BY_NAME = by_name(TEXT, "texts")
_FILES = tuple(f"activations-{turn}.bin" for turn in "01ab")
_TYPES = {
    "arrays": TEXT,
    "turn": WHOLE,
    "dropped": JsonType("texts by number", lambda value: _BY_NAME.holds(value) and all(map(str.isdecimal, value))),
    "activations": optional(TEXT),
    "file": optional(JsonType("a file of activations", lambda value: str(value) in _FILES)),
}


def _sound_entries(lines: Sequence[str]) -> list[dict[str, Any]]:
    """The entries before the first that is not what ``add`` writes."""
    entries = []
    for line in lines:
        entry = _parsed(line)
        if not isinstance(entry, dict) or not all(type.holds(entry.get(key)) for key, type in _TYPES.items()):
            break
        if (entry["activations"] is None) != (entry["file"] is None) or "report" not in entry:
            break
        entries.append(entry)
    return entries


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None where it cannot be read."""
    try:
        return sha256_of_file(path)
    except OSError:
        return None
