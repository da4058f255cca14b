"""Read a LoRA adapter of PEFT into a Model, which llama.cpp adds to a GGUF file of its base.

A pair A [r, in], B [out, r] stands for the change B·A of a weight. The architecture's rules move the rows of B as they
move those of the weight. Source of keys and names: convert_lora_to_gguf.py and llama-adapter.cpp of llama.cpp.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import FormatError, UnmatchedTensor, name_list
from ...floats import cast, from_f32, to_f32
from ...gguf.keys import typed
from ...ir import Bytes, Model, Role, Tensor, Value
from ...qtypes import F32, QType
from ...storage.endings import ending
from ..classes import read_config
from ..config import complete_config
from ..files.card import name_parts
from ..files.hub_cache import checkpoint_name, id_of_snapshot
from ..files.links import check_link, check_links
from ..files.safetensors import read_safetensors
from ..files.weights import Stored, read_bin
from ..names import our_name
from ..settle import Say, ignore
from ..tables.ops import Concat, On, Op, PermuteRope, Regroup, RegroupColumns, Split, Stack, Tensors, Transpose
from ..tables.rules import Arch, Slot
from .base import check_base
from .config import CONFIG, LoraConfig, read_lora_config

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PART = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<which>A|B|embedding_A|embedding_B)(?:\.(?:\w+\.)?weight)?"
)
# The base's own weight, which PEFT saves along with pairs of an embedding.
_COPIED = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.base_layer\.weight")
_ROW_OPS = (PermuteRope, Split, Concat, Regroup)


@dataclass(frozen=True)
class _Pair:
    """``a`` [r, in] and ``b`` [out, r] of one weight of the checkpoint."""

    a: Tensor
    b: Tensor


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter of PEFT."""
    return (folder / CONFIG).is_file()


def read_lora(
    folder: Path,
    base: Path | None = None,
    qtype: QType = F32,
    *,
    follow_links: bool = False,
    say: Say | None = None,
) -> Model:
    """Read a LoRA adapter of PEFT.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors (or .bin).
        base: the base model's folder, of which config.json is needed; None for the folder that the adapter names.
            Weights that the adapter holds of it, too, are compared if they are there.
        qtype: the type of the tensors: F32, F16 or BF16.
        follow_links: read files whose links lead out of their folder, instead of refusing them.
        say: called with a line about what could not be compared.

    Returns:
        a model with ``general.type`` adapter and tensors such as ``blk.0.attn_q.weight.lora_a`` and ``...lora_b``.

    Raises:
        FormatError: the adapter is not a LoRA, belongs to another base, or has parts that llama.cpp cannot apply, such
            as DoRA, biases, or changes of an embedding that is the head, too.
        UnmatchedTensor: a tensor is neither lora_A nor lora_B, or the base has no such weight.
    """
    folder = Path(folder)
    check_links(folder, follow=follow_links)
    about = read_lora_config(folder / CONFIG)
    base = base or _named_base(about)
    raw, arch, name = read_config(base / "config.json", say)
    config = complete_config(raw, arch, arch.classes[name], base / "config.json")
    stored = _read(folder, follow_links, say or ignore)
    pairs = _pairs(stored, folder)
    copied = {match["module"] + ".weight": one for name, one in stored.items() if (match := _COPIED.fullmatch(name))}
    check_base(
        arch, config, base, changed=pairs, copied=copied, folder=folder, follow_links=follow_links, say=say or ignore
    )  # fmt: skip
    tensors = tuple(cast(tensor, qtype) for tensor in _place(arch, config, pairs, about, folder))
    return Model(arch.gguf, _metadata(folder, arch, about), tensors, folder)


def _named_base(about: LoraConfig) -> Path:
    if about.base and os.path.isfile(os.path.join(about.base, "config.json")):
        return Path(about.base)
    problem = f"the base model {about.base!r} is not a local folder" if about.base else "names no base model"
    raise FormatError(
        problem, path=about.path, hint="--base FOLDER, with the base's config.json in it, or its name on the hub"
    )


def _read(folder: Path, follow_links: bool, say: Say) -> dict[str, Stored]:
    for name in _FILES:
        path = folder / name
        check_link(path, folder, follow=follow_links)
        if path.is_file():
            if aside := [other for other in _FILES if other != name and (folder / other).exists()]:
                say(f"{folder}: reads {name}, as PEFT does; left aside: {name_list(aside)}")
            return read_bin(path) if ending(path) == ".bin" else dict(read_safetensors(path))
    raise FormatError("holds no weights", path=folder, hint=f"{_FILES[0]} is expected")


def _pairs(stored: Mapping[str, Stored], folder: Path) -> dict[str, _Pair]:
    """Find the pairs by the checkpoint's name of the weight. Of an embedding, A is [r, vocab] and B [width, r]."""
    halves: dict[str, dict[str, Tensor]] = {}
    strange = []
    for name, one in stored.items():
        if _COPIED.fullmatch(name):
            continue
        match = _PART.fullmatch(name)
        if match is None:
            strange.append(name)
            continue
        tensor = one if isinstance(one, Tensor) else one.tensor()
        halves.setdefault(match["module"] + ".weight", {})[match["which"]] = tensor
    if strange:
        problem = f"{name_list(strange)}: neither lora_A nor lora_B"
        raise UnmatchedTensor(problem, path=folder, hint="a GGUF adapter holds nothing else: merge it into the base")
    found = {}
    for weight, parts in halves.items():
        kind = "embedding_" if "embedding_A" in parts or "embedding_B" in parts else ""
        if set(parts) != {f"{kind}A", f"{kind}B"}:
            raise FormatError("one half of a pair is missing", path=folder, where=weight)
        a, b = parts[f"{kind}A"], parts[f"{kind}B"]
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            raise FormatError(f"{list(a.shape)} and {list(b.shape)} are not a pair", path=folder, where=weight)
        found[weight] = _Pair(a, b)
    return found


def _factor(about: LoraConfig, weight: str, pair: _Pair) -> float:
    """The factor to multiply B by, since llama.cpp scales every pair by alpha / rank with the same alpha."""
    rank = pair.a.shape[0]
    return about.scale(weight.removesuffix(".weight"), rank) / (about.alpha / rank)


def _place(
    arch: Arch, config: Mapping[str, Any], pairs: Mapping[str, _Pair], about: LoraConfig, folder: Path
) -> Iterator[Tensor]:
    left = dict(pairs)
    slots = list(arch.slots(config))
    theirs = _their_names(arch, {name for slot in slots for name in slot.sources}, pairs, folder)
    for slot in slots:
        if slot.part != "weight":
            continue
        names = [theirs.get(name) for name in slot.sources]
        if not any(names):
            continue
        if not all(names):
            lacking = next(name for name, found in zip(slot.sources, names, strict=True) if found is None)
            raise FormatError("llama.cpp joins this layer with others that have no pair", path=folder, where=lacking)
        mine = [left.pop(name) for name in names if name is not None]
        scaled = [
            _scaled(pair, _factor(about, name, pair))
            for pair, name in zip(mine, names, strict=True)
            if name is not None
        ]
        for pair, source in zip(scaled, slot.sources, strict=True):
            _check_shape(pair, slot, source, folder)
        yield from _halves(slot, scaled, folder)
    if left:
        problem = f"the base has no {name_list(list(left))}"
        raise UnmatchedTensor(problem, path=folder, hint="is --base the model that it was trained on?")


def _their_names(arch: Arch, known: Collection[str], pairs: Iterable[str], folder: Path) -> dict[str, str]:
    """The adapter's names of weights by those of the rules."""
    found: dict[str, str] = {}
    for name in pairs:
        ours = our_name(name, arch, known)
        if ours and found.setdefault(ours, name) != name:
            raise FormatError(f"changes the same weight as {found[ours]}", path=folder, where=name)
    return found


def _check_shape(pair: _Pair, slot: Slot, source: str, folder: Path) -> None:
    shape = slot.shape
    if any(isinstance(op, Transpose) for op in slot.rule.ops[:1]):
        shape = shape[::-1]
    if slot.rule.roles == (Role.TOKEN_EMBD,):
        shape = shape[::-1]  # PEFT has an embedding's pair the other way round
    if (pair.b.shape[0], pair.a.shape[1]) != shape:
        have = [pair.b.shape[0], pair.a.shape[1]]
        raise FormatError(f"changes a weight of shape {have}; the base has {list(shape)}", path=folder, where=source)


def _halves(slot: Slot, pairs: list[_Pair], folder: Path) -> Iterator[Tensor]:
    """The GGUF tensors of a slot: B transformed by the rules, and A with each of them."""
    ops = list(slot.rule.ops)
    if ops and isinstance(ops[0], Transpose):
        ops = ops[1:]  # PEFT writes pairs of a Conv1D as those of a linear layer
    a: Tensors = tuple(pair.a for pair in pairs)
    b: Tensors = tuple(pair.b for pair in pairs)
    if ops and isinstance(ops[0], Stack):
        a, b, ops = ops[0].apply(a, slot.config), ops[0].apply(b, slot.config), ops[1:]
    if len(b) != 1 or not all(_can_follow(op) for op in ops):
        raise FormatError(
            "llama.cpp keeps this weight in a form that a pair cannot follow", path=folder, where=slot.sources[0]
        )
    for op in ops:
        if isinstance(op, RegroupColumns):
            a = op.apply(a, slot.config)
        else:
            b = op.apply(b, slot.config)
    if slot.rule.roles == (Role.TOKEN_EMBD,):
        a = Transpose().apply(a, slot.config)  # llama.cpp looks rows of it up
    for target, role, second in zip(slot.targets, slot.rule.roles, b, strict=True):
        for half, tensor in (("lora_a", a[0]), ("lora_b", second)):
            yield replace(tensor, name=f"{target}.{half}", role=role, layer=slot.block)


def _can_follow(op: Op) -> bool:
    if isinstance(op, On):
        return _can_follow(op.op)
    return isinstance(op, RegroupColumns) or (isinstance(op, _ROW_OPS) and getattr(op, "axis", 0) == 0)


def _scaled(pair: _Pair, factor: float) -> _Pair:
    if factor == 1:
        return pair
    b = pair.b

    def read(first: int, last: int) -> Bytes:
        return from_f32(to_f32(b.rows(first, last), b.qtype) * factor, F32)

    return _Pair(pair.a, replace(b, qtype=F32, read=read))


def _metadata(folder: Path, arch: Arch, about: LoraConfig) -> dict[str, Value]:
    facts: dict[str, Any] = {"general.architecture": arch.gguf, "general.type": "adapter", "adapter.type": "lora"}
    facts["general.name"] = checkpoint_name(folder)
    if named := about.base:
        named = id_of_snapshot(named) or named
        parts = name_parts(named, 0) if named.count("/") <= 1 else {}
        facts["general.base_model.count"] = 1
        facts["general.base_model.0.name"] = parts.get("name") or Path(named).name
        if "organization" in parts:
            facts["general.base_model.0.organization"] = parts["organization"]
            facts["general.base_model.0.repo_url"] = f"https://huggingface.co/{named}"
    facts["adapter.lora.alpha"] = about.alpha
    if about.invocation:
        facts["adapter.alora.invocation_tokens"] = about.invocation
    return {key: typed(key, value) for key, value in facts.items()}
