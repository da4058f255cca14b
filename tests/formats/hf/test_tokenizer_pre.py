"""Every pre-tokenizer of ours against llama.cpp's of that name, and finding the name from a tokenizer.json."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as HfTokenizer

from oracles.llama import Llama
from oracles.small_tokenizers import train_bpe
from oracles.strings import adversarial
from oracles.vocab_gguf import write_vocab_gguf
from quantmill.formats.errors import TokenizerError
from quantmill.formats.gguf.vocab import tokenizer_to_metadata
from quantmill.formats.hf.tokenizer.files.tokenizer_json import TokenizerJson, parse_tokenizer_json
from quantmill.formats.hf.tokenizer.splitting.detect import detect_pre
from quantmill.formats.hf.tokenizer.splitting.pre_tokenizers import BY_NAME, PRE_TOKENIZERS, PreTokenizer
from quantmill.formats.hf.tokenizer.splitting.probes import PROBES
from quantmill.formats.ir import Tokenizer

STRINGS = (*PROBES, *adversarial(700, seed=1))


def _any_space_is_ascii(text: str) -> bool:
    return not any(c.isspace() and ord(c) > 0x7F for c in text)


def _letters_without_marks_or_case(text: str) -> bool:
    return not any(ord(c) > 0x7F and unicodedata.category(c) in ("Lu", "Ll", "Lt", "Mn", "Mc", "Me") for c in text)


def _letters_without_case(text: str) -> bool:
    return text == text.lower() and not any(unicodedata.category(c) == "Lt" for c in text)


def _letters_without_marks_and_case(text: str) -> bool:
    return _letters_without_case(text) and not any(unicodedata.category(c)[0] == "M" for c in text)


def _digits_are_ascii(text: str) -> bool:
    return not any(ord(c) > 0x7F and unicodedata.category(c)[0] == "N" for c in text)


def _digits_after_no_spaces(text: str) -> bool:
    digits = "".join("0" if unicodedata.category(c)[0] == "N" else c for c in text)
    return not re.search(r"\s\s0", digits)


def _digits_alone_without_case(text: str) -> bool:
    glued = re.search(r"\w[0-9]|[0-9]\w", re.sub(r"[0-9]+", "0", text))
    return _letters_without_case(text) and _digits_are_ascii(text) and _digits_after_no_spaces(text) and not glued


# Where llama.cpp's regexes are not its models' (src/llama-vocab.cpp, unicode.cpp): std::wregex sees every wide space
# as a vertical tab, and \d as ASCII's; \p{Lu} is any letter but a-z, in some any letter at all, as in the code for
# Kimi, which knows no marks; the code that groups digits by three keeps what stands before them, a run of spaces then
# being cut elsewhere, and takes digits within words. There the comparison keeps to strings that do not show it.
LIMITS = {
    "deepseek-llm": _any_space_is_ascii,
    "deepseek-coder": _any_space_is_ascii,
    "tekken": _letters_without_marks_or_case,
    "gpt-4o": _letters_without_marks_or_case,
    "granite-embed-multi-97m": _letters_without_marks_or_case,
    "kimi-k2": _letters_without_marks_and_case,
    "youtu": _letters_without_case,
    "tiny_aya": _digits_alone_without_case,
    "afmoe": _digits_after_no_spaces,
    "superbpe": _digits_are_ascii,
}
# These two cut digits where their vocabularies have no merges anyhow, so theirs must be trained with those cuts.
TRAINED_ALONE = ("falcon", "deepseek-llm")


@pytest.fixture(scope="module")
def free_merges() -> dict[str, Any]:
    """A vocabulary whose merges cross word boundaries, so that every wrong boundary shows."""
    return train_bpe(None, extra=[*PROBES * 5, *STRINGS], vocab_size=2000)


@pytest.mark.parametrize("row", PRE_TOKENIZERS, ids=lambda row: row.name)
def test_splits_as_llama_cpp(row: PreTokenizer, free_merges: dict[str, Any], tmp_path: Path) -> None:
    trained = train_bpe(row.pre_tokenizer, extra=STRINGS) if row.name in TRAINED_ALONE else free_merges
    model = {**trained["model"], "ignore_merges": row.ignore_merges}
    document = {**trained, "model": model, "pre_tokenizer": row.pre_tokenizer}
    hf = HfTokenizer.from_str(json.dumps(document))
    vocab = model["vocab"]
    tok = Tokenizer(
        "gpt2",
        row.name,
        tuple(sorted(vocab, key=vocab.__getitem__)),
        np.ones(len(vocab), np.int32),
        merges=tuple(" ".join(merge) for merge in model["merges"]),
        flags={"add_bos_token": False},
    )
    strings = [text for text in STRINGS if LIMITS.get(row.name, lambda _: True)(text)]
    assert len(strings) > 300
    with Llama(write_vocab_gguf(tmp_path / "v.gguf", tokenizer_to_metadata(tok)), vocab_only=True) as llama:
        theirs = llama.tokenize_many(strings)
    ours = [encoding.ids for encoding in hf.encode_batch(strings, add_special_tokens=False)]
    assert [text for text, a, b in zip(strings, ours, theirs, strict=True) if a != b] == []


def _document(row: PreTokenizer, **changes: Any) -> TokenizerJson:
    # where a word is out of the merges' reach, a rare name is worth taking
    vocab = {"a": 0, "b": 1, "ab": 2} if row.rare else {}
    model = {"type": "BPE", "vocab": vocab, "merges": [], "ignore_merges": row.ignore_merges}
    document = {"normalizer": row.normalizer, "pre_tokenizer": row.pre_tokenizer, "model": model, **changes}
    return parse_tokenizer_json(document, Path("tokenizer.json"))


@pytest.mark.parametrize("row", PRE_TOKENIZERS, ids=lambda row: row.name)
def test_found_by_structure_and_by_behaviour(row: PreTokenizer) -> None:
    assert detect_pre(_document(row)) == row.name
    # the same words by another way: nested, with a step that cuts nothing
    idle = {"type": "Split", "pattern": {"Regex": "(?!)"}, "behavior": "Isolated", "invert": False}
    nested = {"type": "Sequence", "pretokenizers": [idle, {"type": "Sequence", "pretokenizers": list(row.steps)}]}
    assert detect_pre(_document(row, pre_tokenizer=nested)) == row.name


def test_no_two_rows_share_a_name() -> None:
    assert len(BY_NAME) == sum(1 + len(row.aliases) for row in PRE_TOKENIZERS)


def test_unknown_splitting_names_the_nearest_and_the_flag() -> None:
    gpt2 = BY_NAME["gpt-2"]
    prefixed = {**gpt2.pre_tokenizer, "add_prefix_space": True}
    with pytest.raises(TokenizerError) as error:
        detect_pre(_document(gpt2, pre_tokenizer=prefixed))
    assert str(error.value).startswith(
        "tokenizer.json: pre_tokenizer: llama.cpp has no pre-tokenizer that splits as this"
    )
    assert "becomes" in str(error.value)
    assert "--pre " in str(error.value)


def test_a_normalizer_that_llama_cpp_has_not_is_an_error() -> None:
    with pytest.raises(TokenizerError, match="'gpt-2'"):
        detect_pre(_document(BY_NAME["gpt-2"], normalizer={"type": "Lowercase"}))


def test_ignore_merges_counts_only_where_a_word_is_out_of_reach() -> None:
    falcon = BY_NAME["falcon"]  # llama.cpp: ignore_merges off
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "ignore_merges": True}
    assert detect_pre(_document(falcon, model=model)) == "falcon"
    with pytest.raises(TokenizerError, match="tokenize 'ab' differently"):
        detect_pre(_document(falcon, model={**model, "merges": []}))


def test_the_same_regex_with_and_without_ignore_merges() -> None:
    row = BY_NAME["llama-bpe"]
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [], "ignore_merges": False}
    assert detect_pre(_document(row)) == "llama-bpe"
    assert detect_pre(_document(row, model=model)) == "dbrx"


def test_a_rare_name_only_where_it_matters() -> None:
    row = BY_NAME["granite-embed-multi-97m"]
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "ignore_merges": True}
    assert detect_pre(_document(row, model=model)) == "gpt-4o"
    assert detect_pre(_document(row, model={**model, "merges": []})) == row.name
