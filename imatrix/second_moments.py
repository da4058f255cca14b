"""Second moments of what enters a model's weights, sum_t x_t x_t^T, gathered while it runs.

Float32 sums by distinct input, in diagonal blocks. A block of the model runs once through all of the text, so what it
gave is final then: it goes to a file of its own in the run's folder, and memory holds one block's at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
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

STEP = 256  # blocks are a multiple of a super-block's columns
# Nobody quantizes these, or not by columns: a router chooses the experts, a convolution has no inputs in this sense.
_LEFT_OUT = {Role.FFN_GATE_INP, Role.FFN_GATE_INP_SHEXP, Role.SSM_CONV1D, Role.SHORTCONV_CONV}
_SAME_INPUT = (
    {Role.ATTN_Q, Role.ATTN_K, Role.ATTN_V},
    {Role.FFN_GATE, Role.FFN_UP},
    {Role.FFN_GATE_EXPS, Role.FFN_UP_EXPS},
    {Role.FFN_GATE_SHEXP, Role.FFN_UP_SHEXP},
)
_PANEL = 256  # rows of a product: above the diagonal nothing is wanted


def measured(name: str) -> bool:
    """Whether second moments are kept for a tensor. Some norms have an axis for the heads; they are no matrices."""
    role = parse_name(name)[0]
    return role not in _LEFT_OUT and "norm" not in role.value


@dataclass(frozen=True)
class Input:
    """One distinct input: of so many matrices (experts), each so wide."""

    n_matrices: int
    width: int

    def nbytes(self, block_width: int) -> int:
        return 4 * self.n_matrices * packed_size(self.width, block_width)


def distinct_inputs(skeleton: Skeleton, output: bool = False) -> list[Input]:
    """The distinct inputs that a run will record, derived from the roles of the model's tensors.

    Args:
        skeleton: the model.
        output: whether the output matrix's input is recorded too.
    """
    weights = skeleton.weights
    found: dict[tuple[int, str], Input] = {}
    for layer, module in enumerate(skeleton.layers):
        parameters = dict(module.named_parameters())
        for parameter, target in weights.recorded_weights(layer, module).items():
            names = [name for name in target.names if measured(name)]
            if names:
                key = (layer, _same_input(names[0]))
                found.setdefault(key, Input(target.n_matrices, parameters[parameter].shape[-1]))
    return [*found.values(), *([Input(1, weights.head.width)] if output else [])]


def _same_input(name: str) -> str:
    """Equal for the tensors of a layer that share an input."""
    role = parse_name(name)[0]
    group = next((group for group in _SAME_INPUT if role in group), None)
    return name if group is None else "+".join(sorted(each.value for each in group))


def choose_block_width(inputs: Sequence[Input], limit: int) -> int:
    """The widest blocks that fit: the widest input's columns (all whole), or a multiple of 256.

    Args:
        limit: bytes for all of them.

    Raises:
        PlanError: blocks of 256 columns do not fit either.
    """

    def total(block_width: int) -> int:
        return sum(each.nbytes(block_width) for each in inputs)

    widest = max((each.width for each in inputs), default=STEP)
    if total(widest) <= limit:
        return widest
    low, high = 0, -(-widest // STEP)  # in steps: low fits (or is nothing), high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(middle * STEP) <= limit else (low, middle)
    if not low:
        problem = f"the model's second moments need {human_bytes(total(STEP))} at least, in blocks of {STEP} columns"
        raise PlanError(problem, where="--moments-size", hint=f"--moments-size {total(STEP)}")
    return low * STEP


@dataclass(frozen=True)
class _Stored:
    """Where a finished input's sums are: a file of the folder, and the byte in it."""

    file: str
    offset: int
    n_matrices: int
    width: int


class MomentSums:
    """Sums of x x^T by distinct input. As with ``Collector``, a batch counts when it is committed.

    Args:
        block_width: columns in a block.
        folder: for what is finished.
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
        self._crcs: dict[str, int] = {}  # of the files

    def see(self, target: RecordedWeight, expert: int, x: torch.Tensor) -> None:
        """As ``Collector.see``. Who is given the same tensor one after the other has the same input."""
        names = [name for name in target.names if measured(name)]
        if not names:
            return
        if self._last is None or self._last[0] is not x:
            self._last = (x, names[0])
        holder = self._last[1]
        if holder in names:
            # The caller may write into x before the batch is known to be sound.
            self._batch.append((holder, target.n_matrices, expert, x.detach().reshape(-1, x.shape[-1]).clone()))
        for name in names:
            known = self._heard.setdefault(name, self.inputs.get(name, holder))
            assert known == holder, (name, known, holder)

    def commit(self) -> None:
        for holder, n_matrices, expert, x in self._batch:
            width = self._widths.setdefault(holder, x.shape[1])
            matrices = self._sums.setdefault(holder, [[] for _ in range(n_matrices)])
            if not matrices[expert]:
                sides = (end - start for start, end in block_bounds(width, self.block_width))
                matrices[expert] = [x.new_zeros((side, side), dtype=_float32()) for side in sides]
            add_products(matrices[expert], x.float(), self.block_width)
        self.inputs.update(self._heard)
        self.discard()

    def discard(self) -> None:
        self._batch, self._heard, self._last = [], {}, None

    def finish(self, part: str) -> None:
        """What is summed up so far is final: it goes to the file ``moments-PART.bin``, durably.

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
        self._crcs[path.name] = crc
        self._sums.clear()

    def index(self) -> dict[str, Any]:
        """What is finished, as JSON, for the run's state."""
        stored = {holder: astuple(place) for holder, place in self._stored.items()}
        return {"inputs": self.inputs, "stored": stored, "crcs": self._crcs}

    def restore(self, index: Mapping[str, Any]) -> None:
        """Take up what ``index`` told.

        Raises:
            ValueError: a file is not what it was. OSError: or cannot be read.
        """
        for name, crc in index["crcs"].items():
            if _crc(self.folder / name) != crc:
                raise ValueError(name)
        self.inputs, self._crcs = dict(index["inputs"]), dict(index["crcs"])
        self._stored = {holder: _Stored(*place) for holder, place in index["stored"].items()}

    def moments(self, sums: Mapping[str, Sums]) -> Moments:
        """All that is finished, read from the files as it is asked for.

        Args:
            sums: for the counts.
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


def add_products(blocks: Sequence[torch.Tensor], x: torch.Tensor, block_width: int) -> None:
    """``x.T @ x`` onto float32 [b, b] blocks of its diagonal, on and below the blocks' own diagonals.

    Args:
        x: float32 [tokens, width].
    """
    for block, (first, _) in zip(blocks, block_bounds(x.shape[1], block_width), strict=True):
        columns = x[:, first : first + len(block)]
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
