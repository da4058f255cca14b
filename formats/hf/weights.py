"""Read a checkpoint folder's tensors, lazily: safetensors or ``pytorch_model*.bin``, one file or shards.

The order is llama.cpp's: shards by name, tensors by name within a safetensors shard, as pickled within a .bin.
"""

from __future__ import annotations

import os
import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError
from ..ir import Bytes, Role, Tensor
from ..json_text import read_json
from ..qtypes import BF16, BY_NAME, F16, F32
from .safetensors import StoredTensor, read_safetensors
from .torchfile import MAGIC, TorchTensor, read_torch_file

Stored = StoredTensor | Tensor
_MAX_FILE_NAME = 255  # bytes; the limit of file systems


def read_weights(folder: Path) -> dict[str, Stored]:
    """Find every tensor of a checkpoint by name. No weight is read.

    Raises:
        FormatError: there are no weights, a shard is missing or damaged, or a tensor is missing or in two shards.
    """
    kind, index, shards = _find_shards(folder)
    reader = read_safetensors if kind == "safetensors" else read_bin
    found: dict[str, Stored] = {}
    shard_of: dict[str, str] = {}
    for shard in shards:
        for name, tensor in reader(folder / shard).items():
            if name in found:
                problem = f"duplicate tensor: it is in {shard_of[name]} too"
                raise FormatError(problem, path=folder / shard, where=name, hint="remove the stale shard")
            found[name], shard_of[name] = tensor, shard
    for name, shard in index.items():
        if shard_of.get(name) != shard:
            problem = f"the index says it is in {shard}, which does not hold it"
            raise FormatError(problem, path=folder, where=name, hint="download the checkpoint again")
    return found


def _find_shards(folder: Path) -> tuple[str, dict[str, str], list[str]]:
    """Find the kind of the files (safetensors or bin), the index (empty if there is none), and the shards in order."""
    # AutoGPTQ named its files like the third in 2023: gptq_model-4bit-128g.safetensors.
    for kind, stem in (("safetensors", "model"), ("bin", "pytorch_model"), ("safetensors", "gptq_model")):
        index_path = folder / f"{stem}.{kind}.index.json"
        if index_path.is_file():
            index = _read_index(index_path)
            return kind, index, _all_there(folder, sorted(set(index.values())), index_path.name)
        names = sorted(p.name for p in folder.glob(f"{stem}*.{kind}") if p.is_file())
        if names:
            wanted = _counted(names)
            return kind, {}, _all_there(folder, wanted, names[0]) if wanted else names
    hint = "model.safetensors, its shards, or pytorch_model.bin must be in the folder"
    raise FormatError("no weights found", path=folder, hint=hint)


def _read_index(path: Path) -> dict[str, str]:
    index = read_json(path).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(shard, str) for shard in index.values()):
        raise FormatError("is not a map from tensors to files", path=path, where="weight_map")
    for name, shard in index.items():
        # An index from the internet must not make us open files elsewhere.
        if shard in ("", ".", "..") or "/" in shard or "\\" in shard or "\0" in shard:
            raise FormatError(f"{shard!r} is outside the folder", path=path, where=name)
        if len(shard.encode()) > _MAX_FILE_NAME:
            raise FormatError(f"{shard[:40]!r}... is not a valid file name", path=path, where=name)
    for shard in sorted(set(index.values())):
        if not _is_inside(path.parent / shard):
            problem = f"{shard!r} is a link to {os.path.realpath(path.parent / shard)}, outside the folder"
            raise FormatError(problem, path=path, hint="copy the file into the folder, if you trust it")
    return index


def _is_inside(path: Path) -> bool:
    """Whether a file, once links are followed, is in its folder or in the Hugging Face cache of its folder.

    There ``models--x/snapshots/1234/model.safetensors`` is a link to ``models--x/blobs/abcd``.
    """
    folder, real = path.parent.resolve(), Path(os.path.realpath(path))
    return real.is_relative_to(folder) or (
        folder.parent.name == "snapshots" and real.parent == folder.parents[1] / "blobs"
    )


def _counted(names: list[str]) -> list[str]:
    """All names of a series such as ``model-00001-of-00003``; an empty list for names without a count."""
    for name in names:
        if match := re.fullmatch(r"(.*)-\d{5}-of-(\d{5})(\..*)", name, re.ASCII):
            return [f"{match[1]}-{i + 1:05d}-of-{match[2]}{match[3]}" for i in range(int(match[2]))]
    return []


def _all_there(folder: Path, shards: list[str], origin: str) -> list[str]:
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        problem = f"missing shard {missing[0]}{more}, of the {len(shards)} that {origin} names"
        raise FormatError(problem, path=folder, hint="download what is missing into this folder")
    return shards


def read_bin(path: Path) -> dict[str, Stored]:
    """Read the tensors of a torch state dict.

    Raises:
        FormatError: the file is damaged, or its pickle holds more than tensors.
    """
    hint = "only plain state dicts are read; ask for, or make, a safetensors copy"
    try:
        state = read_torch_file(path) if _is_zip(path) else _load_old(path)
    except pickle.UnpicklingError:
        raise FormatError("the pickle holds more than tensors, perhaps code", path=path, hint=hint) from None
    except (RuntimeError, EOFError, ValueError, OSError, LookupError, AttributeError, TypeError) as error:
        problem = f"damaged or truncated: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        raise FormatError(problem, path=path, hint="download it again") from None
    if not isinstance(state, dict):
        raise FormatError(f"holds a {type(state).__name__}, not a state dict", path=path, hint=hint)
    return {str(name): _stored(path, str(name), tensor) for name, tensor in state.items()}


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _load_old(path: Path) -> Any:
    """Load a file of torch before 1.6, several pickles in a row, into memory."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _stored(path: Path, name: str, tensor: Any) -> Stored:
    """A tensor of another type than float keeps its dtype's name, and is an error only if a rule asks for it."""
    source = f"{path}: {name}"
    if isinstance(tensor, TorchTensor):
        if tensor.dtype not in ("F32", "F16", "BF16"):
            return StoredTensor(path, name, tensor.dtype, tensor.shape, 0, 0)
        return Tensor(name, Role.OTHER, None, tensor.shape, BY_NAME[tensor.dtype], tensor.rows, source)
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise FormatError(f"a {type(tensor).__name__}, not a tensor", path=path, where=name)
    dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    qtypes = {torch.float32: F32, torch.float16: F16, torch.bfloat16: BF16}
    if tensor.dtype not in qtypes:
        return StoredTensor(path, name, dtype, shape, 0, 0)
    return Tensor(name, Role.OTHER, None, shape, qtypes[tensor.dtype], partial(_torch_rows, tensor.detach()), source)


def _torch_rows(tensor: Any, a: int, b: int) -> Bytes:
    import torch

    flat = tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 1 else tensor.reshape(1, -1)
    rows: Bytes = flat[a:b].contiguous().view(torch.uint8).numpy()
    return rows.view(np.uint8)
