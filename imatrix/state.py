"""A run's state between two blocks, so that a killed run can be taken up and end in the same bytes.

One ``.npz`` archive, replaced whole: the block that is next, the sums so far, the activations (unless they are in
files already), and what the run was of.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..formats.errors import FormatError, QuantmillError
from .collect import Collector, Sums
from .runner import Runner

_FILE = "state.npz"


def state_folder(output: Path) -> Path:
    """Where a run that will write ``output`` keeps its state."""
    return output.with_name(output.name + ".state")


def identity(runner: Runner, model: Path, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for a state to be of use."""
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


def save_state(folder: Path, runner: Runner, collector: Collector, key: Mapping[str, Any]) -> None:
    """Write the state after a block."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "key": dict(key),
        "layer": runner.layer,
        "turn": runner.hidden.turn,
        "dropped": {str(chunk): where for chunk, where in runner.dropped.items()},
        "names": list(collector.sums),
    }
    arrays: dict[str, Any] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for i, entry in enumerate(collector.sums.values()):
        arrays[f"values{i}"], arrays[f"counts{i}"] = entry.values, entry.counts
    content = runner.hidden.content()
    if content is None:
        runner.hidden.sync()
    else:
        arrays["activations"] = content
    partial = folder / (_FILE + ".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / _FILE)


def load_state(folder: Path, runner: Runner, collector: Collector, key: Mapping[str, Any]) -> bool:
    """Take up a run where it was saved; False when there is nothing to take up.

    Raises:
        QuantmillError: the state is of another run. FormatError: it is damaged.
    """
    path = folder / _FILE
    if not path.is_file():
        return False
    try:
        with np.load(path, allow_pickle=False) as data:
            about = json.loads(data["about"].tobytes())
            differs = [name for name in key if about["key"].get(name) != key[name]]
            if differs:
                problem = f"the state is of another run: {', '.join(differs)} differ"
                raise QuantmillError(problem, path=folder, hint="leave --resume out to start anew")
            for i, name in enumerate(about["names"]):
                collector.sums[name] = Sums(data[f"values{i}"], data[f"counts{i}"])
            content = data["activations"] if "activations" in data.files else None
            runner.hidden.restore(content, int(about["turn"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise FormatError("the saved state is damaged", path=path, hint="leave --resume out to start anew") from None
    runner.layer = int(about["layer"])
    runner.dropped = {int(chunk): where for chunk, where in about["dropped"].items()}
    return True


def remove_state(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
