"""Find llama.cpp's pre-tokenizer for a tokenizer.json: by its steps, else by what it does to probe strings."""

from __future__ import annotations

import json

from ....errors import TokenizerError
from ..files.json_values import Json
from ..files.steps import Step
from ..files.tokenizer_json import BpeModel, TokenizerJson
from ..files.tokenizers_check import library_errors
from .pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from .probes import PROBES, differing_probes, split, split_probes


def detect_pre(document: TokenizerJson) -> str:
    """Find llama.cpp's name of the pre-tokenizer that splits text as this tokenizer.json does.

    Args:
        document: its model is a BPE.

    Raises:
        TokenizerError: none of llama.cpp's pre-tokenizers agrees on every probe; the error names the nearest one and a
            string that it splits otherwise.
    """
    assert isinstance(document.model, BpeModel)
    steps, rules = _comparable(document.pre_tokenizer_steps), document.normalizer_steps
    only_nfc = all(rule == {"type": "NFC"} for rule in rules)
    matches = [row for row in PRE_TOKENIZERS if only_nfc and steps == _comparable(row.steps)]
    if not matches:
        matches = _by_probes(document, document.normalizer if not only_nfc else None)
    ignores_merges = document.model.ignore_merges
    matches.sort(key=lambda row: (row.rare, row.ignore_merges != ignores_merges, row.nfc != bool(rules)))
    best = matches[0]
    if best.ignore_merges == ignores_merges or (word := _unreachable_word(document, document.model)) is None:
        return best.name
    if matches[-1].rare:
        best = matches[-1]
    if best.ignore_merges != ignores_merges:
        raise TokenizerError(
            f"its ignore_merges is {ignores_merges}, llama.cpp's pre-tokenizer {best.name!r} has the opposite,"
            f" and they tokenize {word!r} differently",
            path=document.path,
            where="model.ignore_merges",
            hint=f"--pre {best.name} uses it all the same",
        )
    return best.name


def _by_probes(document: TokenizerJson, normalizer: Json | None) -> list[PreTokenizer]:
    ours = split_probes(normalizer, document.pre_tokenizer, document.path)
    wrong = {row.name: differing_probes(ours, split(None, row.pre_tokenizer, PROBES)) for row in PRE_TOKENIZERS}
    if matches := [row for row in PRE_TOKENIZERS if not wrong[row.name]]:
        return matches
    nearest = min(PRE_TOKENIZERS, key=lambda row: len(wrong[row.name]))
    i = wrong[nearest.name][0]
    there = split(None, nearest.pre_tokenizer, (PROBES[i],))[0]
    raise TokenizerError(
        f"llama.cpp has no pre-tokenizer that splits as this one does; the nearest, {nearest.name!r}, differs on"
        f" {len(wrong[nearest.name])} of {len(PROBES)} probes: {PROBES[i]!r} becomes {ours[i]} here, {there} there",
        path=document.path,
        where="pre_tokenizer",
        hint=f"--pre {nearest.name} uses it all the same",
    )


def _comparable(steps: tuple[Step, ...]) -> list[Step]:
    """The steps without what does not change the words, so that equal ones compare equal."""
    found = []
    for step in steps:
        step = {key: value for key, value in step.items() if key != "trim_offsets"}
        if step["type"] == "ByteLevel":
            step.setdefault("use_regex", True)
        found.append(step)
    return found


def _unreachable_word(document: TokenizerJson, model: BpeModel) -> str | None:
    """A word of the vocabulary that the merges do not build; ignore_merges changes nothing but those."""
    from tokenizers import Tokenizer

    added = {token.text for _, token in document.added_tokens}
    with library_errors(document.path, "model"):
        tok = Tokenizer.from_str(json.dumps({"version": "1.0", "model": {**model.document, "ignore_merges": False}}))
        for word in model.vocab:
            if word not in added and len(tok.model.tokenize(word)) != 1:
                return word
    return None
