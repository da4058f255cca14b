"""The state of a run that collects importance: what each finished block added to the sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from .collect import Collector
from .run_state import RunState
from .runner import Runner
from .sums import Sums

BatchSums = dict[str, Sums]  # by tensor name


def add_sums(
    state: RunState,
    runner: Runner,
    batches: Sequence[BatchSums],
    keep_activations: bool,
    moments: Mapping[str, Any] | None = None,
) -> None:
    """Add a finished block to a state; see ``RunState.add``.

    Args:
        state: of the run.
        runner: past the block.
        batches: what was added to the sums, in one part or in several that are to be added in this order.
        keep_activations: whether a run can go on from here.
        moments: the second moments of the block, from ``MomentSums.finish``.
    """
    arrays = {
        f"{i}/{name}/{part.name}": np.asarray(getattr(sums, part.name))
        for i, batch in enumerate(batches)
        for name, sums in batch.items()
        for part in fields(sums)
    }
    names = [list(batch) for batch in batches]
    state.add(runner, arrays, {"names": names, "moments": moments}, keep_activations)


def read_sums(state: RunState, layer: int) -> Iterator[BatchSums]:
    """Read what ``add_sums`` was given for a block, one tensor of one batch at a time."""
    from safetensors import safe_open

    names: list[list[str]] = state.entries[layer]["report"]["names"]
    with safe_open(state.file(layer), "np") as file:
        for i, batch in enumerate(names):
            for name in batch:
                yield {name: Sums(*(file.get_tensor(f"{i}/{name}/{part.name}") for part in fields(Sums)))}


def save_collection(state: RunState, runner: Runner, collector: Collector, keep_activations: bool) -> None:
    """Save what the block before ``runner.layer`` added to a collector's sums; see ``add_sums``.

    A collector's second moments are finished with the block too, and saved.
    """
    moments = None if collector.moments is None else collector.moments.finish(f"{runner.layer:05d}")
    saved = {name for entry in state.entries for batch in entry["report"]["names"] for name in batch}
    new = {name: sums for name, sums in collector.sums.items() if name not in saved}
    add_sums(state, runner, [new], keep_activations, moments)


def resume_collection(
    state: RunState, runner: Runner, collector: Collector, say: Callable[[str], object] | None = None
) -> bool:
    """Go on with a run where its state was saved; see ``RunState.resume``.

    Args:
        state: of the run.
        runner: a new runner, of the same run.
        collector: a new collector, to which the sums are added.
        say: called with one line of text if there is a state that is of no use.
    """
    if not state.resume(runner, say):
        return False
    if collector.moments is not None:
        try:
            collector.moments.restore([entry["report"]["moments"] for entry in state.entries])
        except (OSError, ValueError):
            if say is not None:
                say(f"{state.folder}: damaged, so the unfinished run is discarded")
            state.discard(runner)
            return False
    for layer in range(len(state.entries)):
        for sums in read_sums(state, layer):
            collector.sums.update(sums)
    return True
