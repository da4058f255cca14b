"""A second device for machines that have none: its numbers are the processor's, its rules are those of a GPU.

A tensor is on it if a program sent it there. An operation whose tensors are on both is refused, as a GPU refuses it,
and so is reading a tensor in numpy without bringing it back. Results are the processor's to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NAME = "cuda"
_COPIES = {"aten::copy_", "aten::_to_copy", "aten::_copy_from"}
_IN_NUMPY = (torch.Tensor.numpy, torch.Tensor.__array__)
_IS_THERE = (torch.Tensor.is_cuda.__get__,)  # type: ignore[attr-defined]
_DEVICE = torch.Tensor.device.__get__  # type: ignore[attr-defined]


class SecondDevice:
    """Inside the context, the device ``cuda`` is there.

    Args:
        without: a type of numbers that it does not have, as Apple's have no float64.

    Attributes:
        n_operations: how many operations ran on it.
    """

    def __init__(self, without: torch.dtype | None = None) -> None:
        self.without = without
        self.n_operations = 0
        self._there: dict[int, StorageWeakRef] = {}  # held, so that no other storage gets the address
        self._wanted: list[bool] = []  # where the call that is running makes new tensors
        self._stack = ExitStack()

    def __enter__(self) -> SecondDevice:
        self._stack.enter_context(_Operations(self))
        self._stack.enter_context(_Calls(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is on the device."""
        while torch._C._functorch.is_batchedtensor(tensor):  # inside vmap
            tensor = torch._C._functorch.get_unwrapped(tensor)
        return tensor.untyped_storage()._cdata in self._there

    def put(self, tensor: torch.Tensor) -> None:
        """Say that a new tensor is on the device."""
        if tensor.dtype is self.without:
            raise TypeError(f"the device has no {tensor.dtype}")
        if tensor.device.type == "cpu":
            storage = tensor.untyped_storage()
            self._there.setdefault(storage._cdata, StorageWeakRef(storage))


def _tensors(values: object) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))


def _is_device(value: object) -> bool:
    return isinstance(value, torch.device) or (
        isinstance(value, str) and value.split(":")[0] in ("cpu", "meta", NAME)
    )  # fmt: skip


class _Operations(TorchDispatchMode):
    """Refuses operations on tensors of two devices; results are where the operation ran."""

    def __init__(self, device: SecondDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [tensor for tensor in _tensors((args, kwargs)) if tensor.device.type == "cpu"]
        if func.name().startswith("aten::index."):  # numbers of rows may be in the processor's memory
            given = given[:1]
        places = {self.device.holds(tensor) for tensor in given if tensor.dim()}  # a lone number may be anywhere
        if len(places) > 1 and func.name().split(".")[0] not in _COPIES:
            shapes = [(tuple(tensor.shape), self.device.holds(tensor)) for tensor in given]
            raise RuntimeError(f"{func.name()}: expected all tensors to be on the same device: {shapes}")
        wanted = self.device._wanted[-1] if self.device._wanted else False
        there = self.device.holds(given[0]) if given else wanted
        self.device.n_operations += there
        known = {tensor.untyped_storage()._cdata for tensor in given}
        made = func(*args, **(kwargs or {}))
        for tensor in _tensors(made):
            if there and tensor.device.type == "cpu" and tensor.untyped_storage()._cdata not in known:
                self.device.put(tensor)
        return made


class _Calls(TorchFunctionMode):
    """Understands the device in the arguments of torch's functions."""

    def __init__(self, device: SecondDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        held = [self.device.holds(tensor) for tensor in _tensors((args, kwargs)) if tensor.device.type == "cpu"]
        if func == _DEVICE and any(held):
            return torch.device(NAME, 0)
        if func in _IS_THERE:
            return any(held)
        if func in _IN_NUMPY and any(held):
            raise TypeError(f"cannot convert a {NAME} tensor to numpy: copy it to the processor first")
        if func in (torch.Tensor.to, torch.Tensor.cpu):
            return self._moved(func, args, kwargs)
        asked = [torch.device(value) for value in (*args, *kwargs.values()) if _is_device(value)]
        if not asked:
            return self._call(func, args, kwargs, any(held))
        kwargs = {name: self._real(value) for name, value in kwargs.items()}
        there = asked[0].type == NAME
        made = self._call(func, tuple(map(self._real, args)), kwargs, there)
        for tensor in _tensors(made) if there else ():  # torch.tensor makes one without an operation
            self.device.put(tensor)
        return made

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], there: bool) -> Any:
        self.device._wanted.append(there)
        try:
            return func(*args, **kwargs)
        finally:
            self.device._wanted.pop()

    def _moved(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """``tensor.to(device, dtype)``, ``tensor.to(other)`` or ``tensor.cpu()``."""
        tensor, *rest = args
        before = self.device.holds(tensor)
        asked = [torch.device(value).type for value in (*rest, *kwargs.values()) if _is_device(value)]
        others = [value for value in rest if isinstance(value, torch.Tensor)]
        if func is torch.Tensor.cpu:
            after = False
        elif asked:
            after = asked[0] == NAME
        else:
            after = self.device.holds(others[0]) if others else before
        kwargs = {name: self._real(value) for name, value in kwargs.items()}
        made: torch.Tensor = self._call(func, (tensor, *map(self._real, rest)), kwargs, before)
        if made.device.type == "meta" or after == before:
            return made
        copy = made.clone()
        if after:
            self.device.put(copy)
        else:
            self.device._there.pop(copy.untyped_storage()._cdata, None)
        return copy

    def _real(self, value: Any) -> Any:
        return "cpu" if _is_device(value) and torch.device(value).type == NAME else value
