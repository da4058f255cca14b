"""See what the products of a module's weights are added to: the hidden states beside them, as residual blocks have.

Nothing is assumed of the architecture. Where the product itself is one side of a sum, the other side is passed on;
where a norm or a factor comes between, there is no such sum, and nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
_WEIGHT_AT = {torch.nn.functional.linear: 1, torch.addmm: 2}
OnSum = Callable[[str, torch.Tensor], None]


class _Sums(TorchFunctionMode):
    def __init__(self, weights: Mapping[int, str], on_sum: OnSum, compute: bool) -> None:
        super().__init__()
        self.weights, self.on_sum, self.compute = weights, on_sum, compute
        self._products: dict[int, tuple[str, torch.Tensor]] = {}  # by address; alive, so that no other has it

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _WEIGHT_AT and len(args) > _WEIGHT_AT[func]:
            name = self.weights.get(args[_WEIGHT_AT[func]].untyped_storage().data_ptr())
            if name is not None:
                return self._product(name, func, args, kwargs or {})
        if getattr(func, "__name__", "") in _SUMS and len(args) > 1:
            self._see_sum(args[0], args[1])
            self._see_sum(args[1], args[0])
        return func(*args, **(kwargs or {}))

    def _product(self, name: str, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
        if self.compute or func is not torch.nn.functional.linear:
            out: torch.Tensor = func(*args, **kwargs)
        else:
            out = args[0].new_zeros(*args[0].shape[:-1], len(args[1]))
        self._products[out.data_ptr()] = (name, out)
        return out

    def _see_sum(self, mine: Any, other: Any) -> None:
        if not (isinstance(mine, torch.Tensor) and isinstance(other, torch.Tensor)) or mine.shape != other.shape:
            return
        found = self._products.get(mine.data_ptr())
        if found is not None and found[1].numel() == mine.numel():
            del self._products[mine.data_ptr()]
            self.on_sum(found[0], other)


@contextmanager
def record_residuals(
    module: torch.nn.Module, names: Mapping[str, str], on_sum: OnSum, *, compute: bool = True
) -> Iterator[None]:
    """Call ``on_sum(name, other)``, inside the block, with what the product of a weight is added to.

    Args:
        module: its parameters must have their weights.
        names: what to call each parameter that is watched.
        on_sum: is given the other side of the sum, in the product's shape [..., out].
        compute: False where nothing but the other side is wanted: the products themselves may be zeros.
    """
    parameters = dict(module.named_parameters())
    weights = {parameters[parameter].untyped_storage().data_ptr(): name for parameter, name in names.items()}
    with _Sums(weights, on_sum, compute):
        yield
