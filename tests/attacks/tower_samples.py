"""The JSON files of every proven tower, read without weights."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from attacks.json_keys import Place, Sample
from oracles.tower_proofs import TowerProof, all_tower_proofs
from quantmill.formats.errors import located
from quantmill.formats.hf.config_types import types_of
from quantmill.formats.hf.mmproj import tower_config
from quantmill.formats.hf.tables.tower import PROCESSOR, TEXT, Tower
from quantmill.formats.hf.tower_classes import read_outer, towers_of
from quantmill.formats.hf.towers import BY_CLASS


def towers() -> list[Sample]:
    return [_of_tower(proof) for proof in all_tower_proofs()]


def _of_tower(proof: TowerProof) -> Sample:
    files = {"config.json": config_of(proof), "preprocessor_config.json": dict(proof.processor), **proof.files}
    kind = cache(partial(_reader_of, BY_CLASS[proof.model], proof.model))
    return Sample(f"tower {proof.id}", files, _read_towers, kind=kind)


def config_of(proof: TowerProof) -> dict[str, Any]:
    """As transformers saves it."""
    import transformers

    config = getattr(transformers, proof.model).config_class(**proof.config)
    found: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return found | {"architectures": [proof.model]}


def _read_towers(folder: Path) -> object:
    """The towers' keys, and the tensors that they would have."""
    path = folder / "config.json"
    outer = read_outer(path)
    name, found = towers_of(outer, path)
    read: list[object] = []
    with located(path):
        for tower in found:
            config = tower_config(tower, name, outer, folder, {})
            keys = {key: value for row in tower.config for key, value in row.to_gguf(config)}
            shapes = [(slot.sources, slot.shape, slot.required) for slot in tower.slots(config)]
            read.append((tower.name, {key: np.asarray(value).tolist() for key, value in keys.items()}, shapes))
    return read


def _reader_of(towers: tuple[Tower, ...], name: str, place: Place) -> object:
    """What reads a key of a tower's files, and as what."""
    found: list[object] = []
    for tower in towers:
        cls = tower.classes[name]
        for at, part in ((tower.at, ""), (TEXT, f"{TEXT}."), ("", f"{PROCESSOR}."), ("", "outer.")):
            inside = tuple(at.split(".")) if at else ()
            if place[: len(inside)] == inside and len(place) > len(inside):
                inner = str(place[len(inside)])
                key = part + cls.names.get(inner, inner)
                readers = frozenset(type(noun).__name__ for noun in tower.nouns if key in noun.reads())
                of = types_of(tower, cls.defaults).get(key)
                found.append((key, readers, of and of.name, key in tower.fixed))
    return tuple(found)
