"""Write a checkpoint with some of its linear layers replaced by packed arrays: a folder that transformers loads."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...ir import Bytes, Role, Tensor
from ...json_text import read_json, write_json
from ...storage.endings import ending
from ...storage.folder import GrowingFolder
from ..config import text_config
from ..files.links import check_link
from ..files.safetensors import FILE_TYPES, StoredTensor, read_safetensors, write_safetensors
from ..files.weights import read_weights
from . import is_plain
from .described import KEYS, find_config, method_of

_COPIED = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken")
_NAMES = ("LICENSE", "NOTICE")
_OUR_OWN = ("config.json", "quantize_config.json", "quant_config.json")


def check_unquantized(folder: Path) -> dict[str, Any]:
    """Read config.json, without what it says of a quantization that the weights do not have.

    Raises:
        FormatError: the checkpoint is already quantized, or has no config.json.
    """
    config = read_json(folder / "config.json", required=True)
    found, _ = find_config(text_config(config), folder, lambda line: None)
    if found is not None and not is_plain(read_weights(folder)):
        kind = method_of(found)
        problem = f"is already quantized{f', by {kind}' if kind else ''}"
        raise FormatError(problem, path=folder, hint="give the original checkpoint")
    return {key: value for key, value in config.items() if key not in KEYS}


def write_packed(
    source: Path,
    folder: Path | GrowingFolder,
    arrays: Iterable[Path],
    quantization_config: Mapping[str, Any],
    *,
    replaced: Mapping[str, Sequence[str]],
    beside: str | None = "quantize_config.json",
    max_shard_bytes: float = 5e9,
) -> None:
    """Write the checkpoint ``source`` with its quantized linear layers to ``folder``, which must exist.

    Args:
        source: the original. Tensors that are not replaced are copied in their own types, as are the files of the
            tokenizer and of generation.
        folder: the folder to write to.
        arrays: safetensors files of the packed arrays, those of BF16 as U16. The part of a name before its last dot is
            the name of a linear layer; the names of other tensors (a norm, a bias) are those of the original, which is
            left out.
        quantization_config: written to config.json, and to the file ``beside`` it.
        replaced: the original's tensors that are left out, and the linear layers that are in each: one, or those of all
            experts.
        beside: the name of that file; some loaders read only it. None for no such file.
        max_shard_bytes: bytes of data in one safetensors file, at most.

    Raises:
        FormatError: the original is already quantized, or damaged.
    """
    config = {**check_unquantized(source), "quantization_config": dict(quantization_config)}
    packed: dict[str, list[Tensor]] = {}
    for made in arrays:
        for name, stored in read_safetensors(made).items():
            packed.setdefault(name.rpartition(".")[0], []).append(_bfloats(any_type(stored)))
    tensors: list[Tensor] = []
    changed = {tensor.name for several in packed.values() for tensor in several}
    for name, original in read_weights(source).items():
        if name in replaced:
            for module in replaced[name]:
                tensors += packed.pop(module)
        elif name.removesuffix(".weight") in packed and name.endswith(".weight"):
            tensors += packed.pop(name.removesuffix(".weight"))
        elif name not in changed:
            tensors.append(original if isinstance(original, Tensor) else original.tensor())
    assert not packed, sorted(packed)
    path = folder if isinstance(folder, Path) else folder.path
    write_json(path / "config.json", config)
    if beside is not None:
        write_json(path / beside, quantization_config)
    copy_beside(source, path)
    write_safetensors(folder, tensors, max_shard_bytes=max_shard_bytes)


def copy_beside(source: Path, folder: Path) -> None:
    """Copy what lies beside a checkpoint's weights: the files of its tokenizer and of generation, code, licences."""
    for file in sorted(source.iterdir()):
        wanted = ending(file) in _COPIED or file.name.startswith(_NAMES)
        if wanted and file.is_file() and file.name not in _OUR_OWN and not file.name.endswith(".index.json"):
            check_link(file, source)
            shutil.copyfile(file, folder / file.name)


def _bfloats(array: Tensor) -> Tensor:
    """What numpy has as whole numbers of 16 bits, the bits of BF16, as that."""
    return replace(array, qtype=FILE_TYPES["BF16"]) if array.qtype is FILE_TYPES["U16"] else array


def any_type(stored: StoredTensor) -> Tensor:
    """As ``StoredTensor.tensor``, but also for packed codes."""
    qtype = FILE_TYPES[stored.dtype]

    def rows(a: int, b: int) -> Bytes:
        return stored.rows(a, b)

    return Tensor(stored.name, Role.OTHER, None, stored.shape, qtype, rows, f"{stored.path}: {stored.name}")
