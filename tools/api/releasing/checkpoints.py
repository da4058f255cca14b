"""Checkpoints of a release for transformers and vLLM: GPTQ, AWQ and compressed-tensors, each in a folder of its own.

Programs load a repository's root, so each is a folder, and on the hub a repository, of its own:
``Tiny-GGUF`` has ``Tiny-GPTQ-Int4`` and ``Tiny-FP8-dynamic`` beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ....formats.errors import PlanError
from ....formats.json_types import TEXT, WHOLE, JsonType, take
from ....formats.progress import Progress, note
from ..options import StrPath
from .fields import needed

if TYPE_CHECKING:
    from ..blockwise import CheckpointOptions
    from ..running import RunOptions

Method = Literal["gptq", "awq", "compress"]
_METHODS = ("gptq", "awq", "compress")
_METHOD = JsonType("gptq, awq or compress", lambda value: value in _METHODS)
_SIZES = (128, 64, 32)
_GROUPED = ("w4a16", "w4a16-asym", "w8a16")  # schemes whose groups have a size to choose
NEED_TEXT = ("nvfp4",)  # schemes whose activations have scales from a text
_NOT_LISTED = ("README.md",)
_ENDING = re.compile(r"[-_.]gguf$", re.IGNORECASE)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that belongs to a release.

    Args:
        method: ``gptq``, ``awq`` or ``compress``.
        bits: of GPTQ's codes.
        scheme: of compressed-tensors.
        group_size: how many weights share a scale; None where that is not to be chosen.

    Example:
        >>> Checkpoint("gptq", bits=4).name, Checkpoint("compress", scheme="w4a16").name
        ('GPTQ-Int4', 'W4A16')
    """

    method: Method
    bits: int = 4
    scheme: str = ""
    group_size: int | None = None

    @property
    def name(self) -> str:
        """What tables call it, and what its folder's name ends in."""
        if self.method == "gptq":
            return f"GPTQ-Int{self.bits}"
        if self.method == "awq":
            return "AWQ"
        kind, dash, how = self.scheme.partition("-")
        return "FP8-dynamic" if self.scheme == "fp8" else f"{kind.upper()}{dash}{how}"

    @property
    def grouped(self) -> bool:
        """Whether its groups have a size to choose."""
        return self.method != "compress" or self.scheme in _GROUPED

    @property
    def needs_text(self) -> bool:
        """Whether a text decides its bytes."""
        return self.method != "compress" or self.scheme in NEED_TEXT

    def check(self, model: Path) -> None:
        """Check that it can be made, before any weight is read.

        Raises:
            PlanError, FormatError, QuantmillError: see ``gptq``, ``awq`` and ``compress``.
        """
        if self.method == "compress":
            from ..compress import check_compress

            check_compress(model, self.scheme, self.group_size)
        elif self.method == "awq":
            from ....quantize.awq.settings import AWQSettings
            from ..awq import check_awq

            check_awq(model, AWQSettings(group_size=self.group_size or _SIZES[0]))
        else:
            from ....quantize.gptq.settings import GPTQSettings
            from ..gptq import check_gptq

            check_gptq(model, GPTQSettings(self.bits, self.group_size or _SIZES[0]))

    def make(
        self, model: Path, folder: Path, text: StrPath | None, run: RunOptions, options: CheckpointOptions,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        """Make the folder; what an interrupted run left is taken up.

        Raises:
            OutputError, WeightError, QuantmillError: see ``gptq``, ``awq`` and ``compress``.
        """
        given = {"text": text, "run": run} if self.needs_text else {}
        how: dict[str, Any] = {**given, "checkpoint": options, "progress": progress}
        if self.method == "compress":
            from ..compress import compress

            compress(model, folder, scheme=self.scheme, group_size=self.group_size, **how)
        elif self.method == "awq":
            from ....quantize.awq.settings import AWQSettings
            from ..awq import awq

            awq(model, folder, settings=AWQSettings(group_size=self.group_size or _SIZES[0]), **how)
        else:
            from ....quantize.gptq.settings import GPTQSettings
            from ..gptq import gptq

            gptq(model, folder, settings=GPTQSettings(self.bits, self.group_size or _SIZES[0]), **how)

    def to_json(self) -> dict[str, object]:
        """Give the fields as JSON has them."""
        kinds: dict[str, dict[str, object]] = {"gptq": {"bits": self.bits}, "compress": {"scheme": self.scheme}}
        return {"method": self.method, **kinds.get(self.method, {}), "group_size": self.group_size}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: Path, inside: str) -> Checkpoint:
        """Read the fields.

        Raises:
            FormatError: they are not those of a checkpoint.
        """
        found = partial(take, content, path=path, inside=inside)
        method = needed(content, "method", _METHOD, path=path, inside=inside)
        return cls(method, found("bits", WHOLE, 4), found("scheme", TEXT, ""), found("group_size", WHOLE))


def sibling_name(name: str, member: str) -> str:
    """The name of a checkpoint's folder, or of its repository, from the name of the release's.

    Example:
        >>> sibling_name("Tiny-GGUF", "AWQ"), sibling_name("me/tiny-gguf", "FP8-dynamic"), sibling_name("out", "W4A16")
        ('Tiny-AWQ', 'me/tiny-FP8-dynamic', 'out-W4A16')
    """
    return f"{_ENDING.sub('', name)}-{member}"


def sibling_folder(release: Path, member: str) -> Path:
    """The folder of a checkpoint, beside the release's."""
    named = release if release.name else release.resolve()
    return named.parent / sibling_name(named.name, member)


def listed_files(folder: Path) -> list[Path]:
    """The files that a manifest lists: all but the card."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name not in _NOT_LISTED)


def chosen_checkpoints(
    model: Path, gptq: Sequence[int], awq: bool, schemes: Sequence[str], group_size: int | None,
    progress: Progress | None, *, check: bool = True,
) -> tuple[Checkpoint, ...]:  # fmt: skip
    """The checkpoints of a release, each once.

    Args:
        model: the model's file or folder.
        gptq: the bits of GPTQ checkpoints.
        awq: whether there is an AWQ checkpoint.
        schemes: those of compressed-tensors.
        group_size: how many weights share a scale; None for the largest of 128, 64 and 32 that divides all widths.
        progress: told if that is not 128.
        check: whether to check that each can be made, and to find the size of groups, which takes the weights' headers.

    Raises:
        PlanError: nothing has groups, or a checkpoint cannot be made. FormatError: the model is no checkpoint of
            floats. QuantmillError: there is no such scheme.
    """
    from ....formats.hf.packed.schemes import scheme as named

    found = [Checkpoint("gptq", bits=bits) for bits in dict.fromkeys(gptq)]
    found += [Checkpoint("awq")] if awq else []
    for name in dict.fromkeys(name.lower().replace("_", "-") for name in schemes):
        named(name)
        found.append(Checkpoint("compress", scheme=name))
    if group_size is not None and not any(one.grouped for one in found):
        raise PlanError("is for --gptq, --awq and --compress w4a16", where="--group-size", hint="leave it out")
    if not found:
        return ()
    if not model.is_dir():
        hint = "give the checkpoint's folder, or leave out --gptq, --awq and --compress"
        raise PlanError("is a file, and checkpoints are made of a Hugging Face folder", path=model, hint=hint)
    if not check:
        return tuple(found)
    if any(one.grouped for one in found):
        size = _fitting_size(model, group_size, progress)
        found = [replace(one, group_size=size) if one.grouped else one for one in found]
    for one in found:
        one.check(model)
    return tuple(found)


def _fitting_size(model: Path, group_size: int | None, progress: Progress | None) -> int:
    """The size of groups: the one that is given, or the largest usual one that divides the widths of all layers."""
    from ..compress import check_compress

    widths = check_compress(model, "w8a8")
    listed = ", ".join(map(str, sorted(widths)))
    fitting = [size for size in _SIZES if not any(width % size for width in widths)]
    if group_size is None:
        size = fitting[0] if fitting else -1
        if size != _SIZES[0]:
            how = f"groups of {size}" if fitting else "a group for each row"
            note(progress, f"{how}: {_SIZES[0]} does not divide all widths ({listed})", important=True)
        return size
    if group_size > 0 and any(width % group_size for width in widths):
        problem = f"{group_size} does not divide the widths of all layers ({listed})"
        hint = f"give {fitting[0] if fitting else -1}, or leave it out"
        raise PlanError(problem, where="--group-size", hint=hint)
    return group_size
