"""Model -> a Hugging Face checkpoint folder: every rule of the architecture, read backwards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, UnknownArchitecture, UnmatchedTensor, WeightError
from ..gguf.names import tensor_name
from ..gguf.vocab import tokenizer_from_metadata
from ..ir import Bytes, Model, Role, Tensor
from ..qtypes import BF16, BY_NAME, F16, F32, QType
from ..safetensors import chunks, write_safetensors
from . import rope
from .archs import BY_NAME as ARCH_BY_NAME
from .config import Key, derive
from .generation import read_private, restore_generation
from .load import MAX_NAMED
from .rules import Arch, Rule

TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def write_hf(model: Model, folder: Path, *, dtype: str = "auto", max_shard_bytes: float = 5e9) -> None:
    """Write config.json, generation_config.json, safetensors and the tokenizer's files.

    Args:
        model: its tensors F32, F16 or BF16 (decode quantized ones first), from any GGUF of a known architecture.
        folder: made if it is not there; ``output.atomic_folder`` gives one that appears whole or not at all.
        dtype: ``F32``, ``F16``, ``BF16``: every tensor is rounded to it. ``auto``: each tensor in the checkpoint's
            dtype where that loses nothing, else in its own. The checkpoint's is the one recorded when it was
            converted, or that of most weights (llama.cpp keeps vectors in F32 whatever the checkpoint had).
        max_shard_bytes: data bytes of one safetensors file.

    Raises:
        UnknownArchitecture, UnmatchedTensor, FormatError: the model cannot be said in this form; before any writing.
        WeightError: a weight is too large for the dtype asked for.
    """
    arch = ARCH_BY_NAME.get(model.arch)
    if arch is None:
        hint = f"known: {', '.join(ARCH_BY_NAME)}; a new one is a module in formats/hf/archs and an entry in ARCHS"
        raise UnknownArchitecture(f"unknown architecture {model.arch!r}", path=model.path, hint=hint)
    config = restore_config(arch, model)
    tensors = _restore_tensors(arch, model, config)
    common = _common_dtype(model) if dtype == "auto" else _float_type(dtype, model.path)
    if dtype == "auto":
        own = _own_dtypes(model)
        tensors = [_cast_exactly(tensor, own.get(tensor.name, common)) for tensor in tensors]
    else:
        tensors = [_cast(tensor, common) for tensor in tensors]
    # transformers 4 knows torch_dtype only, transformers 5 reads it too.
    config["torch_dtype"] = TORCH_NAMES[common.name]
    tokenizer = tokenizer_from_metadata(model.metadata)

    folder.mkdir(exist_ok=True)
    _write_json(folder / "config.json", _for_all_versions(config))
    if generation := restore_generation(model.metadata):
        _write_json(folder / "generation_config.json", generation)
    if tokenizer is not None:
        from .tokenizer.save import write_tokenizer

        write_tokenizer(tokenizer, folder)
    write_safetensors(folder, tensors, max_shard_bytes=max_shard_bytes)


def restore_config(arch: Arch, model: Model) -> dict[str, Any]:
    """The config: what keys and tensors tell, then what was recorded beside them."""
    name = model.get("quantmill.hf.class")
    name = name if name in arch.classes else next(iter(arch.classes))
    derived = derive(arch, model.metadata, model.tensors, model.path)
    recorded = read_private(model.metadata.get("quantmill.hf.config"))
    config = {**derived, **recorded}
    config = {"architectures": [name], "model_type": arch.classes[name].model_type, **config}
    for row in arch.config:
        if isinstance(row, Key) and config.get(row.hf) is None:
            where = f"{arch.name}.{row.gguf}"
            raise FormatError("is missing", path=model.path, where=where, hint="set it with gguf-set-metadata")
    factors = next((tensor for tensor in model.tensors if tensor.role is Role.ROPE_FREQS), None)
    if factors is not None and config["rope_parameters"]["rope_type"] == "default":
        config["rope_parameters"] = _llama3(factors, config["rope_parameters"]["rope_theta"], model.path)
    return config


def _llama3(tensor: Tensor, theta: float, path: Path) -> dict[str, Any]:
    found = rope.llama3_from_factors(tensor.rows(0, 1).view("<f4").reshape(-1), theta) if tensor.qtype is F32 else None
    if found is None:
        problem = "these frequency factors follow no llama3 scaling we know"
        raise FormatError(problem, path=path, where=tensor.name, hint="convert from the original checkpoint instead")
    return found


def _for_all_versions(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rope as transformers 4 writes it, which 5 reads as well."""
    out = dict(config)
    parameters = dict(out.pop("rope_parameters"))
    out["rope_theta"] = parameters.pop("rope_theta")
    if parameters != {"rope_type": "default"}:
        out["rope_scaling"] = parameters
    return out


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _restore_tensors(arch: Arch, model: Model, config: Mapping[str, Any]) -> list[Tensor]:
    """The checkpoint's tensors under its own names, in the model's order."""
    given = {tensor.name: tensor for tensor in model.tensors if tensor.role is not Role.ROPE_FREQS}
    for tensor in given.values():
        if not tensor.qtype.is_float:
            problem = f"{tensor.qtype} must be decoded before a checkpoint is written"
            raise FormatError(problem, path=model.path, where=tensor.name)
    out: list[Tensor] = []
    missing: list[str] = []
    layers = range(config["num_hidden_layers"])
    per_layer = [i for i, rule in enumerate(arch.rules) if rule.per_layer]
    first, last = per_layer[0], per_layer[-1]
    order: list[tuple[Rule, int | None]] = [(rule, None) for rule in arch.rules[:first]]
    order += [(rule, layer) for layer in layers for rule in arch.rules[first : last + 1]]
    order += [(rule, None) for rule in arch.rules[last + 1 :]]
    for rule, layer in order:
        for part in ("weight", "bias") if rule.bias else ("weight",):
            name = tensor_name(rule.role, layer, part)
            if name not in given:
                missing += [name] if part in rule.parts(config) else []
                continue
            sources: tuple[Tensor, ...] = (given.pop(name),)
            for op in reversed(rule.ops):
                sources = op.inverse.apply(sources, config)
            for hf, source in zip(rule.names(layer, part, config), sources, strict=True):
                want = rule.size(part, config)
                if source.shape != want:
                    problem = f"its shape is {list(source.shape)}, the metadata makes it {list(want)}"
                    raise FormatError(problem, path=model.path, where=name, hint="the file is damaged")
                out.append(replace(source, name=hf))
    for problem, names in ((f"no rule of {arch.name} matches", list(given)), ("missing", missing)):
        if names:
            more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
            raise UnmatchedTensor(f"{problem} {', '.join(names[:MAX_NAMED])}{more}", path=model.path)
    return out


def _common_dtype(model: Model) -> QType:
    """The checkpoint's dtype: the recorded one, or that of most weights in matrices."""
    recorded = model.get("quantmill.hf.dtype")
    if recorded in TORCH_NAMES:
        return BY_NAME[recorded]
    weights: Counter[str] = Counter()
    for tensor in model.tensors:
        if len(tensor.shape) > 1:
            weights[tensor.qtype.name] += tensor.n_weights
    return BY_NAME[weights.most_common(1)[0][0]] if weights else F32


def _own_dtypes(model: Model) -> dict[str, QType]:
    """The recorded exceptions, by the checkpoint's names."""
    lines = model.get("quantmill.hf.dtypes", ())
    pairs = (line.split(" ", 1) for line in lines if isinstance(line, str))
    return {pair[1]: BY_NAME[pair[0]] for pair in pairs if len(pair) == 2 and pair[0] in TORCH_NAMES}


def _float_type(name: str, path: Path) -> QType:
    if name.upper() not in TORCH_NAMES:
        raise FormatError(f"a checkpoint cannot be {name}", path=path, hint="one of auto, F32, F16, BF16")
    return BY_NAME[name.upper()]


def _cast_exactly(tensor: Tensor, qtype: QType) -> Tensor:
    """The tensor in ``qtype`` if every weight survives it bit for bit, else as it is."""
    if tensor.qtype is qtype:
        return tensor
    for rows in chunks(tensor):
        values = to_f32(rows, tensor.qtype)
        if not np.array_equal(to_f32(from_f32(values, qtype), qtype).view(np.uint32), values.view(np.uint32)):
            return tensor
    return _cast(tensor, qtype)


def _cast(tensor: Tensor, qtype: QType) -> Tensor:
    """The tensor rounded to ``qtype`` as its rows are read."""
    if tensor.qtype is qtype:
        return tensor

    def read(a: int, b: int) -> Bytes:
        values = to_f32(tensor.rows(a, b), tensor.qtype)
        rows = from_f32(values, qtype)
        lost = np.isfinite(values) & ~np.isfinite(to_f32(rows, qtype))
        if lost.any():
            row, column = (int(i[0]) for i in np.nonzero(lost))
            problem = f"{values[row, column]} at [{a + row}, {column}] is too large for {qtype}"
            raise WeightError(problem, path=tensor.source, hint="write BF16 or F32")
        return rows

    return replace(tensor, qtype=qtype, read=read)


def to_f32(rows: Bytes, qtype: QType) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows of a float type as float32 [rows, width]."""
    raw = np.ascontiguousarray(rows)
    if qtype is BF16:
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return raw.view("<f2" if qtype is F16 else "<f4").astype(np.float32)


def from_f32(values: np.ndarray[Any, np.dtype[np.float32]], qtype: QType) -> Bytes:
    """float32 [rows, width] as rows of a float type, rounded to nearest even."""
    if qtype is BF16:
        bits = np.ascontiguousarray(values).view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        rounded = np.where(np.isnan(values), (bits >> 16) | 64, rounded)  # stays a NaN
        return rounded.astype("<u2").view(np.uint8)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values.astype("<f2" if qtype is F16 else "<f4")).view(np.uint8)
