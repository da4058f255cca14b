"""Collect second moments of a model's inputs, sum_t x_t x_t^T, while it runs.

Sums are float32 in diagonal blocks, and one for each distinct input: q, k and v have the same. The sums of a layer are
final when all of the text has run through it; then they go to a file in the run's folder, so that memory holds those of
one layer at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..formats.errors import FormatError, PlanError
from ..formats.gguf.names import parse_name
from ..formats.ir import Role
from ..formats.moments_file import Moments, Packed, block_bounds, pack, packed_size
from ..formats.storage.durable import replacing
from ..formats.storage.output import explained, human_bytes
from .sums import RecordedWeight, Sums

if TYPE_CHECKING:
    import torch

    from .skeleton import Skeleton

STEP = 256  # a block's columns are a multiple of a super-block's
# These are not quantized, or not by columns: routers choose the experts, convolutions have no inputs in this sense.
_LEFT_OUT = {Role.FFN_GATE_INP, Role.FFN_GATE_INP_SHEXP, Role.SSM_CONV1D, Role.SHORTCONV_CONV}
_SAME_INPUT = (
    {Role.ATTN_Q, Role.ATTN_K, Role.ATTN_V},
    {Role.ATTN_QKV, Role.ATTN_GATE, Role.SSM_BETA_ALPHA, Role.SSM_BETA, Role.SSM_ALPHA},
    {Role.FFN_GATE, Role.FFN_UP},
    {Role.FFN_GATE_EXPS, Role.FFN_UP_EXPS},
    {Role.FFN_GATE_SHEXP, Role.FFN_UP_SHEXP},
)
_TRIAL = 1024  # columns of a block whose time is taken
_TRIAL_ROWS = 512
_PANEL = 128  # rows of a product: nothing above the diagonal is computed beyond them


def measured(name: str) -> bool:
    """Whether second moments are collected for a tensor. Norms with an axis for the heads are not matrices."""
    role = parse_name(name)[0]
    return role not in _LEFT_OUT and "norm" not in role.value


@dataclass(frozen=True)
class DistinctInput:
    """A distinct input of the model.

    Args:
        n_matrices: how many matrices (experts) it has; 1 for a plain matrix.
        width: columns of each.
        n_used: how many of them a token enters.
    """

    n_matrices: int
    width: int
    n_used: int = 1

    def nbytes(self, block_width: int) -> int:
        """Bytes of its second moments in blocks of so many columns."""
        return 4 * self.n_matrices * packed_size(self.width, block_width)

    def products(self, block_width: int) -> int:
        """Multiplications for a token."""
        return self.n_used * packed_size(self.width, block_width)


def distinct_inputs(skeleton: Skeleton, output: bool = False) -> list[DistinctInput]:
    """The distinct inputs that a run will record, derived from the roles of the model's tensors.

    Args:
        skeleton: the model.
        output: whether the output matrix's input is recorded too.
    """
    weights = skeleton.weights
    chosen = int(weights.config.get("num_experts_per_tok") or 1)
    found: dict[tuple[int, str], DistinctInput] = {}
    for layer, module in enumerate(skeleton.layers):
        parameters = dict(module.named_parameters())
        for parameter, target in weights.recorded_weights(layer, module).items():
            names = [name for name in target.names if measured(name)]
            if target.heads is not None:
                n, width = target.heads
                for name, size in zip(target.names, (width, parameters[parameter].shape[-1]), strict=True):
                    found[layer, name] = DistinctInput(n, size, n)
            elif names:
                key = (layer, _same_input(names[0]))
                used = min(target.n_matrices, chosen)
                found.setdefault(key, DistinctInput(target.n_matrices, weights.tensors[names[0]].width, used))
    with_output = output and (not weights.encodes or weights.projection())
    return [*found.values(), *([DistinctInput(1, weights.head.width)] if with_output else [])]


def _same_input(name: str) -> str:
    """A key that is equal for the tensors of a layer with the same input."""
    role = parse_name(name)[0]
    group = next((group for group in _SAME_INPUT if role in group), None)
    return name if group is None else "+".join(sorted(each.value for each in group))


def choose_block_width(inputs: Sequence[DistinctInput], limit: int, most: int | None = None) -> int:
    """Choose the widest blocks that fit: the widest input's columns, so that all are whole, or a multiple of 256.

    Args:
        inputs: of the model.
        limit: bytes for the second moments of all inputs.
        most: columns that are wanted, at most, a multiple of 256; None for all.

    Raises:
        PlanError: even blocks of 256 columns do not fit.

    Example:
        >>> choose_block_width([DistinctInput(1, 512)], 4 << 20), choose_block_width([DistinctInput(1, 512)], 300_000)
        (512, 256)
    """

    def total(block_width: int) -> int:
        return sum(each.nbytes(block_width) for each in inputs)

    widest = max((each.width for each in inputs), default=STEP)
    widest = widest if most is None else min(widest, most)
    if total(widest) <= limit:
        return widest
    low, high = 0, -(-widest // STEP)  # in steps: low fits (or is 0), high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(middle * STEP) <= limit else (low, middle)
    if not low:
        problem = f"the model's second moments need at least {human_bytes(total(STEP))}, in blocks of {STEP} columns"
        raise PlanError(problem, where="--moments-size", hint=f"--moments-size {total(STEP)}")
    return low * STEP


@dataclass(frozen=True)
class _Stored:
    """Where the sums of a finished input are: the file in the folder, and the offset in bytes."""

    file: str
    offset: int
    n_matrices: int
    width: int


class MomentSums:
    """Sums of x x^T by distinct input. As with ``Collector``, a batch counts when it is committed.

    Args:
        block_width: columns in a block.
        folder: for the files of finished layers.
    """

    def __init__(self, block_width: int, folder: Path) -> None:
        self.block_width, self.folder = block_width, folder
        self.inputs: dict[str, str] = {}  # tensor -> holder
        self._heard: dict[str, str] = {}  # likewise, of the batch
        self._batch: list[tuple[str, int, int, torch.Tensor]] = []  # holder, matrices, which one, inputs
        self._last: tuple[torch.Tensor, str] | None = None  # what was seen last, and its holder
        self._sums: dict[str, list[list[torch.Tensor]]] = {}  # holder -> by matrix -> blocks; none for one unseen
        self._widths: dict[str, int] = {}
        self._stored: dict[str, _Stored] = {}

    def see(self, weight: RecordedWeight, expert: int, x: torch.Tensor) -> None:
        """Add inputs to the batch, as ``Collector.see`` does. Weights that are given the same tensor share an input."""
        names = [name for name in weight.names if measured(name)]
        if not names:
            return
        if self._last is None or self._last[0] is not x:
            self._last = (x, names[0])
        holder = self._last[1]
        if holder in names:
            # The caller may write into x before the batch is known to be sound.
            self._batch.append((holder, weight.n_matrices, expert, x.detach().reshape(-1, x.shape[-1]).clone()))
        for name in names:
            known = self._heard.setdefault(name, self.inputs.get(name, holder))
            assert known == holder, (name, known, holder)

    def commit(self) -> None:
        """Add the batch to the sums."""
        for holder, n_matrices, expert, x in self._batch:
            width = self._widths.setdefault(holder, x.shape[1])
            matrices = self._sums.setdefault(holder, [[] for _ in range(n_matrices)])
            if not matrices[expert]:
                sides = (end - start for start, end in block_bounds(width, self.block_width))
                matrices[expert] = [x.new_zeros((side, side), dtype=_float32()) for side in sides]
            add_products(matrices[expert], x, self.block_width)
        self.inputs.update(self._heard)
        self.discard()

    def discard(self) -> None:
        """Forget the batch."""
        self._batch, self._heard, self._last = [], {}, None

    def finish(self, part: str) -> dict[str, Any]:
        """Write the sums since the last call, which are final, to the file ``moments-PART.bin``, durably.

        Returns:
            A description of the file, ready for JSON; ``restore`` takes those of all files.

        Raises:
            OutputError: the disk is full.
        """
        path = self.folder / f"moments-{part}.bin"
        offset = crc = 0
        with explained(path, self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            for holder, matrices in self._sums.items():
                width = self._widths[holder]
                self._stored[holder] = _Stored(path.name, offset, len(matrices), width)
                for blocks in matrices:
                    packed = _packed(blocks, width, self.block_width)
                    file.write(packed.data)
                    crc = zlib.crc32(packed.data, crc)
                    offset += packed.nbytes
        stored = {holder: astuple(self._stored[holder]) for holder in self._sums}
        inputs = {name: holder for name, holder in self.inputs.items() if holder in stored}
        self._sums.clear()
        return {"file": path.name, "crc": crc, "inputs": inputs, "stored": stored}

    def restore(self, files: Sequence[Mapping[str, Any]]) -> None:
        """Go back to what ``finish`` described, call by call.

        Raises:
            ValueError: a file was changed.
            OSError: a file cannot be read.
        """
        for file in files:
            if _crc(self.folder / file["file"]) != file["crc"]:
                raise ValueError(file["file"])
        for file in files:
            self.inputs.update(file["inputs"])
            self._stored |= {holder: _Stored(*place) for holder, place in file["stored"].items()}

    def moments(self, sums: Mapping[str, Sums]) -> Moments:
        """All second moments that are finished; they are read from the files when they are used.

        Args:
            sums: of the same run, for the counts.
        """
        widths = {holder: place.width for holder, place in self._stored.items()}
        counts = {name: sums[name].counts for name in self.inputs}
        return Moments(self.block_width, self.inputs, widths, counts, self._load, self.folder)

    def _load(self, holder: str, matrix: int) -> Packed:
        place = self._stored[holder]
        size = packed_size(place.width, self.block_width)
        path = self.folder / place.file
        try:
            packed = np.fromfile(path, np.float32, size, offset=place.offset + 4 * size * matrix)
        except OSError as error:
            raise FormatError(f"cannot be read any more: {error.strerror}", path=path, where=holder) from error
        if packed.size != size:
            raise FormatError("the file became shorter", path=path, where=holder, hint="--restart begins anew")
        return packed


def _float32() -> torch.dtype:
    import torch

    return torch.float32


def expected_seconds(inputs: Sequence[DistinctInput], block_width: int, tokens: int, device: str) -> float:
    """How long the sums of so many tokens will take, by the time of a few products of such blocks on the device.

    What a GPU does at once is not waited for, so that its time is that of handing the work over.
    """
    import torch

    side = min(block_width, _TRIAL, max((each.width for each in inputs), default=1))
    x = torch.ones(_TRIAL_ROWS, side, device=device)
    blocks = [x.new_zeros(side, side)]
    took = []
    for _ in range(3):
        start = perf_counter()
        add_products(blocks, x, side)
        took.append(perf_counter() - start)
    rate = _TRIAL_ROWS * packed_size(side, side) / max(min(took), 1e-9)
    return tokens * sum(each.products(block_width) for each in inputs) / rate


def add_products(blocks: Sequence[torch.Tensor], x: torch.Tensor, block_width: int) -> None:
    """Add ``x.T @ x`` to blocks of its diagonal, on and below the blocks' own diagonals.

    Args:
        blocks: float32 [block_width, block_width] each; the last may be smaller.
        x: [tokens, width] of any float type.
        block_width: columns of a block.
    """
    for block, (first, _) in zip(blocks, block_bounds(x.shape[1], block_width), strict=True):
        columns = x[:, first : first + len(block)].float()
        for start in range(0, len(block), _PANEL):
            end = min(start + _PANEL, len(block))
            block[start:end, :end] += columns[:, start:end].T @ columns[:, :end]


def _packed(blocks: Sequence[torch.Tensor], width: int, block_width: int) -> Packed:
    packed = np.zeros(packed_size(width, block_width), np.float32)
    at = 0
    for block in blocks:
        size = packed_size(len(block), len(block))
        pack(block.cpu().numpy(), packed[at : at + size])
        at += size
    return packed


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(16 << 20):
            crc = zlib.crc32(piece, crc)
    return crc
