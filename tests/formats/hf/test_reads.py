"""Whatever a table is made of says which keys of a config it reads, and as what: else a key of another type would make
another model, and nothing would be said."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest

import quantmill.formats.hf as hf
from attacks.json_samples import config_of
from oracles.proofs import Proof, all_proofs
from quantmill.formats.errors import FormatError
from quantmill.formats.hf.classes import arch_of_config
from quantmill.formats.hf.config import complete_config
from quantmill.formats.hf.config_types import ALWAYS_READ
from quantmill.formats.hf.tables.dimensions import CLASS_HEAD, FURTHER, LAYERS, WRAPPER, Condition, Dim, If, at_layer
from quantmill.formats.hf.tables.reads import OfParts
from quantmill.formats.hf.tables.rules import Arch, Slot

ROOMS = ("tables", "archs", "towers")
READING = ("to_gguf", "__call__", "apply")  # methods that are given a config
NOT_OF_CONFIGS = {CLASS_HEAD, FURTHER, WRAPPER, "layer", "whole config", ""}


def classes() -> Iterator[type]:
    for room in ROOMS:
        for module in iter_modules([str(Path(str(hf.__file__)).parent / room)]):
            found = import_module(f"quantmill.formats.hf.{room}.{module.name}")
            yield from (
                cls for _, cls in inspect.getmembers(found, inspect.isclass) if cls.__module__ == found.__name__
            )


def is_given_a_config(cls: type) -> bool:
    return any(name in vars(base) for base in cls.__mro__ for name in READING)


def test_every_class_that_is_given_a_config_says_what_it_reads() -> None:
    nouns = [
        cls for cls in classes() if cls is not Slot and is_given_a_config(cls) and not vars(cls).get("_is_protocol")
    ]
    silent = [cls.__name__ for cls in nouns if not hasattr(cls, "reads")]
    assert silent == []
    assert len(nouns) > 80


class Asked(dict[str, Any]):
    """A config that notes the keys that are asked for."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.keys_asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.keys_asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_asked.add(key)
        return super().get(key, default)


def asked_by(noun: Any, config: dict[str, Any]) -> set[str]:
    """The keys that a noun, and what is in it, asks for, whole and seen from each layer."""
    noting, n = Asked(config), config["num_hidden_layers"]
    layers = range(n) if isinstance(noun, (Condition, Dim, If)) else ()
    for seen in (noting, *(at_layer(noting, layer, n) for layer in layers)):
        try:
            if hasattr(noun, "to_gguf"):
                list(noun.to_gguf(seen))
            elif callable(noun):
                noun(seen)
        except (FormatError, KeyError, TypeError, AttributeError):
            continue  # of a kind of layer that this config has not
    return noting.keys_asked


@pytest.mark.parametrize("proof", all_proofs(), ids=lambda proof: proof.id)
def test_no_part_of_a_table_asks_for_a_key_that_it_does_not_say(proof: Proof) -> None:
    raw, path = config_of(proof), Path("config.json")
    arch, name = arch_of_config(raw, path)
    config = complete_config(raw, arch, arch.classes[name], path)
    always = {*ALWAYS_READ, *NOT_OF_CONFIGS, *arch.layouts, *LAYERS.reads()}
    compared = 0
    for noun in arch.nouns:
        alone: Arch = replace(arch, config=(noun,), rules=(), needs={}, implied={}, extras=(), layouts={})  # type: ignore[arg-type]
        said = {key for part in alone.nouns for key in part.reads()}
        asked = asked_by(noun, config)
        compared += len(asked)
        assert asked - said - always == set(), noun
    assert compared > 10


def test_a_part_that_says_nothing_reads_nothing() -> None:
    assert OfParts().reads() == {}
