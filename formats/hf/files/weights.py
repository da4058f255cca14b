"""Read a checkpoint folder's tensors, lazily: safetensors or ``pytorch_model*.bin``, one file or shards.

The order is llama.cpp's: shards by name, tensors by name within a safetensors shard, as pickled within a .bin.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import FormatError
from ...ir import Bytes, Role, Tensor
from ...pointers import LONGEST, check_pointer
from ...qtypes import BY_NAME
from ...storage.source import Elsewhere
from .safetensors import StoredTensor, read_safetensors
from .torchfile import DTYPES, MAGIC, TorchTensor, read_torch_file
from .weight_files import Say, find_weight_files

Stored = StoredTensor | Tensor


def read_weights(
    folder: Path,
    say: Say | None = None,
    *,
    consolidated: bool = False,
    follow_links: bool = False,
    elsewhere: Elsewhere | None = None,
) -> dict[str, Stored]:
    """Find every tensor of a checkpoint by name. No weight is read.

    Args:
        folder: the checkpoint's.
        say: called with a line where other weights lie beside those that are read, or something was assumed.
        consolidated: read those of Mistral's own format, instead of Hugging Face's.
        follow_links: whether links may lead out of the folder.
        elsewhere: those of its files that do not lie on this machine; only safetensors files are read from there.

    Raises:
        FormatError: there are no weights, a shard is missing or damaged, or a tensor is missing or in two shards.
    """
    away = () if elsewhere is None else elsewhere.names
    files = find_weight_files(folder, say, consolidated=consolidated, follow_links=follow_links, elsewhere=away)
    found: dict[str, Stored] = {}
    shard_of: dict[str, str] = {}
    for shard in files.names:
        for name, tensor in _read_file(folder / shard, files.kind, elsewhere).items():
            if name in found:
                problem = f"duplicate tensor: it is in {shard_of[name]} too"
                raise FormatError(problem, path=folder / shard, where=name, hint="remove the stale shard")
            found[name], shard_of[name] = tensor, shard
    for name, shard in files.index.items():
        if shard_of.get(name) != shard:
            problem = f"the index says it is in {shard}, which does not hold it"
            raise FormatError(problem, path=folder, where=name, hint="download the checkpoint again")
    return found


def _read_file(path: Path, kind: str, elsewhere: Elsewhere | None) -> Mapping[str, Stored]:
    is_away = elsewhere is not None and path.name in elsewhere.names
    if kind != "safetensors":
        if is_away:
            raise FormatError("is read only where it lies on this machine", path=path, hint="download it first")
        return read_bin(path)
    return read_safetensors(path, elsewhere.open(path.name) if elsewhere is not None and is_away else None)


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
        start = file.read(LONGEST + 1)
    check_pointer(start, path)
    return start.startswith(MAGIC)


def _load_old(path: Path) -> Any:
    """Load a file of torch before 1.6, several pickles in a row, into memory."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _stored(path: Path, name: str, tensor: Any) -> Stored:
    """A tensor of another type than float keeps its dtype's name, and is an error only if a rule asks for it."""
    if isinstance(tensor, TorchTensor):
        dtype, shape, read = tensor.dtype, tensor.shape, tensor.rows
    else:
        import torch

        if not isinstance(tensor, torch.Tensor):
            raise FormatError(f"a {type(tensor).__name__}, not a tensor", path=path, where=name)
        of_torch = str(tensor.dtype).removeprefix("torch.")
        dtype, shape = DTYPES.get(of_torch, (of_torch, 0))[0], tuple(tensor.shape)
        read = partial(_torch_rows, tensor.detach())
    if dtype in ("F32", "F16", "BF16"):
        return Tensor(name, Role.OTHER, None, shape, BY_NAME[dtype], read, f"{path}: {name}")
    return StoredTensor(path, name, dtype, shape, 0, 0, read=read)


def _torch_rows(tensor: Any, a: int, b: int) -> Bytes:
    import torch

    flat = tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 1 else tensor.reshape(1, -1)
    rows: Bytes = flat[a:b].contiguous().view(torch.uint8).numpy()
    return rows.view(np.uint8)
