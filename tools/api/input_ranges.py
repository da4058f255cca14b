"""The greatest input of each linear layer of a checkpoint on a text, for scales of activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...formats.errors import PlanError
from ...formats.progress import Progress, note, notes
from .running import RunOptions, on_device, open_sample, open_weights, start_run


def input_ranges(
    source: Path, target: Path, text: Path | None, run: RunOptions, save_every: int, progress: Progress | None
) -> dict[str, float]:
    """Run a text through a model, a block in memory at a time.

    Args:
        source: the checkpoint.
        target: the output, beside which the state of an interrupted run is kept.
        text, run, progress: see ``gptq``.
        save_every: blocks between two savings of the activations; 0 for never.

    Returns:
        the greatest magnitude by the layer's name in the checkpoint.
    """
    from ...formats.storage.interrupts import when_cut_off
    from ...imatrix.greatest import greatest_inputs
    from ...imatrix.run_state import RunState, finished_blocks, run_key, state_folder

    weights = open_weights(source, progress)
    corpus = open_sample(weights, text, run, progress)
    work = state_folder(target)

    def cut_off() -> None:
        if finished_blocks(work):
            note(progress, f"what is done is kept in {work.name}; the same command goes on with it")

    with on_device(run, progress) as on, when_cut_off(cut_off):
        runner = start_run(weights, corpus, work, on)
        state = RunState(work, run_key(runner, source, {"what": "greatest inputs"}))
        return greatest_inputs(runner, state, save_every, progress, notes(progress))


def with_neighbours(
    inputs: Mapping[str, float], layers: Sequence[str], source: Path, progress: Progress | None
) -> dict[str, float]:
    """Give experts that saw no token the greatest input of their neighbours, and say so.

    Args:
        inputs: from ``input_ranges``.
        layers: the names of all that need one.
        source: the checkpoint, for messages.
        progress: told of it.

    Raises:
        PlanError: a layer that is no expert saw nothing.
    """
    found = dict(inputs)
    missing = [layer for layer in layers if layer not in inputs]
    for layer in missing:
        parent, _, leaf = layer.rpartition(".")
        experts, _, number = parent.rpartition(".")
        others = [most for name, most in inputs.items() if name.startswith(f"{experts}.") and name.endswith(f".{leaf}")]
        if not number.isdecimal() or not others:
            raise PlanError("the text says nothing of its inputs", path=source, where=layer, hint="--ignore it")
        found[layer] = max(others)
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        note(progress, f"saw no tokens, given their neighbours' scale: {names}")
    return found
