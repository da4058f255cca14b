"""Runs of a block that stop on the way and later go on from there, without computing the first part again.

A block of transformers is Python code, so nothing but its calls of torch can be kept. A mode of PyTorch sees them all.
The run that stops notes what every call gave; the run that goes on executes the same code, is given those results
instead of computing them, and computes from the place where the other stopped. Only the tensors that the stopped code
still referred to are kept; in place of all others it is given tensors of the same shape without memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from ..formats.storage.output import explained

KEPT = 4 << 30  # bytes of stopped runs in memory; more go to files
_SPARE_DISK = 1 << 30  # bytes that the files leave free
_PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass(frozen=True)
class _Place:
    """A tensor among the results of the calls, by its number."""

    number: int


@dataclass(frozen=True)
class _View:
    """A tensor as a part of a memory: its number there, offset and strides in elements."""

    memory: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass
class _Stopped:
    """A run up to its stop.

    Args:
        results: of each call, with a ``_Place`` for each tensor.
        forms: the shape, type and device of each tensor.
        views: the tensors that are still in use, by number.
        memories: what they are views of, uint8 each; None where these are in a file.
        lent: tensors in use whose memory belongs to the module or to its other inputs, by number.
        sizes: bytes of each memory.
    """

    results: list[Any]
    forms: list[tuple[tuple[int, ...], torch.dtype, torch.device]]
    views: dict[int, _View]
    memories: list[torch.Tensor] | None
    lent: dict[int, torch.Tensor]
    sizes: list[int]


class _Calls(TorchFunctionMode):
    """Gives the calls of a run the results of a stopped one as far as it got, and notes those of the rest."""

    def __init__(self, stopped: _Stopped | None, memories: Sequence[torch.Tensor], device: torch.device | str) -> None:
        super().__init__()
        self.results: list[Any] = []
        self.forms = [] if stopped is None else list(stopped.forms)
        self._refs: list[Any] = [None] * len(self.forms)
        self._numbers: dict[int, int] = {}  # by id; a dead tensor's may be another's
        self._old = [] if stopped is None else stopped.results
        self.broken = False  # a call gave something other than tensors and plain values
        self._stopping = False  # what is called then belongs to no block
        self._live: dict[int, torch.Tensor] = {}
        if stopped is not None:
            moved = [memory.to(device) for memory in memories]
            self._live = {n: _viewed(moved[view.memory], view) for n, view in stopped.views.items()} | stopped.lent

    def entering(self, x: torch.Tensor) -> torch.Tensor:
        """The block's input: x, or what a stopped run made of it in place."""
        if not self._old:
            self._noted(x)
            return x
        return self._tensor(0)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self._stopping:
            return func(*args, **(kwargs or {}))
        at = len(self.results)
        if not self.broken and at < len(self._old):
            self.results.append(self._old[at])
            given = _mapped(self._old[at], _Place, lambda place: self._tensor(place.number))
            if at + 1 == len(self._old):
                self._live = {}  # what is still in use is kept by the block's own code
            return given
        result = func(*args, **(kwargs or {}))
        if not self.broken:
            try:
                self.results.append(_mapped(result, torch.Tensor, self._noted))
            except TypeError:
                self.broken = True
        return result

    def _tensor(self, number: int) -> torch.Tensor:
        known = self._refs[number]
        tensor: torch.Tensor | None = None if known is None else known()
        if tensor is None:
            tensor = self._live.get(number)
        if tensor is None:
            shape, dtype, device = self.forms[number]
            tensor = torch.empty((1,) * len(shape), dtype=dtype, device=device).expand(shape)
        self._refs[number] = ref(tensor)
        self._numbers[id(tensor)] = number
        return tensor

    def _noted(self, tensor: torch.Tensor) -> _Place:
        number = self._numbers.get(id(tensor))
        if number is None or self._refs[number]() is not tensor:
            if tensor.layout is not torch.strided:
                raise TypeError(tensor.layout)
            number = self._numbers[id(tensor)] = len(self.forms)
            self.forms.append((tuple(tensor.shape), tensor.dtype, tensor.device))
            self._refs.append(ref(tensor))
        return _Place(number)

    def stop(self, lenders: set[int]) -> _Stopped:
        """The run until now, with a copy of all tensors in use.

        Args:
            lenders: the addresses of the memories that belong to the module or to its other inputs.
        """
        self._stopping = True
        try:
            return self._copied(lenders)
        finally:
            self._stopping = False

    def _copied(self, lenders: set[int]) -> _Stopped:
        numbers: dict[int, int] = {}
        memories: list[torch.Tensor] = []
        views: dict[int, _View] = {}
        lent: dict[int, torch.Tensor] = {}
        for n, known in enumerate(self._refs):
            tensor: torch.Tensor | None = None if known is None else known()
            if tensor is None:
                continue
            storage = tensor.untyped_storage()
            if storage.data_ptr() in lenders:
                lent[n] = tensor
                continue
            if storage.data_ptr() not in numbers:
                numbers[storage.data_ptr()] = len(memories)
                whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)  # type: ignore[call-overload]
                memories.append(whole.to("cpu", copy=True))
            number = numbers[storage.data_ptr()]
            views[n] = _View(number, tensor.dtype, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))
        sizes = [memory.numel() for memory in memories]
        return _Stopped(list(self.results), list(self.forms), views, memories, lent, sizes)


def _viewed(memory: torch.Tensor, view: _View) -> torch.Tensor:
    empty = torch.empty(0, dtype=view.dtype, device=memory.device)
    return empty.set_(memory.untyped_storage(), view.offset, view.shape, view.stride)  # type: ignore[call-overload, no-any-return]


def _mapped(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A nest of tuples, lists and dicts with ``change`` applied to what is of a kind; the rest must be plain values."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, (*_PLAIN, torch.Size)):
        return value
    if isinstance(value, dict):
        return {key: _mapped(one, kind, change) for key, one in value.items()}
    if isinstance(value, list):
        return [_mapped(one, kind, change) for one in value]
    if type(value) is tuple or type(value).__module__ == "torch.return_types":
        return type(value)([_mapped(one, kind, change) for one in value])
    raise TypeError(type(value))


class PartialRuns:
    """The stopped runs of one block, by batch: in memory, and in files beyond a bound.

    Args:
        folder: for the files.
        limit: bytes that are kept in memory.

    Example:
        >>> runs, block = PartialRuns(Path("unused")), torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
        >>> x = torch.ones(1, 2)
        >>> with torch.inference_mode(), runs.run(0, block, x) as (entering, stop):
        ...     between = block[0](entering)
        ...     stop()
        >>> with torch.inference_mode(), runs.run(0, block, torch.zeros(1, 2)) as (entering, stop):
        ...     bool((block[0](entering) == between).all())  # nothing is computed: it is given
        True
    """

    def __init__(self, folder: Path, limit: int = KEPT) -> None:
        self.folder, self.limit = folder, limit
        self.gave_up = False
        self._stopped: dict[int, _Stopped] = {}
        self._held = 0  # bytes in memory

    def __contains__(self, batch: int) -> bool:
        return batch in self._stopped

    @contextmanager
    def run(
        self, batch: int, module: torch.nn.Module, x: torch.Tensor, others: Sequence[torch.Tensor] = ()
    ) -> Iterator[tuple[torch.Tensor, Callable[[], None]]]:
        """A run of the block inside the context; it goes on where the batch's last stopped.

        Args:
            batch: its number.
            module: the block.
            x: what enters it.
            others: its other inputs.

        Yields:
            what is to enter the block, and a function that makes its caller the place from where the next run goes on,
            if it is called. Of several calls in a run the first counts.

        Raises:
            OutputError: the disk cannot be written.
        """
        if self.gave_up:
            yield x, lambda: None
            return
        last = self._stopped.get(batch)
        calls = _Calls(last, [] if last is None else self._memories(batch, last), x.device)
        lenders = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers(), *others)}
        new: _Stopped | None = None

        def stop() -> None:
            nonlocal new
            if new is None and not calls.broken:
                new = calls.stop(lenders)

        entering = calls.entering(x)
        try:
            with calls:
                yield entering, stop
        finally:
            if new is not None:
                self._keep(batch, new)

    def give_up(self) -> None:
        """Forget the block's stopped runs; from now on each begins at the first call."""
        self.clear()
        self.gave_up = True

    def clear(self) -> None:
        """Forget all stopped runs: the next block begins."""
        for batch in list(self._stopped):
            self._forget(batch)
        self.gave_up = False

    def _file(self, batch: int) -> Path:
        return self.folder / f"stopped-{batch}.bin"

    def _keep(self, batch: int, new: _Stopped) -> None:
        self._forget(batch)
        nbytes = sum(new.sizes)
        memories = new.memories or []
        if self._held + nbytes > self.limit:
            with explained(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                if shutil.disk_usage(self.folder).free < nbytes + _SPARE_DISK:
                    return  # the next run computes all of it
            with explained(self.folder), self._file(batch).open("wb") as file:
                for memory in memories:
                    file.write(memory.numpy().data)
            new.memories = None
        else:
            self._held += nbytes
        self._stopped[batch] = new

    def _memories(self, batch: int, stopped: _Stopped) -> list[torch.Tensor]:
        if stopped.memories is not None:
            return [memory.clone() for memory in stopped.memories]  # calls may write into them
        raw = np.fromfile(self._file(batch), np.uint8)
        return [part.clone() for part in torch.split(torch.from_numpy(raw), stopped.sizes)]

    def _forget(self, batch: int) -> None:
        old = self._stopped.pop(batch, None)
        if old is not None and old.memories is not None:
            self._held -= sum(old.sizes)
        elif old is not None:
            self._file(batch).unlink(missing_ok=True)
