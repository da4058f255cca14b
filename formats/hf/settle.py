"""Find what a checkpoint has beside its model, compare it as ``extras.py`` says, and say what is left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, UnmatchedTensor, name_list
from ..floats import to_f32
from ..ir import Role, Tensor
from ..storage.output import human_bytes
from .files.weights import Stored
from .tables.dimensions import Config
from .tables.extras import EVERYWHERE, TIED, Buffer, Copy, LeftOut
from .tables.packed_tensors import unpack_blocks
from .tables.rules import Arch, Rule, Slot

Say = Callable[[str], object]
CHUNK = 16 << 20  # bytes of a tensor that are compared at a time


def ignore(text: str) -> None:
    """A ``say`` where nobody listens."""


def say_bare(folder: Path, heads: Sequence[str], say: Say) -> None:
    """Say what a file without a head computes."""
    lack = f"a bare model, without {name_list(heads)}"
    say(f"{folder}: {lack}: where logits are asked for, llama.cpp takes the embedding")


def copies(arch: Arch) -> tuple[Copy, ...]:
    """The tensors that transformers ties to others: those of the table, and the head to the embedding."""
    listed = tuple(extra for extra in arch.extras if isinstance(extra, Copy))
    head, embedding = _global(arch, Role.OUTPUT), _global(arch, Role.TOKEN_EMBD)
    if head is None or embedding is None or head.modules[0] + ".weight" in {copy.name for copy in listed}:
        return listed
    return (*listed, Copy(f"{head.modules[0]}.weight", f"{embedding.modules[0]}.weight", kept=True))


def known_names(arch: Arch, slots: Iterable[Slot]) -> set[str]:
    """The names of all tensors that the rules, and the copies beside them, know in a checkpoint."""
    return {name for slot in slots for name in slot.sources} | {copy.name for copy in copies(arch)}


def _global(arch: Arch, role: Role) -> Rule | None:
    return next((rule for rule in arch.rules if rule.roles == (role,)), None)


def settle_copies(
    arch: Arch, config: dict[str, Any], stored: Mapping[str, Stored], folder: Path, say: Say, *, bare: bool = False
) -> dict[str, Stored]:
    """Compare every copy with its original, as transformers does, and keep what is needed of the two.

    Args:
        config: its flags become what the weights make true.
        stored: the checkpoint's tensors, under the names that the rules use.
        bare: it is of a class without a head.

    Raises:
        FormatError: a copy differs, and llama.cpp has no place for it.
        UnmatchedTensor: config.json wants a head, and there is none.
    """
    out = dict(stored)
    for copy in copies(arch):
        rule = rule_of(arch, copy)
        tied = copy.key is None or bool(config.get(copy.key))
        if tied:
            _complete(copy, rule, arch, out, folder, say)
        elif rule is None and copy.name not in out and bare:
            say_bare(folder, [copy.name], say)
        elif rule is None and copy.name not in out:
            raise UnmatchedTensor(
                f"missing {copy.name}", path=folder, hint=f"config.json says that {copy.key} is false"
            )
        if copy.name not in out or copy.of not in out or not (tied or rule is None):
            continue
        same = same_weights(out[copy.name], out[copy.of])
        if not same and rule is None:
            problem = f"differs from {copy.of}, which llama.cpp's {arch.gguf} takes in its place"
            raise FormatError(problem, path=folder, where=copy.name, hint="a GGUF file cannot hold this model")
        if not same and config.get(TIED):
            say(f"{folder}: {copy.name} differs from {copy.of}: kept, although the config ties them")
        if same and not copy.kept:
            del out[copy.name]
        if copy.key is not None:
            config[copy.key] = same
    return out


def _complete(copy: Copy, rule: Rule | None, arch: Arch, out: dict[str, Stored], folder: Path, say: Say) -> None:
    """Add the one of the two that is missing, where it is needed. transformers ties in both directions."""
    if copy.name in out and copy.of not in out:
        renamed = {copy.of if name == copy.name else name: tensor for name, tensor in out.items()}
        out.clear()
        out.update(renamed)
    if copy.of in out and copy.name not in out and is_needed(rule):
        out[copy.name] = out[copy.of]
        say(f"{folder}: {copy.of} is written as {copy.name}, too: llama.cpp's {arch.gguf} does not tie them")


def say_biases(slots: Iterable[Slot], stored: Mapping[str, Stored], folder: Path, say: Say) -> None:
    """Say which biases are there although config.json has none: transformers drops them, as llama.cpp does not."""
    numbers = Counter(
        slot.rule.bias
        for slot in slots
        if slot.part == "bias" and isinstance(slot.rule.bias, str) and not slot.required
        for name in slot.sources
        if name in stored
    )
    for key, n in numbers.items():
        kept = f"{n} biases are kept" if n > 1 else "1 bias is kept"
        say(f"{folder}: {kept}, although config.json makes {key} false, with which transformers takes none")


def rule_of(arch: Arch, copy: Copy) -> Rule | None:
    """The rule that has a copy's name, if llama.cpp has a place for it."""
    return next((rule for rule in arch.rules if f"{rule.modules[0]}.weight" == copy.name), None)


def is_needed(rule: Rule | None) -> bool:
    """Whether llama.cpp loads no file without the rule's tensor."""
    return rule is not None and rule.unless is None and not rule.optional


def same_weights(a: Stored, b: Stored) -> bool:
    """Whether two tensors have the same shape and values. They are read in chunks, and no further than they agree."""
    if a.shape != b.shape:
        return False
    one, other = (unpack_blocks(t if isinstance(t, Tensor) else t.tensor()) for t in (a, b))
    for first, end in one.row_chunks(CHUNK):
        ours, theirs = (np.ascontiguousarray(tensor.rows(first, end)) for tensor in (one, other))
        if one.qtype is other.qtype and np.array_equal(ours, theirs):
            continue
        if not (one.qtype.is_float and other.qtype.is_float):
            return False
        if not np.array_equal(to_f32(ours, one.qtype), to_f32(theirs, other.qtype)):
            return False
    return True


@dataclass
class Found:
    """The extras of a checkpoint, for one line about each kind.

    Args:
        parts: the number of tensors that are left out, and their bytes, by what they are.
        unlike: names of buffers that are not what config.json makes them, by what they are.
        reason: why parts are left out.
        writable: whether --mmproj writes the tensor of a name.
        unwritten: the parts of which a tensor is written by no option.
    """

    reason: str = "the text model is computed without it"
    writable: Callable[[str], bool] = lambda name: False
    parts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    unlike: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unwritten: set[str] = field(default_factory=set)

    def take(self, arch: Arch, config: Config, name: str, stored: Stored) -> bool:
        """Whether a tensor is an extra; if so, note what should be said of it."""
        extra = extra_of(arch, config, name)
        if isinstance(extra, LeftOut):
            part = self.parts[extra.what]
            part[0] += 1
            part[1] += stored.nbytes
            if not self.writable(name):
                self.unwritten.add(extra.what)
        elif extra is not None and not _agrees(extra, config, stored):
            self.unlike[extra.what].append(name)
        return extra is not None

    def lines(self, folder: Path) -> Iterator[str]:
        """What should be said."""
        if self.parts:
            parts = [
                f"{what} ({n} tensor{'s' if n > 1 else ''}, {human_bytes(nbytes)})"
                for what, (n, nbytes) in self.parts.items()
            ]
            yield f"{folder}: left out, as {self.reason}: {', '.join(parts)}{self._remedy()}"
        for what, names in self.unlike.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"{folder}: {names[0]}{more}: not the {what} that config.json gives; ignored, as transformers does"

    def _remedy(self) -> str:
        """What writes the parts all the same, or nothing."""
        written = [what for what in self.parts if what not in self.unwritten]
        if len(written) == len(self.parts):
            return "; --mmproj writes them"
        return f"; --mmproj writes the {' and the '.join(written)}" if written else ""


def extra_of(arch: Arch, config: Config, name: str) -> LeftOut | Buffer | None:
    """The entry of the table that a tensor's name matches."""
    table = (extra for extra in (*arch.extras, *EVERYWHERE) if not isinstance(extra, Copy))
    return next((extra for extra in table if extra.matches(name, config)), None)


_NUMPY = {"BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "F64": "<f8"}


def _agrees(buffer: Buffer, config: Config, stored: Stored) -> bool:
    """Whether a buffer is what the config makes it; true where its type cannot be read."""
    if isinstance(stored, Tensor) or stored.dtype in ("F32", "F16", "BF16"):
        tensor = stored if isinstance(stored, Tensor) else stored.tensor()
        width, n_rows = tensor.width, tensor.n_rows

        def read(first: int, end: int) -> NDArray[np.float64]:
            return to_f32(np.ascontiguousarray(tensor.rows(first, end)), tensor.qtype).astype(np.float64)

    elif stored.dtype in _NUMPY and stored.nbytes:
        width = stored.shape[-1] if stored.shape else 1
        n_rows = int(np.prod(stored.shape[:-1]))

        def read(first: int, end: int) -> NDArray[np.float64]:
            rows = np.ascontiguousarray(stored.rows(first, end))
            return rows.view(_NUMPY[stored.dtype]).astype(np.float64)

    else:
        return True
    step = max(1, CHUNK // (8 * max(1, width)))
    spans = ((first, min(first + step, n_rows)) for first in range(0, n_rows, step))
    return all(buffer.agrees(config, read(*span).reshape(-1, width), np.arange(*span)) for span in spans)
