"""Record the inputs of a module's weights, stacks of experts included, without changing the module.

transformers 5 keeps a layer's experts in one 3-D parameter and multiplies slices of it, where no module hook reaches.
Every such product is a call of ``torch.nn.functional.linear``, and PyTorch lets a mode see those calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .sums import RecordedWeight

_FROM_LEFT = (torch.Tensor.matmul, torch.Tensor.__matmul__)  # the weight times columns: Mamba's time steps
_PRODUCTS = (torch.nn.functional.linear, *_FROM_LEFT)
OnInput = Callable[[RecordedWeight, int, torch.Tensor], None]


class _LinearInputs(TorchFunctionMode):
    """Passes the inputs of ``linear`` on, where the weight is one of those that are recorded."""

    def __init__(self, stacks: Mapping[int, tuple[RecordedWeight, int]], on_input: OnInput) -> None:
        super().__init__()
        self.stacks, self.on_input = stacks, on_input

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _PRODUCTS or (func is torch.bmm and not kwargs):  # bmm: in groups of rows
            from_left = func in _FROM_LEFT
            x, weight = reversed(args[:2]) if from_left else args[:2]
            found = self.stacks.get(weight.untyped_storage().data_ptr())
            if found is not None and x.numel():
                x = x.mT if from_left else x
                recorded, stride = found
                if recorded.columns is not None:
                    x = x[..., torch.from_numpy(recorded.columns).to(x.device)]
                self.on_input(recorded, weight.storage_offset() // stride if recorded.n_matrices > 1 else 0, x)
        return func(*args, **(kwargs or {}))


@contextmanager
def record_inputs(module: torch.nn.Module, recorded: Mapping[str, RecordedWeight], on_input: OnInput) -> Iterator[None]:
    """Call ``on_input(weight, expert, x)``, inside the block, with each input of the module's parameters.

    Args:
        module: its parameters must have their weights (not be on the meta device).
        recorded: by parameter name; the parameters are [out, in], or [experts, out, in] for a stack.
        on_input: is given the input x [..., in] just before it is multiplied, in the order of GGUF's columns;
            ``expert`` is 0 for a plain matrix.
    """
    stacks = {}
    for name, parameter in module.named_parameters():
        if (weight := recorded.get(name)) is not None:
            stacks[parameter.untyped_storage().data_ptr()] = (weight, parameter.stride(0))
    with _LinearInputs(stacks, on_input):
        yield
