"""What files of towers (mmproj) keep in floats, where llama.cpp's programs would compute with what is left.

Sources: ``tensor_force_quant`` of each ``MmprojModel`` in conversion of llama.cpp; the operations that its graphs run
on a tensor, of which some are there for floats alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..formats.ir import Model, Tensor
from ..formats.qtypes import F16, F32, QType

ARCH = "clip"
_PROJECTORS = ("clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type")


@dataclass(frozen=True)
class Floats:
    """Tensors of a projector, by patterns of their names without ``.weight``.

    Args:
        whole: F32 in every file that is made from a checkpoint.
        kept: never quantized.
        why: what a quantized one would do.
    """

    whole: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    why: str = ""


_ALL = Floats(whole=("v.position_embd", "a.position_embd"))
_OF_PROJECTOR = {
    "idefics3": Floats(whole=("v.patch_embd",)),
    "musicflamingo": Floats(whole=("a.conv1d.*",)),
    "gemma4a": Floats(
        whole=("a.blk.*.conv_dw", "a.conv1d.*", "a.input_projection"),
        kept=("a.blk.*.conv_dw",),
        why="llama.cpp convolves with F32 alone, and ends at anything else",
    ),
    "gemma3": Floats(
        whole=("v.patch_embd", "mm.input_projection"),
        kept=("mm.input_projection",),
        why="llama.cpp turns it while it computes, which blocks do not survive: its results are NaN",
    ),
}
# F16 in F16 files, and F32 in all others (``MmprojModel.tensor_force_quant``).
_PATCHES = (".patch_embd", ".patch_merger")


def floats_of(model: Model) -> tuple[Floats, ...]:
    """The rows of the table that a model's projectors have; none for a model of text."""
    if model.arch != ARCH:
        return ()
    names = (model.get(key) for key in _PROJECTORS)
    return (_ALL, *(_OF_PROJECTOR[name] for name in names if isinstance(name, str) and name in _OF_PROJECTOR))


def is_kept(tensor: Tensor, floats: tuple[Floats, ...]) -> bool:
    """Whether a tensor is never quantized."""
    base = tensor.name.removesuffix(".weight")
    return any(fnmatchcase(base, like) for row in floats for like in row.kept)


def kept_floats(model: Model, level: str) -> Iterator[str]:
    """What is never quantized, in a line for each projector, for a file of a quantized level."""
    for row in floats_of(model):
        names = [f"{t.name} ({t.qtype.name})" for t in model.tensors if row.why and is_kept(t, (row,))]
        if names:
            yield f"{', '.join(names)}: no {level}, but as it is: {row.why}"


def whole_type(tensor: Tensor, converted: QType, float_type: QType, floats: tuple[Floats, ...]) -> QType:
    """The float type of a tensor in a file of ``float_type``, made from a checkpoint.

    Args:
        converted: its type in a file of a text model.
    """
    base = tensor.name.removesuffix(".weight")
    if any(fnmatchcase(base, like) for row in floats for like in row.whole):
        return F32
    if floats and any(f"{patches}.weight" in tensor.name for patches in _PATCHES):  # patch_embd.weight.1, too
        return F16 if float_type is F16 else F32
    return converted
