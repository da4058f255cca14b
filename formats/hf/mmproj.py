"""Read the towers of a checkpoint that sees or hears: the model of an mmproj file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import located
from ..gguf.keys import typed
from ..ir import Model, Tensor, Value
from .config import complete_config, config_residue
from .config_types import types_of
from .files import processor
from .files.card import general
from .files.links import check_links
from .files.token_ids import token_ids
from .files.weights import Stored, read_weights
from .load import ORIGINAL, read_tensors
from .settle import Found, Say, ignore
from .tables.extras import TIED
from .tables.rows import metadata_key
from .tables.tower import OUTER, PARTS, PROCESSOR, TEXT, TOKENS, Tower
from .tables.tower_rows import Values
from .tower_classes import THINKER, object_at, read_outer, towers_of
from .tower_sizes import derive_tower

PRIVATE = "quantmill.hf."
CLASS, TYPE, REST, FILE = PRIVATE + "class", PRIVATE + "model_type", PRIVATE + "outer", PRIVATE + "file."


def read_mmproj(
    folder: str | Path,
    *,
    given: Mapping[str, Any] | None = None,
    follow_links: bool = False,
    say: Say | None = None,
) -> Model:
    """Read the towers of a Hugging Face checkpoint. Their weights stay on disk until their rows are asked for.

    Args:
        folder: with config.json, the weights, and preprocessor_config.json or processor_config.json.
        given: entries of the processor's config that its files lack, such as ``image_mean``.
        follow_links: read files whose links lead out of the folder, instead of refusing them.
        say: called with a line about what is assumed, chosen or left out.

    Returns:
        the model of an mmproj file: ``general.architecture`` is ``clip``, its tensors have the checkpoint's types.

    Raises:
        UnknownArchitecture: the model class has no tower, or none that is known.
        UnmatchedTensor: a tensor of a tower is missing, or belongs to no rule.
        FormatError: a file is damaged, or contradicts another, or says too little.
    """
    folder, say = Path(folder), say or ignore
    check_links(folder, follow=follow_links)
    path = folder / "config.json"
    outer = read_outer(path)
    name, towers = towers_of(outer, path)
    stored = read_weights(folder, say, follow_links=follow_links)
    metadata: dict[str, Value] = {"general.architecture": typed("general.architecture", "clip")}
    metadata["general.type"] = typed("general.type", "mmproj")
    keys: dict[str, Value] = {}
    private: dict[str, Value] = {}
    tensors: list[Tensor] = []
    for tower in towers:
        found, own, facts = _read_tower(tower, name, outer, stored, folder, given or {}, say)
        tensors = [*found, *tensors]  # those that hear first, as checkpoints' names come
        keys |= own
        private |= facts
    metadata |= {key: typed(key, value) for key, value in general(folder, outer, {}, tensors)}
    rest = {key: value for key, value in outer.items() if not _is_part(key, towers)}
    # Of two flags, the outer one decides; the text model's file knows one.
    rest[TEXT] = {key: value for key, value in (object_at(outer, TEXT, path) or {}).items() if key == TIED}
    whole = {CLASS: name, TYPE: outer.get("model_type", ""), REST: json.dumps(rest, sort_keys=True)}
    whole |= {FILE + file: text for file, text in processor.processor_texts(folder).items()}
    metadata |= keys | {key: typed(key, value) for key, value in whole.items()} | private
    return Model("clip", metadata, tuple(tensors), folder, from_checkpoint=True)


def _is_part(key: str, towers: Iterable[Tower]) -> bool:
    return key in (TEXT, "architectures", "model_type", "transformers_version", "_name_or_path") or any(
        key == tower.at for tower in towers
    )


def tower_config(
    tower: Tower, name: str, outer: Mapping[str, Any], folder: Path, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The completed config of a tower, with what its rows and rules read of the objects around it."""
    path = folder / "config.json"
    cls = tower.classes[name]
    around = tower.at.rpartition(".")[0]
    whole = (object_at(outer, around, path) or {}) if around else dict(outer)
    found = {**processor.read_processor(folder, tower), **given}
    read = (
        types_of(tower, cls.defaults).keys()
        | tower.fixed.keys()
        | {row.hf for row in tower.config if isinstance(row, Values)}
    )
    needed = [row.hf for row in tower.config if isinstance(row, Values) and row.hf.startswith(f"{PROCESSOR}.")]
    processor.check_complete(folder, found, needed)
    text = whole.get(TEXT) if isinstance(whole.get(TEXT), dict) else whole
    raw: dict[str, Any] = object_at(outer, tower.at, path) or {}
    ids = token_ids(folder, tower.tokens)
    for part, entries in ((TEXT, text), (OUTER, whole), (PROCESSOR, found), (TOKENS, ids)):
        raw[part] = {key: value for key, value in (entries or {}).items() if f"{part}.{key}" in read}
    return complete_config(raw, tower, replace(cls, parts=PARTS), path)


def _read_tower(
    tower: Tower,
    name: str,
    outer: Mapping[str, Any],
    stored: Mapping[str, Stored],
    folder: Path,
    given: Mapping[str, Any],
    say: Say,
) -> tuple[tuple[Tensor, ...], dict[str, Value], dict[str, Value]]:
    """The tensors of a tower, its keys, and what the way back needs beside them."""
    path = folder / "config.json"
    cls = replace(tower.classes[name], parts=PARTS)
    with located(path):
        config = tower_config(tower, name, outer, folder, given)
        slots = list(tower.slots(config))
        known = {source for slot in slots for source in slot.sources}
        named = {_our_name(tower, one): weights for one, weights in stored.items() if tower.has(one)}
        extras = Found(f"{tower.name} is computed without it")
        mine = {one: w for one, w in named.items() if one in known or not extras.take(tower, config, one, w)}
        for line in extras.lines(folder):
            say(line)
        tensors, kept = read_tensors(tower, config, slots, mine, folder, readable=True)
    metadata: dict[str, Value] = {}
    for row in tower.config:
        for suffix, value in row.to_gguf(config):
            key = metadata_key(tower.gguf, suffix)
            metadata[key] = typed(key, value)
    metadata[tower.projector_key] = typed(tower.projector_key, tower.projector)
    common = Counter(kept.dtypes.values()).most_common(1)[0][0]
    others = [f"{dtype} {one}" for one, dtype in kept.dtypes.items() if dtype != common]
    rest = config_residue(config, derive_tower(tower, cls, metadata, tensors, path), cls)
    at = f"{PRIVATE}{tower.modality}."
    facts: dict[str, Any] = {at + "dtype": common, at + "config": json.dumps(rest, sort_keys=True)}
    if others:
        facts[at + "dtypes"] = others
    theirs = [one for one in stored if tower.has(one) and not one.startswith(THINKER)]  # its config comes back alone
    if roots := [root for root in tower.roots if any(one.startswith(root) for one in theirs)]:
        facts[at + "roots"] = roots
    facts |= {ORIGINAL + one: values for one, values in kept.originals.items()}
    return tensors, metadata, {key: typed(key, value) for key, value in facts.items()}


def _our_name(tower: Tower, name: str) -> str:
    """The rules' name of a tensor."""
    for root, ours in tower.roots.items():
        if name.startswith(root):
            return ours + name.removeprefix(root)
    return name
