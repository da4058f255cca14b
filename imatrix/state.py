"""A run's state between two blocks, so that a killed run can be taken up and end in the same bytes.

One ``.npz`` archive, replaced whole: the block that is next, the sums so far, the activations (unless they are in
files already), what the run was of, and which files hold second moments.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..formats.storage.durable import replacing
from ..formats.storage.output import explained
from .collect import Collector
from .runner import Runner
from .sums import Sums

_FILE = "state.npz"


def state_folder(output: Path) -> Path:
    """Where a run that will write ``output`` keeps its state."""
    return output.with_name(output.name + ".state")


def run_key(runner: Runner, model: Path, extra: Mapping[str, Any]) -> dict[str, Any]:
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
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    about = {
        "key": dict(key),
        "layer": runner.layer,
        "turn": runner.activations.turn,
        "dropped": {str(chunk): where for chunk, where in runner.dropped.items()},
        "names": list(collector.sums),
        "moments": None if collector.moments is None else collector.moments.index(),
    }
    arrays: dict[str, Any] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for i, entry in enumerate(collector.sums.values()):
        arrays[f"values{i}"], arrays[f"counts{i}"] = entry.values, entry.counts
    content = runner.activations.content()
    if content is None:
        runner.activations.sync()
    else:
        arrays["activations"] = content
    with replacing(folder / _FILE) as file:
        np.savez(file, **arrays)


def load_state(
    folder: Path, runner: Runner, collector: Collector, key: Mapping[str, Any], say: Callable[[str], object]
) -> bool:
    """Take up a run where it was saved; False when there is nothing to take up.

    Args:
        say: told why a state that is there is of no use.
    """
    path = folder / _FILE
    if not path.is_file():
        return False
    try:
        with np.load(path, allow_pickle=False) as data:
            about = json.loads(data["about"].tobytes())
            differs = [name for name in key if about["key"].get(name) != key[name]]
            if differs:
                say(f"{folder}: an unfinished run with another {', '.join(differs)} is discarded")
                return False
            sums = {name: Sums(data[f"values{i}"], data[f"counts{i}"]) for i, name in enumerate(about["names"])}
            content = data["activations"] if "activations" in data.files else None
            layer, turn = int(about["layer"]), int(about["turn"])
            dropped = {int(chunk): where for chunk, where in about["dropped"].items()}
            runner.activations.restore(content, turn)
            if collector.moments is not None:
                collector.moments.restore(about["moments"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        say(f"{path}: damaged, so the unfinished run is discarded")
        return False
    collector.sums.update(sums)
    runner.layer, runner.dropped = layer, dropped
    return True


def has_state(folder: Path) -> bool:
    return (folder / _FILE).is_file()


def remove_state(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
