"""The greatest input of every linear layer as a text runs through a model: what scales of activations are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..formats.progress import Progress, emit
from .run_state import RunState
from .runner import Runner

if TYPE_CHECKING:
    import torch

    from .block_linears import Group

Say = Callable[[str], object]


class GreatestInputs:
    """What a block was given.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> seen = GreatestInputs()
        >>> seen.see(SimpleNamespace(linears=[SimpleNamespace(name="up_proj")]), torch.tensor([[1.0, -3.0]]))
        >>> seen.arrays
        {'up_proj': array([3.], dtype=float32)}
    """

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[np.float32]] = {}

    def see(self, group: Group, x: torch.Tensor) -> None:
        """Look at inputs [tokens, width] of a group of linears."""
        most = np.array([float(x.abs().max())], np.float32)
        for linear in group.linears:
            self.arrays[linear.name] = np.maximum(most, self.arrays.get(linear.name, most))


def greatest_inputs(
    runner: Runner, state: RunState, save_every: int, progress: Progress | None, say: Say | None
) -> dict[str, float]:
    """Run a text through every block.

    Args:
        runner: at the first block.
        state: of an earlier run that was interrupted, to go on with.
        save_every: blocks between two savings of the activations; 0 for never.
        progress: told of each batch.
        say: called with a line where an earlier run's work is taken up.

    Returns:
        the greatest magnitude by the layer's name; layers that saw nothing are not there.
    """
    from safetensors.numpy import load_file

    from .layerwise import watch_block

    resumed = state.resume(runner, say)
    if resumed and say is not None:
        say(f"going on at layer {runner.layer + 1}, where an earlier run stopped")
    runner.embed(keep=not resumed)
    emit(progress, runner.started())
    while runner.layer < runner.n_layers:
        block = GreatestInputs()
        watch_block(runner, block.see, progress)
        state.add(runner, block.arrays, [], bool(save_every) and runner.layer % save_every == 0)
    files = [load_file(state.file(layer)) for layer in range(runner.n_layers)]
    return {name: float(most[0]) for found in files for name, most in found.items()}
