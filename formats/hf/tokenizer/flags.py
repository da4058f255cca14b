"""The flags of a ``Tokenizer``: what is added around a text and done to its spaces, as far as a folder's files tell."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import TokenizerError
from .common.vocabulary import Vocabulary
from .files.folder import TokenizerFolder
from .files.steps import TemplatePart, TemplateStep

_NOTHING = TemplatePart(token=None, is_text=False)


def find_flags(
    folder: TokenizerFolder, vocabulary: Vocabulary, special: Mapping[str, int], ids: Mapping[str, int]
) -> dict[str, bool]:
    """Find the flags of the tokenizer, as in ``Tokenizer.flags``.

    ``add_bos_token`` and ``add_eos_token`` are always among them, because llama.cpp has defaults of its own for each
    pre-tokenizer.

    Args:
        folder: what the folder's files say.
        vocabulary: what the reader of its kind found.
        special: ids by llama.cpp's short names.
        ids: text -> id of the whole vocabulary.
    """
    # A bare tokenizer.model is Llama's, whose class adds bos; anything else adds what it says.
    found = {"add_bos_token": vocabulary.model == "llama" and folder.tokenizer_json is None, "add_eos_token": False}
    found |= {**vocabulary.flags, **_declared(folder, special, ids)}
    if vocabulary.model == "t5":  # what is done to text outweighs what tokenizer_config.json says of it
        found["add_space_prefix"] = vocabulary.flags["add_space_prefix"]
    if (mask := vocabulary.added.by_id.get(special.get("mask", -1))) is not None and mask.lstrip:
        found["mask_lstrip"] = True
    if any(added.rstrip for added in vocabulary.added.by_id.values()):
        found["special_rstrip"] = True
    return found


def _declared(folder: TokenizerFolder, special: Mapping[str, int], ids: Mapping[str, int]) -> dict[str, bool]:
    """What tokenizer_config.json and the post-processor say; the post-processor wins, because it is what runs."""
    config = folder.config
    said = {"add_bos_token": config.add_bos_token, "add_eos_token": config.add_eos_token}
    out = {name: value for name, value in said.items() if value is not None}
    if config.add_prefix_space is not None:
        out["add_space_prefix"] = config.add_prefix_space
    document = folder.tokenizer_json
    steps = None if document is None else document.post_processor
    if document is None or steps is None:
        return out
    for text, numbers in ((text, numbers) for step in steps for text, numbers in step.ids.items()):
        if numbers != (ids.get(text, *numbers[:1]),):
            raise TokenizerError(
                f"adds the tokens {list(numbers)} for {text!r}, which is token {ids.get(text)} in the vocabulary",
                path=document.path,
                where="post_processor",
                hint="save it again with transformers",
            )
    added: dict[str, bool] = {}
    for step in steps:
        added = _of_step(step, added, special, ids)
    return {"add_bos_token": False, "add_eos_token": False, **out, **added}


def _of_step(
    step: TemplateStep, before: dict[str, bool], special: Mapping[str, int], ids: Mapping[str, int]
) -> dict[str, bool]:
    """The flags after one more step of the post-processor."""
    if step.type == "ByteLevel":
        return {"add_bos_token": False, "add_eos_token": False, **before}
    if step.type == "RobertaProcessing":
        return before | dict.fromkeys(("add_bos_token", "add_eos_token", "add_sep_token"), True)
    if step.type != "TemplateProcessing":
        return before
    out = dict(before)
    single = step.single or (_NOTHING,)
    first, last = _id(single[0], ids), _id(single[-1], ids)
    if first is not None:
        out["add_bos_token"] = first == special.get("bos")
    if last is not None and len(single) > 1:
        out["add_eos_token"] = last == special.get("eos")
    between = [_id(part, ids) for part in step.between]
    if between and None not in between and {*between} <= {special.get("sep"), special.get("eos")}:
        out["add_sep_token"] = len(between) > 1 or last is None
    return out


def _id(part: TemplatePart, ids: Mapping[str, int]) -> int | None:
    return None if part.token is None else ids.get(part.token)
