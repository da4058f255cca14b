"""The proof by the converter: a file of ours against what llama.cpp's own converter wrote for the same folder.

``make_converter_goldens.py`` makes the goldens; ``converter_differences.py`` lists what may differ, and why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gguf import GGUFReader

GOLDENS = Path(__file__).parent.parent / "formats" / "hf" / "goldens" / "converter"
TOWER_GOLDENS = GOLDENS.with_name("mmproj")
SMOLLM2 = "smollm2"  # a published model's golden, beside those of the proofs
LONG = 16  # longer arrays are a number and a hash

Json = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """Something that our file has otherwise than llama.cpp's, or that only one of them has.

    Args:
        key: a metadata key, or ``tensor:`` and a tensor's name; ``*`` stands for anything.
        reason: why it is so.
        archs: the architectures that have it, or ids of proofs; empty for any.
    """

    key: str
    reason: str
    archs: tuple[str, ...] = ()

    def covers(self, arch: str, key: str, proof: str = "") -> bool:
        return (not self.archs or bool({arch, proof} & {*self.archs})) and fnmatchcase(key, self.key)


def golden_path(case: str) -> Path:
    name = f"{case.replace(' ', '-')}.json"
    return (TOWER_GOLDENS if name.startswith("mmproj-") else GOLDENS) / name


def summary(f32: Path, f16: Path) -> Json:
    """What two files of a model, all of F32 and with F16, hold, without the weights themselves.

    ``metadata``: key -> [type, value], or [type, length, hash] of a long array. ``tensors``: in the file's order, name,
    shape as NumPy has it, types in both files, hash of the F32 data. ``f16``: the hash of the other file's data.
    """
    from gguf import GGUFReader  # llama.cpp's own, where its converter has been imported

    first, second = GGUFReader(f32), GGUFReader(f16)
    metadata = dict(_metadata(first))
    other = dict(_metadata(second))
    assert metadata.keys() == other.keys()
    for key, value in other.items():
        if value != metadata[key]:  # general.file_type
            metadata[key] = [*metadata[key], *value[1:]]
    tensors = []
    whole = hashlib.sha256()
    for a, b in zip(first.tensors, second.tensors, strict=True):
        assert a.name == b.name
        shape = "x".join(str(n) for n in reversed(a.shape.tolist()))
        tensors.append(f"{a.name} {shape} {a.tensor_type.name} {b.tensor_type.name} {_digest(a.data)}")
        whole.update(np.ascontiguousarray(b.data).view(np.uint8))
    return {"metadata": metadata, "tensors": tensors, "f16": whole.hexdigest()[:16]}


def _metadata(reader: GGUFReader) -> Iterator[tuple[str, list[Any]]]:
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue  # the header
        value = field.contents()
        if field.types[0].name != "ARRAY":
            yield key, [field.types[0].name, value]
            continue
        name = f"{field.types[1].name}[]" if len(field.types) > 1 else "[]"
        short = len(value) <= LONG
        yield key, [name, value] if short else [name, len(value), _digest(json.dumps(value).encode())]


def _digest(data: bytes | np.ndarray) -> str:
    raw = data if isinstance(data, bytes) else np.ascontiguousarray(data).view(np.uint8)
    return hashlib.sha256(raw).hexdigest()[:16]


def weights_digest(folder: Path) -> str:
    """The hash of a folder's weights: whether they are those that a golden was made from."""
    from safetensors.numpy import load_file

    whole = hashlib.sha256()
    for name, weight in sorted(load_file(folder / "model.safetensors").items()):
        whole.update(name.encode() + np.ascontiguousarray(weight).view(np.uint8).tobytes())
    return whole.hexdigest()[:16]


def keys_of(golden: Json) -> set[str]:
    """What a ``Difference`` may speak of: the metadata's keys, and the tensors'."""
    return {*golden["metadata"], *(f"tensor:{line.split()[0]}" for line in golden["tensors"]), "order"}


def differences(ours: Json, theirs: Json) -> dict[str, tuple[Any, Any]]:
    """What is not equal, by key or ``tensor:`` and name: our value and theirs, None where it is missing."""
    pairs = {key: (ours["metadata"].get(key), theirs["metadata"].get(key)) for key in _both(ours, theirs, "metadata")}
    tensors = [{line.split()[0]: line for line in one["tensors"]} for one in (ours, theirs)]
    pairs |= {f"tensor:{name}": (tensors[0].get(name), tensors[1].get(name)) for name in {**tensors[1], **tensors[0]}}
    found = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    names = [[name for name in one if f"tensor:{name}" not in found] for one in tensors]
    if names[0] != names[1]:
        found["order"] = (names[0], names[1])
    if not any(key == "order" or key.startswith("tensor:") for key in found) and ours["f16"] != theirs["f16"]:
        found["f16"] = (ours["f16"], theirs["f16"])
    return found


def _both(ours: Json, theirs: Json, part: str) -> Mapping[str, Any]:
    return {**theirs[part], **ours[part]}
