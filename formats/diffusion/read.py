"""Read a diffusion model: a safetensors file in the original layout, or a folder of diffusers, to the common model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from ..errors import FormatError, UnmatchedTensor, name_list
from ..gguf.image_archs import ORIGINAL_SHAPE
from ..gguf.keys import GENERAL_ARCHITECTURE, typed
from ..hf.files.safetensors import StoredTensor
from ..hf.packed.fp8 import DTYPES
from ..ir import Model, Tensor, Value, ValueType
from ..qtypes import BY_NAME
from .files import DiffusionFiles, Say, check_class, open_files
from .layouts import BY_CLASS, Layout
from .naming import Move, original_moves
from .recognize import Recognized, check_packed, recognize
from .scaled import FACTORS, INPUT_FACTORS, decoded, is_beside
from .views import joined, reshaped, swapped

# What the way back needs and no key of the loaders holds.
LAYOUT = "quantmill.image.layout"
PREFIX = "quantmill.image.prefix"  # what stood before each name
DTYPE = "quantmill.image.dtype"  # of most tensors in the checkpoint
OTHER_DTYPES = "quantmill.image.dtypes"  # NAME=DTYPE of the others, under their names in the file
CONFIG = "quantmill.image.config"  # a diffusers folder's config.json

_SUPER_BLOCK = 256
_LEAST_FOLDED = 512  # REARRANGE_THRESHOLD of ComfyUI-GGUF's convert.py


def read_diffusion(path: str | Path, *, say: Say | None = None) -> Model:
    """Read a model that makes images or videos. Its weights stay on disk until their rows are asked for.

    Args:
        path: a safetensors file in the original or in ComfyUI's layout, with or without ``model.diffusion_model.``
            before its names; a folder of diffusers; or a pipeline's folder, whose transformer or unet is read.
        say: called with a line about what is assumed, converted, left out or decoded.

    Returns:
        the model with the original names, which ComfyUI-GGUF and diffusers both load, under ComfyUI-GGUF's name of the
        architecture.

    Raises:
        UnknownArchitecture: the file holds something else, such as a LoRA or a VAE, or nothing that is known.
        UnmatchedTensor: a part of a tensor is missing from a diffusers folder.
        FormatError: a file is damaged, or its weights are packed in a form that is not read.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from quantmill import read_diffusion
        >>> from quantmill.formats.arrays import tensor_from_array
        >>> from quantmill.formats.hf.files.safetensors import write_safetensors
        >>> weight = tensor_from_array("double_blocks.0.img_attn.proj.weight", np.ones((2, 256), np.float16))
        >>> with TemporaryDirectory() as folder:
        ...     (file,) = write_safetensors(Path(folder), [weight])
        ...     model = read_diffusion(file)
        >>> model.arch, [tensor.name for tensor in model]
        ('flux', ['double_blocks.0.img_attn.proj.weight'])
    """
    say = say or (lambda line: None)
    files = open_files(Path(path), say)
    check_class(files, frozenset(BY_CLASS))
    check_packed(files.tensors, files.path)
    beside = {name: stored for name, stored in files.tensors.items() if is_beside(name)}
    weights = [name for name in files.tensors if name not in beside]
    found = recognize(weights, files.path)
    kept = _kept(files, found, weights, say)
    tensors = _decoded(files, kept, beside, say)
    if found.diffusers:
        say(f"{files.path}: {found.layout.title} under diffusers' names, which become the original ones")
        tensors = _under_original_names(found.layout, tensors, files.path)
    metadata = {GENERAL_ARCHITECTURE: typed(GENERAL_ARCHITECTURE, found.layout.arch)}
    metadata["general.name"] = typed("general.name", _name(files.path))
    metadata |= _private(files, found, kept)
    if found.layout.folded:
        tensors, shapes = _folded(tensors)
        metadata |= shapes
    return Model(found.layout.arch, metadata, tuple(tensors), files.path, from_checkpoint=True)


def _kept(files: DiffusionFiles, found: Recognized, weights: Sequence[str], say: Say) -> dict[str, StoredTensor]:
    """The model's tensors without their prefix, and without those that loaders ignore."""
    aside = [name for name in weights if name not in set(found.names)]
    if aside:
        tops = sorted({name.split(".", 1)[0] for name in aside})
        say(f"{files.path}: reads {found.prefix}*; {len(aside)} tensors of {name_list(tops)} are left aside")
    kept = {name[len(found.prefix) :]: files.tensors[name] for name in found.names}
    ignored = [name for name in kept if any(part in name for part in found.layout.left)]
    if ignored:
        say(f"{files.path}: leaves out {name_list(ignored, 3)}, which no loader reads")
    return {name: stored for name, stored in kept.items() if name not in set(ignored)}


def _decoded(
    files: DiffusionFiles, kept: Mapping[str, StoredTensor], beside: Mapping[str, StoredTensor], say: Say
) -> list[Tensor]:
    """The tensors as floats."""
    tensors = []
    codes = [name for name, stored in kept.items() if stored.dtype in DTYPES]
    for name, stored in kept.items():
        tensor = decoded(stored, beside) if stored.dtype in DTYPES else stored.tensor()
        tensors.append(replace(tensor, name=name))
    if codes:
        scaled = sum(1 for name in beside if name.rpartition(".")[2] in FACTORS)
        how = f"times their factors ({scaled})" if scaled else "without factors"
        say(f"{files.path}: {len(codes)} tensors of FP8 are decoded, {how}")
    if any(name.rpartition(".")[2] in INPUT_FACTORS for name in beside):
        say(f"{files.path}: factors of activations are left out: GGUF has no place for them")
    if codes or not beside:
        return tensors
    name = next(iter(beside))
    problem = "describes FP8 weights, and there are none"
    raise FormatError(problem, path=files.path, where=name, hint="the file is damaged: get it again")


def _under_original_names(layout: Layout, tensors: Sequence[Tensor], path: Path) -> list[Tensor]:
    by_name = {tensor.name: tensor for tensor in tensors}
    moves, unknown = original_moves(layout.name, by_name)
    assert not unknown, unknown  # as they were recognized
    return [_moved(move, by_name, path) for move in moves]


def _moved(move: Move, by_name: Mapping[str, Tensor], path: Path) -> Tensor:
    missing = [part for part in move.parts if part not in by_name]
    if missing:
        problem = f"is missing, a part of {move.original}"
        raise UnmatchedTensor(problem, path=path, where=missing[0], hint="download the model again")
    parts = [by_name[part] for part in move.parts]
    tensor = joined(move.original, parts) if len(parts) > 1 else replace(parts[0], name=move.original)
    return swapped(tensor) if move.swapped else tensor


def _name(path: Path) -> str:
    if path.is_file():
        return path.stem
    return path.resolve().parent.name if path.name in ("transformer", "unet") else path.resolve().name


def _private(files: DiffusionFiles, found: Recognized, kept: Mapping[str, StoredTensor]) -> dict[str, Value]:
    keys = {LAYOUT: found.layout.name}
    if found.prefix:
        keys[PREFIX] = found.prefix
    if files.config:
        keys[CONFIG] = json.dumps(files.config, sort_keys=True)
    values = {key: typed(key, text) for key, text in keys.items()}
    dtypes = {name: "F32" if stored.dtype == "F64" else stored.dtype for name, stored in kept.items()}
    if any(dtype not in BY_NAME for dtype in dtypes.values()):
        return values  # codes that were decoded do not come back
    ((most, _),) = Counter(dtypes.values()).most_common(1)
    others = tuple(f"{name}={dtype}" for name, dtype in dtypes.items() if dtype != most)
    values[DTYPE] = typed(DTYPE, most)
    if others:
        values[OTHER_DTYPES] = Value(ValueType.ARRAY, others, ValueType.STRING)
    return values


def _folded(tensors: Sequence[Tensor]) -> tuple[list[Tensor], dict[str, Value]]:
    """Tensors whose rows fit no super-block in rows of 256, and the keys that give their shapes back."""
    folded, shapes = [], {}
    for tensor in tensors:
        count = prod(tensor.shape)
        wide = len(tensor.shape) > 1 and count >= _LEAST_FOLDED and count % _SUPER_BLOCK == 0
        if wide and tensor.width % _SUPER_BLOCK:
            key = f"{ORIGINAL_SHAPE}{tensor.name}"
            shapes[key] = Value(ValueType.ARRAY, np.array(tensor.shape, np.int32), ValueType.INT32)
            tensor = reshaped(tensor, (count // _SUPER_BLOCK, _SUPER_BLOCK))
        folded.append(tensor)
    return folded, shapes
