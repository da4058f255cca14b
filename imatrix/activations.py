"""Activations between two blocks of a model: in memory or, when they are too large for it, in two files in turn."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..formats.storage.output import explained

SPILL = 1 << 30  # bytes; more activations than this go to files


class Activations:
    """Activations [chunks, n_ctx, width]. What ``put`` writes, ``get`` reads after the next ``flip``.

    Args:
        shape: (chunks, n_ctx, width).
        dtype: the activations' type.
        folder: for the files, if there are any.
        limit: how many bytes are kept in memory; more than this go to files.

    Attributes:
        spills: whether the activations go to files.
        turn: how often the two files have changed places.

    Example:
        >>> activations = Activations((2, 1, 3), torch.float32, Path("unused"))
        >>> activations.put([0, 1], torch.arange(6.0).reshape(2, 1, 3))
        >>> activations.flip()
        >>> activations.get([1])
        tensor([[[3., 4., 5.]]])
    """

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, folder: Path, limit: int = SPILL) -> None:
        self.shape, self.dtype, self.folder = shape, dtype, folder
        self.chunk_bytes = shape[1] * shape[2] * dtype.itemsize
        self.spills = shape[0] * self.chunk_bytes > limit
        self.turn = 0
        self._memory = None if self.spills else torch.empty(shape, dtype=dtype)

    def file(self, turn: int) -> Path:
        """The file that is read at a turn."""
        return self.folder / f"activations-{turn % 2}.bin"

    def put(self, chunks: list[int], values: torch.Tensor) -> None:
        """Write the activations [len(chunks), n_ctx, width] of some chunks.

        Raises:
            OutputError: the disk is full.
        """
        if self._memory is not None:
            self._memory[chunks] = values.to("cpu", self.dtype)
            return
        path = self.file(self.turn + 1)
        raw = values.to("cpu", self.dtype).contiguous().view(torch.uint8).numpy()
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            path.touch()
        with explained(self.folder), path.open("r+b") as file:
            for chunk, row in zip(chunks, raw, strict=True):
                file.seek(chunk * self.chunk_bytes)
                file.write(row.tobytes())

    def get(self, chunks: list[int]) -> torch.Tensor:
        """Read the activations [len(chunks), n_ctx, width] of some chunks."""
        if self._memory is not None:
            return self._memory[chunks]
        # Memory of torch's own, which is aligned: how a product is rounded may depend on that.
        raw = torch.empty(len(chunks), self.chunk_bytes, dtype=torch.uint8)
        with self.file(self.turn).open("rb") as file:
            for row, chunk in zip(raw.numpy(), chunks, strict=True):
                file.seek(chunk * self.chunk_bytes)
                if file.readinto(row.data) != self.chunk_bytes:
                    raise OSError(f"{file.name}: ends before chunk {chunk}")
        return raw.view(self.dtype).reshape(len(chunks), *self.shape[1:])

    def flip(self) -> None:
        """Make what was written what is read from now on."""
        self.turn += 1

    def sync(self) -> None:
        """Bring what is in a file to the disk."""
        if self.spills and self.file(self.turn).exists():
            with self.file(self.turn).open("rb") as file:
                os.fsync(file.fileno())

    def content(self) -> NDArray[np.uint8] | None:
        """All activations as uint8 [bytes], to be saved; None where they are in files already."""
        return None if self._memory is None else self._memory.view(torch.uint8).numpy().reshape(-1)

    def restore(self, content: NDArray[np.uint8] | None, turn: int) -> None:
        """Go back to a ``content()`` and the ``turn`` it was saved at."""
        self.turn = turn
        if content is not None:
            assert self._memory is not None
            self._memory.view(torch.uint8).numpy().reshape(-1)[:] = content

    def close(self) -> None:
        """Remove the files."""
        for turn in (0, 1):
            self.file(turn).unlink(missing_ok=True)


class ActivationsPart(Activations):
    """Some chunks of activations that several runs keep together, numbered from 0. Only the whole is turned.

    Args:
        whole: all of them.
        first: the number of the part's first chunk in the whole.

    Example:
        >>> whole = Activations((2, 1, 3), torch.float32, Path("unused"))
        >>> ActivationsPart(whole, 1).put([0], torch.ones(1, 1, 3))
        >>> whole.flip()
        >>> whole.get([1])
        tensor([[[1., 1., 1.]]])
    """

    def __init__(self, whole: Activations, first: int) -> None:
        self.whole, self.first = whole, first

    def put(self, chunks: list[int], values: torch.Tensor) -> None:
        self.whole.put([self.first + chunk for chunk in chunks], values)

    def get(self, chunks: list[int]) -> torch.Tensor:
        return self.whole.get([self.first + chunk for chunk in chunks])

    def flip(self) -> None:
        """Nothing: the other parts are not written yet."""
