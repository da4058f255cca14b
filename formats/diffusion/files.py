"""The safetensors files of a diffusion model: one file, or a folder of diffusers with its config.json and shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FormatError, UnknownArchitecture, name_list
from ..hf.files.safetensors import StoredTensor, read_safetensors
from ..json_text import read_json

Say = Callable[[str], object]

STEM = "diffusion_pytorch_model"
CLASS_KEY = "_class_name"  # of the config.json of a part of a diffusers pipeline
PIPELINE = "model_index.json"
_PARTS = ("transformer", "unet")  # the folders of a pipeline that may hold its diffusion model


@dataclass(frozen=True)
class DiffusionFiles:
    """What was found at a path.

    Args:
        path: the file, or the folder with the model's config.json.
        tensors: by their names in the files.
        config: the config.json of a folder; empty for a file.
    """

    path: Path
    tensors: dict[str, StoredTensor]
    config: dict[str, Any] = field(default_factory=dict)


def is_diffusers_folder(folder: Path) -> bool:
    """Whether a folder is a pipeline of diffusers, or one of its parts.

    Example:
        >>> from pathlib import Path
        >>> from quantmill.formats.diffusion.files import is_diffusers_folder
        >>> is_diffusers_folder(Path("no-such-folder"))
        False
    """
    return (folder / PIPELINE).is_file() or CLASS_KEY in read_json(folder / "config.json")


def open_files(path: Path, say: Say) -> DiffusionFiles:
    """Read the headers of a model's files.

    Args:
        path: a safetensors file, a diffusers folder, or a pipeline's, whose diffusion model is taken.
        say: told which part of a pipeline, or which variant, is read.

    Raises:
        FormatError: there are no such files, a shard is missing, or a header is damaged.
    """
    if path.is_file():
        return DiffusionFiles(path, read_safetensors(path))
    if (path / PIPELINE).is_file():
        part = next((path / part for part in _PARTS if (path / part / "config.json").is_file()), None)
        if part is None:
            raise FormatError(f"is a pipeline without {' or '.join(_PARTS)}", path=path, hint="give the model's folder")
        say(f"{path}: reads {part.name}; the pipeline's other parts stay as they are")
        path = part
    config = read_json(path / "config.json", required=True)
    tensors: dict[str, StoredTensor] = {}
    for name in _shards(path, say):
        for tensor, stored in read_safetensors(path / name).items():
            if tensor in tensors:
                problem = f"is in {tensors[tensor].path.name}, too"
                raise FormatError(problem, path=path / name, where=tensor, hint="remove the stale shard")
            tensors[tensor] = stored
    return DiffusionFiles(path, tensors, config)


def check_class(files: DiffusionFiles, known: frozenset[str]) -> None:
    """Raise ``UnknownArchitecture`` for a class of diffusers that is another part of a pipeline.

    Args:
        files: what was found.
        known: the classes that are diffusion models; others pass if their name says that they are one.
    """
    name = files.config.get(CLASS_KEY)
    if not isinstance(name, str) or name in known or "Transformer" in name or "UNet" in name:
        return
    problem = f"is a {name}, not a diffusion model"
    hint = "give the pipeline's transformer or unet folder"
    raise UnknownArchitecture(problem, path=files.path / "config.json", where=CLASS_KEY, hint=hint)


def _shards(folder: Path, say: Say) -> list[str]:
    index = folder / f"{STEM}.safetensors.index.json"
    if (folder / f"{STEM}.safetensors").is_file():
        return [f"{STEM}.safetensors"]
    if index.is_file():
        return _indexed(folder, index)
    variants = sorted(path.name for path in folder.glob(f"{STEM}.*.safetensors"))
    if len(variants) == 1:
        say(f"{folder}: reads {variants[0]}, the only variant")
        return variants
    if variants:
        problem = f"holds several variants: {name_list(variants)}"
        raise FormatError(problem, path=folder, hint="give one of the files, or leave one in the folder")
    raise FormatError(f"no {STEM}.safetensors in this folder", path=folder, hint="download the model's weights")


def _indexed(folder: Path, index: Path) -> list[str]:
    found = read_json(index).get("weight_map")
    names = sorted(set(found.values())) if isinstance(found, dict) and _texts(found.values()) else []
    if not names:
        raise FormatError("holds no map of tensors to files", path=index, where="weight_map", hint="download it again")
    for name in names:
        if "/" in name or "\\" in name or name in (".", ".."):
            raise FormatError(f"{name!r} is no file of this folder", path=index, where="weight_map")
        if not (folder / name).is_file():
            raise FormatError(f"missing shard {name}", path=folder, hint="download what is missing into this folder")
    return names


def _texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)
