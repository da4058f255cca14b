"""The activations between blocks: in memory, or in two files that take turns when they would fill it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ..formats.storage.output import explained

SPILL = 1 << 30  # bytes of activations kept in memory at most


class Activations:
    """[chunks, n_ctx, width] in the runner's dtype. What ``put`` writes, ``get`` reads after the next ``flip``.

    Args:
        shape: (chunks, n_ctx, width).
        dtype: of the activations.
        folder: where the files go, if they must.
        limit: more bytes than this go to files.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, folder: Path, limit: int = SPILL) -> None:
        self.shape, self.dtype, self.folder = shape, dtype, folder
        self.chunk_bytes = shape[1] * shape[2] * dtype.itemsize
        self.spills = shape[0] * self.chunk_bytes > limit
        self.turn = 0  # how often the files have changed places
        self._memory = None if self.spills else torch.empty(shape, dtype=dtype)

    def file(self, turn: int) -> Path:
        return self.folder / f"activations-{turn % 2}.bin"

    def put(self, chunks: list[int], values: torch.Tensor) -> None:
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
        if self._memory is not None:
            return self._memory[chunks]
        raw = np.empty((len(chunks), self.chunk_bytes), np.uint8)
        with self.file(self.turn).open("rb") as file:
            for row, chunk in zip(raw, chunks, strict=True):
                file.seek(chunk * self.chunk_bytes)
                if file.readinto(row.data) != self.chunk_bytes:
                    raise OSError(f"{file.name}: ends before chunk {chunk}")
        return torch.from_numpy(raw).view(self.dtype).reshape(len(chunks), *self.shape[1:])

    def flip(self) -> None:
        """What was written becomes what is read."""
        self.turn += 1

    def sync(self) -> None:
        """What is in files reaches the disk."""
        if self.spills and self.file(self.turn).exists():
            with self.file(self.turn).open("rb") as file:
                os.fsync(file.fileno())

    def content(self) -> np.ndarray | None:  # type: ignore[type-arg]
        """uint8 [bytes] of what is in memory, for a checkpoint; None where it is in files already."""
        return None if self._memory is None else self._memory.view(torch.uint8).numpy().reshape(-1)

    def restore(self, content: np.ndarray | None, turn: int) -> None:  # type: ignore[type-arg]
        self.turn = turn
        if content is not None:
            assert self._memory is not None
            self._memory.view(torch.uint8).numpy().reshape(-1)[:] = content

    def close(self) -> None:
        """Remove the files."""
        for turn in (0, 1):
            self.file(turn).unlink(missing_ok=True)
