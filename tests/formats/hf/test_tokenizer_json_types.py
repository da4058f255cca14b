"""Any JSON value at any key of a tokenizer's files is refused with one line, or means what transformers makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oracles.small_tokenizers import write_folder
from quantmill.formats.errors import TokenizerError
from quantmill.formats.hf.tokenizer.read import read_tokenizer

Json = dict[str, Any]
Place = tuple[str | int, ...]
VALUES = (
    "null", "true", "0", "-1", "1e400", "1" + "0" * 30, '""', '"x"', '"\\ud83d"', "[]", "[[]]", "{}", '{"a": {}}',
    "1.5",
)  # fmt: skip
_MARK = "the value goes here"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def _token(text: str, **flags: bool) -> Json:
    return {
        **{"content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False},
        **{"special": True, **flags},
    }


_TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}},
}
_DOCUMENT: Json = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [{"id": 3, **_token("<s>")}, {"id": 4, **_token("<x>", special=False)}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
    "pre_tokenizer": _BYTE_LEVEL,
    "post_processor": _TEMPLATE,
    "decoder": _BYTE_LEVEL,
    "model": {
        **{"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False},
        **{"continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": False},
        **{"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    },
}
_CONFIG: Json = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": _token("<s>"),
    "eos_token": "<s>",
    "pad_token": None,
    "add_bos_token": True,
    "add_eos_token": False,
    "add_prefix_space": False,
    "added_tokens_decoder": {"3": _token("<s>")},
    "additional_special_tokens": ["<x>"],
    "extra_special_tokens": {"tool_token": "<x>"},
    "image_token": "<x>",
    "chat_template": [{"name": "default", "template": "x"}],
    "extra_ids": 0,
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "quantmill": {"pre": "gpt-2", "token_types": {"1": 1}},
}
_BESIDE: Json = {
    "special_tokens_map.json": {"bos_token": "<s>", "additional_special_tokens": [_token("<x>")]},
    "generation_config.json": {"eos_token_id": [3, 2]},
    "chat_template.json": {"chat_template": "x"},
    "added_tokens.json": {"<y>": 5},
}
_UNIGRAM: Json = {
    **{"version": "1.0", "added_tokens": [{"id": 0, **_token("<unk>")}], "normalizer": None},
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    "model": {
        "type": "Unigram",
        "unk_id": 0,
        "vocab": [["<unk>", 0.0], ["▁", -1.0], ["a", -2.0]],
        "byte_fallback": False,
    },
}
_WORD_PIECE: Json = {
    **{"version": "1.0", "added_tokens": [{"id": 0, **_token("[UNK]")}]},
    "normalizer": {
        **{"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True},
        **{"strip_accents": None, "lowercase": True},
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "model": {
        **{
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        "vocab": {"[UNK]": 0, "a": 1, "##b": 2},
    },
}
FOLDERS: dict[str, Json] = {
    "byte-level": {"tokenizer.json": _DOCUMENT, "tokenizer_config.json": _CONFIG, **_BESIDE},
    "vocab.json": {
        **{"vocab.json": {"a": 0, "b": 1, "ab": 2}, "merges.txt": "a b\n", "added_tokens.json": {"<x>": 3}},
        "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<x>"},
    },
    "unigram": {"tokenizer.json": _UNIGRAM},
    "wordpiece": {"tokenizer.json": _WORD_PIECE},
    "vocab.txt": {
        "vocab.txt": "[UNK]\na\n",
        "tokenizer_config.json": {"do_lower_case": True, "tokenize_chinese_chars": True},
    },
}


def _places(data: Any, before: Place = ()) -> Iterator[Place]:
    yield before
    for key in data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield from _places(data[key], (*before, key))


def _replaced(data: Json, place: Place, value: str) -> str:
    """The JSON text of ``data`` with a JSON text at a place."""
    if not place:
        return value
    changed: Any = json.loads(json.dumps(data))
    inside = changed
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = _MARK
    return json.dumps(changed).replace(json.dumps(_MARK), value)


def _refusal(folder: Path) -> str | None:
    try:
        assert read_tokenizer(folder, vocab_size=12, model_ids={"bos_token_id": 0}) is not None
    except TokenizerError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", FOLDERS)
def test_any_value_anywhere(name: str, tmp_path: Path) -> None:
    """No exception but ours; and what is taken of tokenizer.json, the tokenizers library takes, too."""
    from tokenizers import Tokenizer

    files, cases = FOLDERS[name], 0
    folder = write_folder(tmp_path, files)
    assert _refusal(folder) is None
    for file, data in files.items():
        for place in _places(data) if isinstance(data, dict) else ():
            for value in VALUES:
                (folder / file).write_text(_replaced(data, place, value), encoding="utf-8")
                refusal, cases = _refusal(folder), cases + 1
                assert refusal is None or ("\n" not in refusal and file in refusal), (file, place, value, refusal)
                if refusal is None and file == "tokenizer.json" and (place, value) != (("added_tokens",), "null"):
                    Tokenizer.from_file(str(folder / file))
        write_folder(folder, {file: data})
    print(f"{name}: {cases} cases")
    assert cases > 40


@pytest.mark.parametrize(
    ("file", "place", "value", "said"),
    [
        ("tokenizer.json", ("model",), None, "tokenizer.json: no 'model' in it"),
        ("tokenizer.json", ("model",), {}, "model.vocab: is not what"),
        ("tokenizer.json", ("model", "byte_fallback"), "x", "model.byte_fallback: is not what"),
        ("tokenizer.json", ("model", "ignore_merges"), 1, "model.ignore_merges: is not what"),
        ("tokenizer.json", ("model", "dropout"), "x", "model: the tokenizers library refuses it: "),
        ("tokenizer.json", ("model", "end_of_word_suffix"), "</w>", "model.end_of_word_suffix: llama.cpp's BPE has no"),
        ("tokenizer.json", ("model", "vocab", "b"), 0, "model.vocab: 'a' and 'b' have the same id, 0"),
        ("tokenizer.json", ("model", "merges", 0, 1), "c", "model.merges[0]: 'a' and 'c', or what they make, are not"),
        ("tokenizer.json", ("added_tokens", 0, "special"), 1, "added_tokens: is not what"),
        ("tokenizer.json", ("added_tokens", 0, "normalized"), "no", "added_tokens: is not what"),
        ("tokenizer.json", ("padding",), 5, "padding: the tokenizers library refuses it: "),
        ("tokenizer.json", ("decoder", "trim_offsets"), "x", "decoder: the tokenizers library refuses it: "),
        (
            "tokenizer.json",
            ("post_processor", "special_tokens", "<s>", "ids"),
            [1],
            "post_processor: adds the tokens [1] for '<s>', which is token 3 in the vocabulary",
        ),
        ("tokenizer_config.json", ("tokenizer_class",), 5, "tokenizer_class: is not what"),
        ("tokenizer_config.json", ("add_bos_token",), "x", "add_bos_token: is not what"),
        ("tokenizer_config.json", ("add_eos_token",), 1, "add_eos_token: is not what"),
        ("tokenizer_config.json", ("add_prefix_space",), "false", "add_prefix_space: is not what"),
        ("tokenizer_config.json", ("eos_token",), ["<s>"], "eos_token: is not what"),
        ("tokenizer_config.json", ("eos_token",), False, "eos_token: is not what"),
        ("tokenizer_config.json", ("bos_token", "lstrip"), "x", "bos_token: is not what"),
        ("tokenizer_config.json", ("added_tokens_decoder",), None, "added_tokens_decoder: is not what"),
        ("tokenizer_config.json", ("additional_special_tokens",), "<x>", "additional_special_tokens: is not what"),
        ("tokenizer_config.json", ("extra_special_tokens",), [5], "extra_special_tokens: is not what"),
        ("tokenizer_config.json", ("chat_template",), 5, "chat_template: is not what"),
        ("special_tokens_map.json", ("bos_token",), 5, "bos_token: is not what"),
        ("chat_template.json", ("chat_template",), ["x"], "chat_template: is not what"),
        ("generation_config.json", ("eos_token_id",), "x", "eos_token_id: is not what"),
        ("generation_config.json", ("eos_token_id", 0), 10**30, "eos_token_id: is not what"),
    ],
)
def test_what_would_change_the_result_is_refused(
    file: str, place: Place, value: Any, said: str, tmp_path: Path
) -> None:
    files = FOLDERS["byte-level"]
    folder = write_folder(tmp_path, files | {file: _replaced(files[file], place, json.dumps(value))})
    refusal = _refusal(folder)
    assert refusal is not None
    assert f"{file}: {said}".replace(f"{file}: {file}", file) in refusal


def test_an_empty_tokenizer_json_is_no_missing_one(tmp_path: Path) -> None:
    """transformers would not go on to vocab.json either."""
    folder = write_folder(tmp_path, FOLDERS["vocab.json"] | {"tokenizer.json": {}})
    assert "tokenizer.json: no 'model' in it" in str(_refusal(folder))


@pytest.mark.parametrize("key", ["do_lower_case", "tokenize_chinese_chars"])
def test_nulls_that_bert_refuses(key: str, tmp_path: Path) -> None:
    files = FOLDERS["vocab.txt"]
    folder = write_folder(tmp_path, files | {"tokenizer_config.json": files["tokenizer_config.json"] | {key: None}})
    assert f"{key}: null, where BertTokenizer needs true or false" in str(_refusal(folder))


def test_dropout_is_said(tmp_path: Path) -> None:
    files = FOLDERS["byte-level"]
    lines: list[str] = []
    document = _replaced(_DOCUMENT, ("model", "dropout"), "0.1")
    read_tokenizer(
        write_folder(tmp_path, files | {"tokenizer.json": document}), vocab_size=12, model_ids={}, say=lines.append
    )
    assert any("model.dropout 0.1, by which merges fail at random, is ignored" in line for line in lines)
