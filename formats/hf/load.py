"""A Hugging Face checkpoint folder -> Model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, UnknownArchitecture, UnmatchedTensor
from ..gguf.keys import typed
from ..gguf.names import tensor_name
from ..gguf.vocab import tokenizer_to_metadata
from ..ir import Bytes, Model, Role, Tensor, Tokenizer, Value
from ..qtypes import F32
from . import rope
from .archs import BY_CLASS
from .card import general
from .config import complete, derive, read_json, residue
from .generation import generation_residue
from .rules import Arch, Rule
from .weights import Stored, read_weights

MAX_NAMED = 10  # names in a message


def read_hf(folder: Path, *, pre: str | None = None) -> Model:
    """Read a checkpoint; weights stay on disk until their rows are asked for.

    Args:
        folder: with config.json, the weights, and a tokenizer (without one the model gets ``no_vocab``, which
            llama.cpp loads).
        pre: llama.cpp's name of the pre-tokenizer, instead of the one found.

    Returns:
        the model with GGUF's names, metadata and order; tensors in the checkpoint's types. What no standard key can
        hold stands under ``quantmill.hf.*``, so that ``write_hf`` gives back the same checkpoint.

    Raises:
        FormatError: and its children UnknownArchitecture, UnmatchedTensor, TokenizerError.
    """
    folder = Path(folder)
    return assemble(folder / "config.json", lambda arch, config: read_weights(folder), pre)


def assemble(
    path: Path, find_weights: Callable[[Arch, Mapping[str, Any]], Mapping[str, Stored]], pre: str | None = None
) -> Model:
    """The model of a config.json and the weights found for it. Arguments and errors otherwise as ``read_hf``."""
    from .tokenizer.read import read_tokenizer

    folder = path.parent
    raw = read_json(path, required=True)
    name, arch = find_arch(raw, path)
    cls = arch.classes[name]
    config = complete(raw, cls, path)
    tensors, dtypes = _read_tensors(arch, config, find_weights(arch, config), folder)
    tokenizer = read_tokenizer(folder, vocab_size=config["vocab_size"], model_ids=raw, pre=pre)
    generation = read_json(folder / "generation_config.json")

    n_weights = sum(tensor.n_weights for tensor in tensors)
    metadata = {"general.architecture": typed("general.architecture", arch.name)}
    metadata["general.type"] = typed("general.type", "model")
    for key, value in general(folder, raw, generation, n_weights):
        metadata[key] = typed(key, value)
    for row in arch.config:
        for suffix, value in row.to_gguf(config):
            metadata[f"{arch.name}.{suffix}"] = typed(f"{arch.name}.{suffix}", value)
    metadata |= _vocabulary(tokenizer)
    metadata |= _private(arch, name, config, metadata, tensors, dtypes, path)
    metadata |= generation_residue(generation, metadata)
    return Model(arch.name, metadata, tensors, folder)


def find_arch(raw: Mapping[str, Any], path: Path) -> tuple[str, Arch]:
    """The model class that config.json names and its architecture."""
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
    if name is None:
        raise UnknownArchitecture("no model class named", path=path, where="architectures")
    if name not in BY_CLASS:
        near = get_close_matches(name, BY_CLASS, n=1, cutoff=0)
        hint = f"nearest known: {near[0]}; a new one is a module in formats/hf/archs and an entry in ARCHS"
        raise UnknownArchitecture(f"unknown model class {name!r}", path=path, where="architectures", hint=hint)
    return name, BY_CLASS[name]


def _vocabulary(tokenizer: Tokenizer | None) -> dict[str, Value]:
    if tokenizer is None:
        return {"tokenizer.ggml.model": typed("tokenizer.ggml.model", "no_vocab")}
    return tokenizer_to_metadata(tokenizer)


def _private(
    arch: Arch,
    name: str,
    config: Mapping[str, Any],
    metadata: Mapping[str, Value],
    tensors: tuple[Tensor, ...],
    dtypes: Mapping[str, str],
    path: Path,
) -> dict[str, Value]:
    """The ``quantmill.hf.*`` keys: what the way back needs and no standard key says."""
    common = Counter(dtypes.values()).most_common(1)[0][0]
    others = [f"{dtype} {tensor}" for tensor, dtype in dtypes.items() if dtype != common]
    rest = residue(config, derive(arch, metadata, tensors, path), arch.classes[name].defaults)
    facts: dict[str, Any] = {"quantmill.hf.class": name, "quantmill.hf.dtype": common}
    if others:
        facts["quantmill.hf.dtypes"] = others
    if rest:
        facts["quantmill.hf.config"] = json.dumps(rest, ensure_ascii=False, sort_keys=True)
    return {key: typed(key, value) for key, value in facts.items()}


def shapes(arch: Arch, config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name and shape of every tensor that a checkpoint of this config must have, by the architecture's rules."""
    for name in _required(arch, config):
        found = _match(arch, name, config)
        assert found is not None, name
        number, _, part = found
        yield name, arch.rules[number].size(part, config)


def _read_tensors(
    arch: Arch, config: Mapping[str, Any], stored: Mapping[str, Stored], folder: Path
) -> tuple[tuple[Tensor, ...], dict[str, str]]:
    """The model's tensors in the checkpoint's order, and the checkpoint's own dtypes by its own names."""
    weights = {n: t for n, t in stored.items() if not n.endswith(arch.ignored)}
    slots: dict[tuple[int, int | None, str], dict[str, Tensor]] = {}
    tensors: list[Tensor] = list(_rope_factors(config))
    dtypes: dict[str, str] = {}
    unmatched = []
    for name, stored in weights.items():
        found = _match(arch, name, config)
        if found is None:
            unmatched.append(name)
            continue
        number, layer, part = found
        rule = arch.rules[number]
        parts = slots.setdefault(found, {})
        parts[name] = _checked(rule, name, part, stored, config, folder)
        dtypes[name] = parts[name].qtype.name
        wanted = rule.names(layer, part, config)
        if len(parts) == len(wanted):
            tensors.append(_apply(rule, layer, part, tuple(parts[one] for one in wanted), config))
    if unmatched:
        problem = f"no rule of {arch.name} matches {_listed(unmatched)}"
        raise UnmatchedTensor(problem, path=folder, hint="is config.json of the same model? Is it an adapter?")
    missing = [name for name in _required(arch, config) if name not in weights]
    missing += [n for (i, la, p), got in slots.items() for n in arch.rules[i].names(la, p, config) if n not in got]
    if missing:
        problem = f"missing {_listed(list(dict.fromkeys(missing)))}"
        raise UnmatchedTensor(problem, path=folder, hint="is config.json of the same model? Is a shard missing?")
    return tuple(tensors), dtypes


def _match(arch: Arch, name: str, config: Mapping[str, Any]) -> tuple[int, int | None, str] | None:
    for number, rule in enumerate(arch.rules):
        if match := rule.pattern.fullmatch(name):
            groups = match.groupdict()
            layer = int(groups["layer"]) if rule.per_layer else None
            if layer is not None and layer >= config["num_hidden_layers"]:
                return None
            return (number, layer, groups["part"]) if name in rule.names(layer, groups["part"], config) else None
    return None


def _required(arch: Arch, config: Mapping[str, Any]) -> Iterator[str]:
    for rule in arch.rules:
        for part in rule.parts(config):
            for layer in range(config["num_hidden_layers"]) if rule.per_layer else (None,):
                yield from rule.names(layer, part, config)


def _checked(rule: Rule, name: str, part: str, stored: Stored, config: Mapping[str, Any], folder: Path) -> Tensor:
    want = rule.size(part, config)
    if stored.shape != want:
        problem = f"its shape is {list(stored.shape)}, the config makes it {list(want)}"
        raise FormatError(problem, path=folder, where=name, hint="is config.json of the same model?")
    return stored if isinstance(stored, Tensor) else stored.tensor()


def _apply(rule: Rule, layer: int | None, part: str, sources: tuple[Tensor, ...], config: Mapping[str, Any]) -> Tensor:
    for op in rule.ops:
        sources = op.apply(sources, config)
    (tensor,) = sources
    name = tensor_name(rule.role, layer, part)
    # Ops move rows: an index in a message is then one of our tensor, and says so.
    source = f"{tensor.source}, as {name}" if rule.ops else tensor.source
    return replace(tensor, name=name, role=rule.role, layer=layer, source=source)


def _rope_factors(config: Mapping[str, Any]) -> Iterator[Tensor]:
    """Llama 3's factors as a tensor, first in the file as llama.cpp's converter has it."""
    if config["rope_parameters"]["rope_type"] == "llama3":
        data = rope.llama3_factors(config["rope_parameters"], config["head_dim"]).astype("<f4").view(np.uint8)
        row = data.reshape(1, -1)

        def read(a: int, b: int) -> Bytes:
            return row[a:b]

        name = tensor_name(Role.ROPE_FREQS)
        yield Tensor(name, Role.ROPE_FREQS, None, (data.size // 4,), F32, read, "config.json: rope_parameters")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
