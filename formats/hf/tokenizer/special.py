"""Special token ids and add_bos/add_eos, from every place Hugging Face keeps them.

The rule for ``eos``, the token that generation stops at:

1. The model's stops are generation_config.json's ``eos_token_id`` (a number or a list), else config.json's; the
   tokenizer's own eos_token joins them.
2. A stop that ends a turn is taken first: one whose text stands in the chat template (the tokenizer's own eos_token if
   it is such a one, then the well-known end-of-turn texts, then the order of the list). Without a chat template, a
   well-known end-of-turn text in a list of several stops.
3. Otherwise the tokenizer's eos_token, then the first stop.

So Llama 3 Instruct, whose tokenizer says <|end_of_text|> (128001), whose list is [128001, 128009] and whose template
writes <|eot_id|>, gets 128009. ``eot`` is the same end of turn: left to itself llama.cpp takes any of a dozen texts,
whichever its hash table yields first. Where ``eos`` is not the tokenizer's eos_token and llama.cpp does not know that
one as a stop by its text, ``eot`` is the tokenizer's: llama.cpp stops at both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .files import Json, TokenizerFiles, token_text

_END_OF_TURN = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|eot|>",
    "<turn|>",
    "<EOT>",
)
_END_OF_MESSAGE = ("<|eom_id|>", "<|eom|>")  # a turn that goes on after a tool's answer
# llama-vocab.cpp, special_eog_ids: stops for llama.cpp by their text alone.
_KNOWN_STOPS = {
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
    *(
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<eos>",
        "<turn|>",
    ),
    *("<end_of_utterance>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
}
# Texts by which llama.cpp itself finds the tokens of fill-in-the-middle (llama-vocab.cpp, load), in its order; but it
# takes whichever its hash table yields first, and [PAD] for one of them in any vocabulary. Written where the first is.
_FIM_TEXTS = {
    "fim_pre": (
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>"),
        *("<|code_prefix|>", "<|prefix|>"),
    ),
    "fim_suf": (
        *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"),
        *("<|code_suffix|>", "<|suffix|>"),
    ),
    "fim_mid": (
        *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>"),
        *("<|code_middle|>", "<|middle|>"),
    ),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
# Our name -> keys of tokenizer_config.json and special_tokens_map.json, in order of trust.
_NAMES = {
    "bos": ("bos_token", "cls_token"),
    "unk": ("unk_token",),
    "sep": ("sep_token",),
    "pad": ("pad_token",),
    "mask": ("mask_token",),
    "eom": ("eom_token",),
    "fim_pre": ("fim_pre_token", "prefix_token"),
    "fim_suf": ("fim_suf_token", "suffix_token"),
    "fim_mid": ("fim_mid_token", "middle_token"),
    "fim_pad": ("fim_pad_token",),
    "fim_rep": ("fim_rep_token",),
    "fim_sep": ("fim_sep_token",),
}


def special_ids(
    files: TokenizerFiles, ids: Mapping[str, int], model_ids: Mapping[str, Any], fallback: Mapping[str, int]
) -> dict[str, int]:
    """Ids by llama.cpp's short names.

    Args:
        files: the folder.
        ids: text -> id of the whole vocabulary.
        model_ids: config.json's ``bos_token_id``... or ``bos``...: a number, a list or None.
        fallback: what the vocabulary file itself says (tokenizer.model's unk_id, ...), used last.
    """
    out: dict[str, int] = {}
    n = max(ids.values(), default=-1) + 1
    for name, keys in _NAMES.items():
        named = _named(files, ids, keys)
        numbers = _numbers(_of_model(model_ids, name), n)
        if named is not None:
            out[name] = named
        elif numbers:
            out[name] = numbers[0]
        elif name in fallback:
            out[name] = fallback[name]
    if "bos" not in out and (first := first_text(files.tokenizer)) in ids:
        out["bos"] = ids[str(first)]
    out.update(_stops(files, ids, model_ids, fallback, n))
    if "eom" not in out and (eom := next((ids[text] for text in _END_OF_MESSAGE if text in ids), None)) is not None:
        out["eom"] = eom
    for name, texts in _FIM_TEXTS.items():
        found = next((ids[text] for text in texts if text in ids), None)
        if name not in out and found is not None and (name == "fim_pre" or "fim_pre" in out):
            out[name] = found
    order = ("bos", "eos", "unk", "sep", "pad", "mask", "eot", "eom", *(name for name in _NAMES if "fim" in name))
    return {name: out[name] for name in order if name in out}


def _stops(
    files: TokenizerFiles, ids: Mapping[str, int], model_ids: Mapping[str, Any], fallback: Mapping[str, int], n: int
) -> dict[str, int]:
    texts = {number: text for text, number in ids.items()}
    own = _named(files, ids, ("eos_token", "sep_token"))
    declared = _numbers(files.generation.get("eos_token_id"), n) or _numbers(_of_model(model_ids, "eos"), n)
    stops = [stop for stop in dict.fromkeys([*declared, own]) if stop is not None and stop in texts]
    turn = _end_of_turn(files, ids, texts, stops, own)
    if turn is not None:
        eos: int | None = turn
    elif own is not None:
        eos = own
    else:
        eos = stops[0] if stops else fallback.get("eos")
    eot = _named(files, ids, ("eot_token",))
    if eot is None:
        hidden = own is not None and own != eos and texts[own] not in _KNOWN_STOPS
        eot = own if hidden else turn
    return {name: number for name, number in (("eos", eos), ("eot", eot)) if number is not None}


def _end_of_turn(
    files: TokenizerFiles, ids: Mapping[str, int], texts: Mapping[int, str], stops: Sequence[int], own: int | None
) -> int | None:
    template = files.chat_templates.get("default") or next(iter(files.chat_templates.values()), None)
    known = [ids[text] for text in _END_OF_TURN if ids.get(text) in stops]
    if template is None:
        return known[0] if known and len(stops) > 1 else None
    written = [stop for stop in stops if texts[stop] in template and texts[stop] not in _END_OF_MESSAGE]
    if own in written:
        return own
    if known := [stop for stop in known if stop in written]:
        return known[0]
    if own is not None and "eos_token" in template:
        return own
    return written[0] if written else None


def flags(files: TokenizerFiles, special: Mapping[str, int], ids: Mapping[str, int]) -> dict[str, bool]:
    """add_bos_token, add_eos_token, add_space_prefix as far as the files tell.

    For the first two, a post-processor that adds something wins, being what runs.
    """
    out: dict[str, bool] = {}
    if isinstance(declared := files.config.get("add_prefix_space"), bool):
        out["add_space_prefix"] = declared
    for processor in _processors((files.tokenizer or {}).get("post_processor")):
        if processor["type"] == "ByteLevel":
            out.setdefault("add_bos_token", False)
            out.setdefault("add_eos_token", False)
        elif processor["type"] == "RobertaProcessing":
            out.update(add_bos_token=True, add_eos_token=True, add_sep_token=True)
        elif processor["type"] == "TemplateProcessing":
            single = processor.get("single") or [{}]
            first, last = (ids.get(_special_text(part)) for part in (single[0], single[-1]))
            if first is not None:
                out["add_bos_token"] = first == special.get("bos")
            if last is not None and len(single) > 1:
                out["add_eos_token"] = last == special.get("eos")
            between = [ids.get(_special_text(part)) for part in _middle(processor)]
            if between and None not in between and {*between} <= {special.get("sep"), special.get("eos")}:
                out["add_sep_token"] = len(between) > 1 or last is None
    declared_flags = {key: files.config.get(key) for key in ("add_bos_token", "add_eos_token")}
    out = {**{key: value for key, value in declared_flags.items() if isinstance(value, bool)}, **out}
    if files.tokenizer is not None and files.tokenizer.get("post_processor"):
        out = {"add_bos_token": False, "add_eos_token": False, **out}  # it runs, and it adds neither
    return out


def first_text(document: Json | None) -> str | None:
    """The text of the token that a TemplateProcessing puts before what it is given."""
    for processor in _processors((document or {}).get("post_processor")):
        if processor["type"] == "TemplateProcessing" and processor.get("single"):
            return _special_text(processor["single"][0]) or None
    return None


def _middle(processor: Json) -> list[Json]:
    """What a TemplateProcessing puts between two texts."""
    pair = processor.get("pair") or []
    ends = [i for i, part in enumerate(pair) if "Sequence" in part]
    return pair[ends[0] + 1 : ends[-1]] if len(ends) == 2 else []


def _special_text(part: Json) -> str:
    """The text of a template's special token; the empty one, which no token has, for anything else."""
    return str(part.get("SpecialToken", {}).get("id", ""))


def _processors(part: Any) -> list[Json]:
    if not part:
        return []
    return [step for child in part.get("processors", ()) for step in _processors(child)] or [part]


def _named(files: TokenizerFiles, ids: Mapping[str, int], keys: Sequence[str]) -> int | None:
    for key in keys:
        for source in (files.config, files.special_map):
            text = token_text(source.get(key))
            if text is not None and text in ids:
                return ids[text]
    return None


def _of_model(model_ids: Mapping[str, Any], name: str) -> Any:
    return model_ids.get(f"{name}_token_id", model_ids.get(name))


def _numbers(value: Any, n: int) -> list[int]:
    """Token ids inside the vocabulary; some configs say -1 for none."""
    values = value if isinstance(value, list) else [value]
    return [number for number in values if isinstance(number, int) and 0 <= number < n]
