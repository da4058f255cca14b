"""Hears what goes into a module's weights, experts' stacks included, without touching the module.

transformers 5 keeps a layer's experts in one 3-D parameter and multiplies slices of it, where no module hook reaches.
Every such product is a call of ``torch.nn.functional.linear``, and PyTorch lets a mode see those calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .collect import Target

See = Callable[[Target, int, torch.Tensor], None]


class _Ear(TorchFunctionMode):
    def __init__(self, stacks: Mapping[int, tuple[Target, int]], see: See) -> None:
        super().__init__()
        self.stacks, self.see = stacks, see

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.linear:
            x, weight = args[:2]
            found = self.stacks.get(weight.untyped_storage().data_ptr())
            if found is not None and x.numel():
                target, stride = found
                self.see(target, weight.storage_offset() // stride if target.n_matrices > 1 else 0, x)
        return func(*args, **(kwargs or {}))


@contextmanager
def listening(module: torch.nn.Module, targets: Mapping[str, Target], see: See) -> Iterator[None]:
    """While inside, ``see(target, expert, x)`` is called with each input of the module's named parameters.

    Args:
        module: its parameters must have their weights (not be on the meta device).
        targets: by parameter name; [out, in], or [experts, out, in] for a stack.
        see: given the input x [..., in] just before it is multiplied.
    """
    stacks = {}
    for name, parameter in module.named_parameters():
        if (target := targets.get(name)) is not None:
            stacks[parameter.untyped_storage().data_ptr()] = (target, parameter.stride(0))
    with _Ear(stacks, see):
        yield
