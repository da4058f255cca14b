"""The ids of special tokens, from every place where Hugging Face keeps them.

The rule for ``eos``, the token that generation stops at:

1. The model's stops are generation_config.json's ``eos_token_id`` (a number or a list), else config.json's; the
   tokenizer's own eos_token joins them.
2. A stop that ends a turn is taken first: one whose text stands in the chat template (the tokenizer's own eos_token if
   it is such a one, then the well-known end-of-turn texts, then the order of the list). Without a chat template, a
   well-known end-of-turn text in a list of several stops.
3. Otherwise the tokenizer's eos_token, then the first stop.
4. Whatever these say, a token that tokenizer.json puts after every text is ``eos``, because llama.cpp adds no other one
   there, and what was found is ``eot``: Qwen3-Embedding pools at such an <|endoftext|>, its eos_token being <|im_end|>.

So Llama 3 Instruct, whose tokenizer says <|end_of_text|> (128001), whose list is [128001, 128009] and whose template
writes <|eot_id|>, gets 128009. ``eot`` is the same end of turn: left to itself llama.cpp takes any of a dozen texts,
whichever its hash table yields first. Where ``eos`` is not the tokenizer's eos_token, and llama.cpp does not know that
one as a stop by its text, ``eot`` is the tokenizer's eos_token: llama.cpp stops at both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .files.folder import TokenizerFolder
from .files.json_values import token_ids

_END_OF_TURN = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>", "<|eot|>", "<turn|>", "<EOT>",
)  # fmt: skip
_END_OF_MESSAGE = ("<|eom_id|>", "<|eom|>")  # a turn that goes on after a tool's answer
# llama-vocab.cpp, special_eog_ids: stops for llama.cpp by their text alone.
_KNOWN_STOPS = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<eos>", "<turn|>",
    "<end_of_utterance>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
}  # fmt: skip
# Texts by which llama.cpp itself finds the tokens of fill-in-the-middle (llama-vocab.cpp, load), in its order. It takes
# whichever its hash table yields first, and [PAD] for one of them in any vocabulary: so we write those we find, if the
# first of them is there.
_FIM_TEXTS = {
    "fim_pre": (
        "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
        "<|prefix|>",
    ),
    "fim_suf": (
        "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
        "<|suffix|>",
    ),
    "fim_mid": (
        "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
        "<|middle|>",
    ),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}  # fmt: skip
# Our name -> keys of tokenizer_config.json and special_tokens_map.json, in order of trust.
_KEYS = {
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


def find_special_ids(
    folder: TokenizerFolder, ids: Mapping[str, int], model_ids: Mapping[str, object], fallback: Mapping[str, int]
) -> dict[str, int]:
    """Find the ids of special tokens by llama.cpp's short names, in the order in which GGUF's keys are written.

    Args:
        folder: what the folder's files say.
        ids: text -> id of the whole vocabulary.
        model_ids: config.json's ``bos_token_id``... or ``bos``...: a number, a list or None.
        fallback: what the vocabulary file itself says (tokenizer.model's unk_id, ...), used last.
    """
    out: dict[str, int] = {}
    for name, keys in _KEYS.items():
        named = _named(folder, ids, *keys)
        numbers = _of_model(model_ids, name, ids)
        if named is not None:
            out[name] = named
        elif numbers:
            out[name] = numbers[0]
        elif name in fallback:
            out[name] = fallback[name]
    first = None if folder.tokenizer_json is None else folder.tokenizer_json.first_token
    if "bos" not in out and first is not None and first in ids:
        out["bos"] = ids[first]
    out.update(_stops(folder, ids, model_ids, fallback))
    if "eom" not in out and (eom := _first(_END_OF_MESSAGE, ids)) is not None:
        out["eom"] = eom
    for name, texts in _FIM_TEXTS.items():
        found = _first(texts, ids)
        if name not in out and found is not None and (name == "fim_pre" or "fim_pre" in out):
            out[name] = found
    order = ("bos", "eos", "unk", "sep", "pad", "mask", "eot", "eom", *(name for name in _KEYS if "fim" in name))
    return {name: out[name] for name in order if name in out}


def _stops(
    folder: TokenizerFolder, ids: Mapping[str, int], model_ids: Mapping[str, object], fallback: Mapping[str, int]
) -> dict[str, int]:
    """Find ``eos`` and ``eot``, by the rule above."""
    texts = {number: text for text, number in ids.items()}
    own = _named(folder, ids, "eos_token", "sep_token")
    declared = _inside(folder.stops, ids) or _of_model(model_ids, "eos", ids)
    stops = [stop for stop in dict.fromkeys([*declared, own]) if stop is not None and stop in texts]
    turn = _end_of_turn(folder, ids, texts, stops, own)
    if turn is not None:
        eos: int | None = turn
    elif own is not None:
        eos = own
    else:
        eos = stops[0] if stops else fallback.get("eos")
    eot = _named(folder, ids, "eot_token")
    if eot is None:
        unknown_to_llama_cpp = own is not None and own != eos and texts[own] not in _KNOWN_STOPS
        eot = own if unknown_to_llama_cpp else turn
    last = None if folder.tokenizer_json is None else ids.get(folder.tokenizer_json.last_token or "")
    if last is not None and last != eos:
        eos, eot = last, eos
    return {name: number for name, number in (("eos", eos), ("eot", eot)) if number is not None}


def _end_of_turn(
    folder: TokenizerFolder, ids: Mapping[str, int], texts: Mapping[int, str], stops: Sequence[int], own: int | None
) -> int | None:
    template = folder.chat_templates.get("default") or next(iter(folder.chat_templates.values()), None)
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


def _named(folder: TokenizerFolder, ids: Mapping[str, int], *keys: str) -> int | None:
    return _first(folder.named_texts(*keys), ids)


def _first(texts: Sequence[str], ids: Mapping[str, int]) -> int | None:
    """The id of the first of these texts that is in the vocabulary."""
    return next((ids[text] for text in texts if text in ids), None)


def _of_model(model_ids: Mapping[str, object], name: str, ids: Mapping[str, int]) -> list[int]:
    return _inside(token_ids(model_ids.get(f"{name}_token_id", model_ids.get(name))), ids)


def _inside(numbers: Sequence[int], ids: Mapping[str, int]) -> list[int]:
    """The ids that are inside the vocabulary."""
    n = max(ids.values(), default=-1) + 1
    return [number for number in numbers if number < n]
