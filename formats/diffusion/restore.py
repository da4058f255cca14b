"""The way back: a model's tensors under the names, in the shapes and in the types that its checkpoint had."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, UnmatchedTensor, WeightError
from ..floats import cast, from_f32, to_f32
from ..gguf.image_archs import ORIGINAL_SHAPE, is_image
from ..gguf.writer import Layout as FileLayout
from ..hf.files.safetensors import header_of, ordered, write_safetensors
from ..ir import Bytes, Model, Tensor
from ..json_text import ROOM, json_bytes, parse_json
from ..qtypes import BY_NAME, F32, QType
from ..storage.folder import GrowingFolder
from .files import STEM
from .layouts import BY_NAME as LAYOUT_BY_NAME
from .layouts import Layout
from .naming import Move, diffusers_moves, rows_of
from .read import CONFIG, DTYPE, LAYOUT, OTHER_DTYPES, PREFIX
from .recognize import recognize
from .views import part_of, reshaped, swapped


def restored(model: Model, *, quantized: Collection[str] = (), dtype: str = "auto") -> list[Tensor]:
    """A model's tensors under their original names, without what stood before them.

    Args:
        model: of a GGUF file, its tensors floats; ``as_float`` decodes quantized ones.
        quantized: the names of tensors that were quantized in the file.
        dtype: ``F32``, ``F16`` or ``BF16`` for all tensors; ``auto`` for the type that each had in the checkpoint,
            where the file records it and the tensor was not quantized since, or else for its own.

    Raises:
        FormatError: a recorded shape or type does not fit; when rows are read: a weight is not exact in the type that
            its tensor had, so that the file was changed.

    Example:
        >>> import numpy as np
        >>> from quantmill.formats.arrays import model_from_arrays
        >>> from quantmill.formats.diffusion.restore import restored
        >>> (tensor,) = restored(model_from_arrays("flux", {"img_in.bias": np.ones(4, np.float32)}), dtype="BF16")
        >>> tensor.qtype.name
        'BF16'
    """
    recorded = {} if dtype != "auto" else _recorded(model)
    tensors = []
    for tensor in model.tensors:
        tensor = _unfolded(model, tensor)
        if dtype != "auto":
            tensor = cast(tensor, BY_NAME[dtype])
        elif tensor.name in recorded and tensor.name not in quantized:
            tensor = _exact(tensor, recorded[tensor.name])
        tensors.append(tensor)
    return tensors


def file_of(model: Model, tensors: list[Tensor]) -> tuple[Model, FileLayout]:
    """A safetensors file of tensors: the model in the file's order with the file's names, and where its bytes go.

    Args:
        model: whose prefix of names the file has.
        tensors: as ``restored`` gives them.
    """
    prefix = model.get(PREFIX)
    before = prefix if isinstance(prefix, str) else ""
    named = ordered([replace(tensor, name=before + tensor.name) for tensor in tensors])
    head = header_of(named)
    offsets, end = [], len(head)
    for tensor in named:
        offsets.append(end)
        end += tensor.nbytes
    return replace(model, tensors=tuple(named)), FileLayout(head, tuple(offsets), end, 1, "little")


def write_diffusers(folder: GrowingFolder, model: Model, tensors: list[Tensor]) -> None:
    """Write a folder of diffusers: config.json and the weights under diffusers' names.

    Args:
        folder: as ``resumable_folder`` makes it.
        model: whose config.json the file holds.
        tensors: as ``restored`` gives them.

    Raises:
        FormatError: the file was not made of a folder, so that it holds no config.json.
        UnmatchedTensor: diffusers has no name for a tensor.
    """
    config = config_of(model)
    named = list(_under_diffusers_names(layout_of(model), tensors, model.path))
    (folder.path / "config.json").write_bytes(json_bytes(config))
    write_safetensors(folder, named, stem=STEM)


def config_of(model: Model) -> dict[str, Any]:
    """The config.json that a GGUF file of an image model holds. Raises ``FormatError`` if there is none."""
    text = model.get(CONFIG)
    if not isinstance(text, str):
        problem = "holds no config.json of diffusers, without which there is no folder"
        raise FormatError(problem, path=model.path, where=CONFIG, hint="write a file: convert FILE NEW.safetensors")
    raw = text.encode("utf-8", "surrogateescape")
    config = parse_json(raw, model.path, room=ROOM + len(raw), where=CONFIG)
    if not isinstance(config, dict):
        raise FormatError("is not a JSON object", path=model.path, where=CONFIG, hint="the file is damaged")
    return config


def layout_of(model: Model) -> Layout:
    """The layout of an image model: the recorded one, or the one that its names say.

    Raises:
        FormatError: the model makes no images. UnknownArchitecture: nothing known has these names.
    """
    if not is_image(model.arch):
        problem = f"is a {model.arch or 'model'}, which makes no images"
        hint = "a checkpoint of a text model is a folder: give a name without .safetensors"
        raise FormatError(problem, path=model.path, hint=hint)
    name = model.get(LAYOUT)
    if isinstance(name, str) and name in LAYOUT_BY_NAME:
        return LAYOUT_BY_NAME[name]
    return recognize([tensor.name for tensor in model], model.path).layout


def _recorded(model: Model) -> dict[str, QType]:
    """The type that each tensor had in the checkpoint; empty where the file does not say."""
    most = model.get(DTYPE)
    if not isinstance(most, str):
        return {}
    others = model.metadata.get(OTHER_DTYPES)
    said = dict.fromkeys((tensor.name for tensor in model), most)
    said |= dict(text.rpartition("=")[::2] for text in (others.texts if others is not None else ()))
    wrong = next((dtype for dtype in said.values() if dtype not in BY_NAME), None)
    if wrong is not None:
        raise FormatError(f"{wrong!r} is no type", path=model.path, where=DTYPE, hint="the file is damaged")
    return {name: BY_NAME[dtype] for name, dtype in said.items()}


def _unfolded(model: Model, tensor: Tensor) -> Tensor:
    value = model.metadata.get(f"{ORIGINAL_SHAPE}{tensor.name}")
    if value is None:
        return tensor
    items = value.data if isinstance(value.data, np.ndarray) and value.data.dtype.kind in "iu" else np.zeros(0, int)
    shape = tuple(int(n) for n in items)
    if not shape or min(shape) < 1 or prod(shape) != tensor.n_weights:
        problem = f"{list(shape)} is not the shape of {tensor.n_weights} weights"
        raise FormatError(problem, path=model.path, where=f"{ORIGINAL_SHAPE}{tensor.name}", hint="the file is damaged")
    return reshaped(tensor, shape)


def _exact(tensor: Tensor, qtype: QType) -> Tensor:
    """The tensor in another float type, whose rows must be exact in it."""
    if tensor.qtype is qtype or not (tensor.qtype.is_float and qtype.is_float):
        return tensor
    if qtype is F32:
        return cast(tensor, F32)

    def read(a: int, b: int) -> Bytes:
        values = to_f32(tensor.rows(a, b), tensor.qtype)
        rows = from_f32(values, qtype)
        if not np.array_equal(to_f32(rows, qtype), values, equal_nan=True):
            problem = f"is not exact in {qtype}, which it had in the checkpoint: the file was changed"
            raise WeightError(problem, path=tensor.source or tensor.name, hint="--outtype F32 keeps what it holds")
        return rows

    return replace(tensor, qtype=qtype, read=read)


def _under_diffusers_names(layout: Layout, tensors: list[Tensor], path: Path) -> Iterator[Tensor]:
    if not rows_of(layout.name):
        yield from tensors
        return
    by_name = {tensor.name: tensor for tensor in tensors}
    moves, unknown = diffusers_moves(layout.name, by_name)
    if unknown:
        raise UnmatchedTensor("diffusers has no name for it", path=path, where=unknown[0])
    for move in moves:
        yield from _split(move, by_name)


def _split(move: Move, by_name: Mapping[str, Tensor]) -> Iterator[Tensor]:
    tensor = by_name[move.original]
    tensor = swapped(tensor) if move.swapped else tensor
    if len(move.parts) == 1:
        yield replace(tensor, name=move.parts[0])
        return
    # Queries are as wide as the model, which its matrices say; keys and values share the rest, or a projection has it.
    matrix = by_name.get(f"{move.original.rpartition('.')[0]}.weight", tensor)
    rows, width = tensor.shape[0], matrix.shape[-1]
    rest = (rows - width) // 2
    sizes = [width, rest, rest] if len(move.parts) == 3 else [width, width, width, rows - 3 * width]
    if min(sizes) < 1 or sum(sizes) != rows:
        problem = f"{rows} rows are not those of {len(move.parts)} tensors of a model {width} wide"
        raise FormatError(problem, where=tensor.source or tensor.name)
    start = 0
    for name, size in zip(move.parts, sizes, strict=True):
        yield part_of(name, tensor, start, start + size)
        start += size
