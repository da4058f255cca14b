"""The steps of tokenizer.json's normalizer, pre-tokenizer, decoder and post-processor, which may nest in Sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .json_values import Json, Unexpected, json_list, json_object, optional, text, token_id, tuple_of

Step = Json  # {"type": ..., and what this type needs}

_MAX_DEPTH = 16  # of steps within steps; tokenizers nest two or three
# The keys under which normalizers, pre-tokenizers, decoders and post-processors hold further steps.
_INNER_KEYS = ("normalizers", "pretokenizers", "decoders", "processors")


@dataclass(frozen=True)
class TemplatePart:
    """One place in a template of a TemplateProcessing.

    Args:
        token: the text of a special token, or None.
        is_text: whether one of the texts goes here.
    """

    token: str | None
    is_text: bool


@dataclass(frozen=True)
class TemplateStep:
    """A step of the post-processor.

    Args:
        type: ``TemplateProcessing``, ``ByteLevel``, ``RobertaProcessing``, ...
        single: what a TemplateProcessing makes of one text.
        pair: what it makes of two texts.
        ids: the tokens that it adds: text -> ids.
    """

    type: str
    single: tuple[TemplatePart, ...]
    pair: tuple[TemplatePart, ...]
    ids: Mapping[str, tuple[int, ...]]

    @property
    def between(self) -> tuple[TemplatePart, ...]:
        """What goes between two texts."""
        ends = [i for i, part in enumerate(self.pair) if part.is_text]
        return self.pair[ends[0] + 1 : ends[-1]] if len(ends) == 2 else ()


def step(value: object) -> Step:
    """Parse a step, or a tree of steps within steps."""
    return _step(value, 0)


def flat_steps(tree: Step | None, inner_key: str) -> tuple[Step, ...]:
    """The steps of a parsed tree in their order, Sequences resolved.

    Args:
        tree: a step, or None.
        inner_key: where a Sequence of this part holds its steps, such as ``normalizers``.
    """
    if tree is None:
        return ()
    if tree["type"] != "Sequence":
        return (tree,)
    return tuple(found for child in _children(tree, inner_key) for found in flat_steps(child, inner_key))


def template_steps(tree: Step) -> tuple[TemplateStep, ...]:
    """The steps of a parsed post-processor, Sequences resolved."""
    if children := _children(tree, "processors"):
        return tuple(found for child in children for found in template_steps(child))
    single, pair = (optional(tuple_of(_template_part))(tree.get(key)) or () for key in ("single", "pair"))
    return (TemplateStep(text(tree["type"]), single, pair, _template_ids(tree)),)


def _step(value: object, depth: int) -> Step:
    found = json_object(value)
    text(found.get("type"))
    if depth > _MAX_DEPTH:
        raise Unexpected
    for key in ("single", "pair"):
        optional(tuple_of(_template_part))(found.get(key))
    _template_ids(found)
    for key in _INNER_KEYS:
        for child in json_list(found.get(key, [])):
            _step(child, depth + 1)
    return found


def _children(tree: Step, inner_key: str) -> list[Step]:
    return [json_object(child) for child in json_list(tree.get(inner_key, []))]


def _template_ids(tree: Step) -> dict[str, tuple[int, ...]]:
    """TemplateProcessing's ``special_tokens``, or ``cls`` and ``sep`` of the older steps: a text and an id each."""
    tokens = [json_object(token) for token in json_object(tree.get("special_tokens", {})).values()]
    ids = {text(token.get("id")): tuple_of(token_id)(token.get("ids")) for token in tokens}
    pairs = [json_list(tree[key]) for key in ("cls", "sep") if key in tree]
    return ids | {text(pair[0]): (token_id(pair[1]),) for pair in pairs if len(pair) == 2}


def _template_part(value: object) -> TemplatePart:
    part = json_object(value)
    special = json_object(part.get("SpecialToken", {}))
    return TemplatePart(optional(text)(special.get("id")) or None, "Sequence" in part)
