"""Reading tokenizers: special ids from every place, flags, templates, types, padding, errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as HfTokenizer

from oracles.llama import Llama
from oracles.small_tokenizers import sentencepiece_json, train_bpe, train_sentencepiece, with_added, write_folder
from oracles.strings import adversarial
from oracles.vocab_gguf import write_vocab_gguf
from quantmill.formats.errors import TokenizerError
from quantmill.formats.gguf.vocab import tokenizer_to_metadata
from quantmill.formats.hf.tokenizer.read import read_tokenizer
from quantmill.formats.hf.tokenizer.splitting.pre_tokenizers import BY_NAME
from quantmill.formats.ir import Tokenizer, TokenType

LLAMA3_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|start_header_id|>")
LLAMA3_TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}<|eot_id|>{% endfor %}"
Files = dict[str, Any]


@pytest.fixture(scope="module")
def bpe() -> dict[str, Any]:
    return train_bpe(BY_NAME["llama-bpe"].pre_tokenizer, vocab_size=700)


def _llama3(bpe: dict[str, Any]) -> tuple[Files, int]:
    """The files of a small Llama 3 Instruct as first published, and the id of its first special token."""
    document = with_added(bpe, LLAMA3_SPECIAL)
    start = document["added_tokens"][0]["id"]
    bos = {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}], "pair": []}
    template["special_tokens"] = {bos["SpecialToken"]["id"]: {"id": "<|begin_of_text|>", "ids": [start], "tokens": []}}
    document["model"] = {**document["model"], "ignore_merges": True}
    document["post_processor"] = {"type": "Sequence", "processors": [bpe_processor(), template]}
    return {
        "tokenizer.json": document,
        "tokenizer_config.json": {
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|end_of_text|>",
            "chat_template": LLAMA3_TEMPLATE,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
        "generation_config.json": {"eos_token_id": [start + 1, start + 3]},
    }, start


def bpe_processor() -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}


def _read(folder: Path, vocab_size: int, model_ids: dict[str, Any] | None = None, pre: str | None = None) -> Tokenizer:
    tok = read_tokenizer(folder, vocab_size=vocab_size, model_ids=model_ids or {}, pre=pre)
    assert tok is not None
    return tok


def test_llama3_instruct_stops_at_the_end_of_turn(bpe: dict[str, Any], tmp_path: Path) -> None:
    files, start = _llama3(bpe)
    tok = _read(write_folder(tmp_path, files), start + 8, {"bos_token_id": start, "eos_token_id": start + 1})
    assert tok.pre == "llama-bpe"
    assert tok.special == {"bos": start, "eos": start + 3, "eot": start + 3, "eom": start + 2}
    assert tok.flags == {"add_bos_token": True, "add_eos_token": False}
    assert tok.types[start : start + 8].tolist() == [TokenType.CONTROL] * 5 + [TokenType.UNUSED] * 3
    assert tok.tokens[start + 5 :] == (f"[PAD{start + 5}]", f"[PAD{start + 6}]", f"[PAD{start + 7}]")
    path = write_vocab_gguf(tmp_path / "v.gguf", tokenizer_to_metadata(tok))
    hf = HfTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    strings = adversarial(400, special=LLAMA3_SPECIAL, seed=3)
    with Llama(path, vocab_only=True) as llama:
        assert llama.special()["eos"] == llama.special()["eot"] == start + 3
        assert set(llama.stops()) == {start + 1, start + 2, start + 3}
        assert llama.tokenize_many(strings, add_special=True) == [hf.encode(text).ids for text in strings]


def _drop_template(files: Files, start: int) -> None:
    del files["tokenizer_config.json"]["chat_template"]


def _later_llama3(files: Files, start: int) -> None:
    files["tokenizer_config.json"]["eos_token"] = "<|eot_id|>"
    files["generation_config.json"]["eos_token_id"] = [start + 1, start + 2, start + 3]


def _base_model(files: Files, start: int) -> None:
    del files["tokenizer_config.json"]["chat_template"]
    files["generation_config.json"]["eos_token_id"] = start + 1


def _no_generation_config(files: Files, start: int) -> None:
    del files["generation_config.json"]


def _template_with_variable(files: Files, start: int) -> None:
    files["tokenizer_config.json"]["chat_template"] = "{{ m }}{{ eos_token }}"
    files["generation_config.json"]["eos_token_id"] = [start + 1, start + 4]


@pytest.mark.parametrize(
    ("change", "eos", "eot"),
    [
        (_drop_template, 3, 3),  # a well-known end of turn in a list of stops
        (_later_llama3, 3, 3),  # 3.1: the tokenizer says so itself
        (_base_model, 1, None),
        (_no_generation_config, 1, None),  # config.json's 1 is the only declared stop; <|eot_id|> is not one
        (_template_with_variable, 1, 1),
    ],
)
def test_eos_rule(
    bpe: dict[str, Any], tmp_path: Path, change: Callable[[Files, int], None], eos: int, eot: int | None
) -> None:
    files, start = _llama3(bpe)
    change(files, start)
    tok = _read(write_folder(tmp_path, files), start + 5, {"eos_token_id": start + 1})
    assert tok.special["eos"] == start + eos
    assert tok.special.get("eot") == (None if eot is None else start + eot)


def test_a_stop_llama_cpp_would_not_know_becomes_eot(bpe: dict[str, Any], tmp_path: Path) -> None:
    document = with_added(bpe, ["<stop>", "<|im_end|>"])
    stop = document["added_tokens"][0]["id"]
    files = {
        "tokenizer.json": document,
        "tokenizer_config.json": {"eos_token": {"content": "<stop>"}, "chat_template": "{{ m }}<|im_end|>"},
        "generation_config.json": {"eos_token_id": [stop + 1, stop]},
    }
    tok = _read(write_folder(tmp_path, files), stop + 2)
    assert (tok.special["eos"], tok.special["eot"]) == (stop + 1, stop)
    with Llama(write_vocab_gguf(tmp_path / "v.gguf", tokenizer_to_metadata(tok)), vocab_only=True) as llama:
        assert set(llama.stops()) == {stop, stop + 1}


def test_ids_from_every_place(bpe: dict[str, Any], tmp_path: Path) -> None:
    special = ["<bos>", "<end>", "<unk>", "<padding>", "<sep>", "<hide>", "<PRE>", "<SUF>", "<MID>"]
    document = with_added(bpe, special, ["<think>", "▁▁x"])
    first = document["added_tokens"][0]["id"]
    files = {
        "tokenizer.json": document,
        "tokenizer_config.json": {
            **{"bos_token": None, "unk_token": {"content": "<unk>"}, "sep_token": "<sep>", "prefix_token": "<PRE>"},
            **{"suffix_token": "<SUF>", "middle_token": "<MID>"},
        },
        "special_tokens_map.json": {"mask_token": "<hide>", "bos_token": "<bos>"},
    }
    tok = _read(write_folder(tmp_path, files), first + 11, {"eos_token_id": [first + 1, 5], "pad_token_id": first + 3})
    named = dict(
        zip(("bos", "eos", "unk", "pad", "sep", "mask", "fim_pre", "fim_suf", "fim_mid"), range(9), strict=True)
    )
    named["eos"] = 4  # a sep_token stands in for an eos_token that is not there (gguf-py, SpecialVocab)
    assert {name: number - first for name, number in tok.special.items()} == named
    assert tok.types[-2:].tolist() == [TokenType.USER_DEFINED] * 2
    assert tok.tokens[-2:] == ("<think>", "  x")
    assert tok.flags == {"add_bos_token": False, "add_eos_token": False}


def test_tokens_that_only_look_special(bpe: dict[str, Any], tmp_path: Path) -> None:
    document = with_added(bpe, [], ["<|tool|>", "<pad>", "tool"])
    tok = _read(write_folder(tmp_path, {"tokenizer.json": document}), len(bpe["model"]["vocab"]) + 3)
    assert tok.types[-3:].tolist() == [TokenType.CONTROL, TokenType.CONTROL, TokenType.USER_DEFINED]


def test_chat_templates_in_files_win_over_the_config(bpe: dict[str, Any], tmp_path: Path) -> None:
    named = [{"name": "default", "template": "old"}, {"name": "tool_use", "template": "tools"}]
    files = {
        "tokenizer.json": bpe,
        "tokenizer_config.json": {"chat_template": named},
        "chat_template.jinja": "new\r\n",
        "additional_chat_templates/rag.jinja": "rag",
    }
    tok = _read(write_folder(tmp_path, files), 700)
    assert tok.chat_templates == {"default": "new\r\n", "tool_use": "tools", "rag": "rag"}


@pytest.mark.parametrize(
    ("pre", "name", "regex_class"), [("gpt-2", "gpt-2", "GPT2Tokenizer"), ("qwen2", "qwen2", "Qwen2Tokenizer")]
)
def test_vocab_json_and_merges_txt(pre: str, name: str, regex_class: str, tmp_path: Path) -> None:
    document = with_added(train_bpe(BY_NAME[pre].pre_tokenizer, vocab_size=600), ["<|endoftext|>"])
    document["normalizer"] = BY_NAME[pre].normalizer
    merges = [" ".join(merge) for merge in document["model"]["merges"]]
    fast = _read(write_folder(tmp_path / "fast", {"tokenizer.json": document}), 601)
    slow_files = {
        "vocab.json": document["model"]["vocab"],
        "merges.txt": "#version: 0.2\n" + "\n".join(merges) + "\n",
        "added_tokens.json": {"<|endoftext|>": 600},
        "tokenizer_config.json": {"tokenizer_class": regex_class, "eos_token": "<|endoftext|>"},
    }
    slow = _read(write_folder(tmp_path / "slow", slow_files), 601)
    assert (slow.pre, slow.tokens, slow.merges) == (name, fast.tokens, fast.merges)
    assert fast.pre == name
    assert slow.special == {"eos": 600}
    np.testing.assert_array_equal(slow.types, fast.types)


def test_spaces_inside_merges(tmp_path: Path) -> None:
    model = {"type": "BPE", "vocab": {"a": 0, " ": 1, "a ": 2}, "merges": [["a", " "]]}
    document = {"pre_tokenizer": BY_NAME["gpt-2"].pre_tokenizer, "model": model}
    assert _read(write_folder(tmp_path, {"tokenizer.json": document}), 3).merges == ("a Ġ",)


def test_sentencepiece_with_and_without_its_model(tmp_path: Path) -> None:
    data = train_sentencepiece()
    document = sentencepiece_json(data)
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    added = {"added_tokens.json": {"<|extra|>": 900, "▁<think>": 901}}
    from_model = _read(
        write_folder(tmp_path / "a", {"tokenizer.model": data, "tokenizer_config.json": config} | added), 904
    )
    from_json = _read(
        write_folder(tmp_path / "b", {"tokenizer.json": document, "tokenizer_config.json": config} | added), 904
    )
    for tok in (from_model, from_json):
        assert (tok.model, tok.pre) == ("llama", "default")
        assert tok.special == {"bos": 1, "eos": 2, "unk": 0}
        assert tok.types[:3].tolist() == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
        assert (tok.types[3:259] == TokenType.BYTE).all()
        assert tok.types[900:].tolist() == [TokenType.CONTROL, TokenType.USER_DEFINED] + [TokenType.UNUSED] * 2
        assert tok.tokens[901] == " <think>"
    assert from_json.tokens == from_model.tokens
    np.testing.assert_array_equal(from_json.types, from_model.types)
    np.testing.assert_array_equal(from_json.scores, from_model.scores)
    # transformers 5 writes the new behaviour, and a post-processor that adds nothing
    assert from_json.flags == {"add_bos_token": True, "add_eos_token": False, "legacy": False}
    assert from_model.flags == {"add_bos_token": True, "add_eos_token": False}


def test_sentencepiece_without_a_space_in_front(tmp_path: Path) -> None:
    document = sentencepiece_json(train_sentencepiece())
    document["pre_tokenizer"] = None
    document["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    tok = _read(write_folder(tmp_path / "a", {"tokenizer.json": document}), 900)
    assert tok.flags == {"add_bos_token": False, "add_eos_token": False, "add_space_prefix": False}


def test_every_file_is_read_once(bpe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, start = _llama3(bpe)
    more = {"special_tokens_map.json": {}, "added_tokens.json": {}, "chat_template.jinja": "{{ m }}"}
    unneeded = {"tokenizer.model": b"tiktoken's ranks", "vocab.json": {}, "merges.txt": "", "vocab.txt": ""}
    folder = write_folder(tmp_path, {**files, **more, **unneeded})
    seen = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        seen.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    _read(folder, start + 5)
    assert sorted(seen) == sorted({*files, *more})


def test_recorded_types_of_another_form_are_left_out(bpe: dict[str, Any], tmp_path: Path) -> None:
    types = {"0": 6, "1": [], "2": True, "x": 3, "9" * 5000: 3, "5": 7}
    files = {"tokenizer.json": bpe, "tokenizer_config.json": {"quantmill": {"token_types": types, "pre": []}}}
    tok = _read(write_folder(tmp_path, files), 700)
    assert tok.types[:6].tolist() == [TokenType.BYTE] + [TokenType.NORMAL] * 5


def _broken(name: str, data: Any) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        files[name] = data

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_broken("tokenizer.json", '{"model": '), "tokenizer.json: not JSON: "),
        (_broken("tokenizer.json", b"\xff\xfe"), "tokenizer.json: not UTF-8 at byte 0"),
        (_broken("tokenizer.json", {"version": "1.0"}), "tokenizer.json: no 'model' in it"),
        (_broken("tokenizer.json", {"model": {"type": "WordLevel"}}), "model.type: a WordLevel tokenizer"),
        (
            _broken("tokenizer.json", {"model": {"type": "WordPiece"}}),
            "model.vocab: is not what tokenizer files hold here",
        ),
        (
            _broken("tokenizer.json", {"model": {"type": "Unigram", "vocab": {"a": 1}}}),
            "model.vocab: is not what tokenizer files hold here",
        ),
        (
            _broken("tokenizer.json", {"model": {"type": "Unigram", "vocab": []}, "pre_tokenizer": {"type": "Nobody"}}),
            "pre_tokenizer: the tokenizers library refuses it: ",
        ),
        (
            _broken(
                "tokenizer.json",
                {
                    "model": {"type": "Unigram", "vocab": []},
                    "normalizer": {"type": "Precompiled", "precompiled_charsmap": "!"},
                },
            ),
            "normalizer: the tokenizers library refuses it: Precompiled: ",
        ),
        (
            _broken(
                "tokenizer.json",
                {
                    "model": {"type": "Unigram", "vocab": []},
                    "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
                },
            ),
            "normalizer: the tokenizers library refuses it: ",
        ),
        (_broken("tokenizer.json", {"model": None}), "tokenizer.json: no 'model' in it"),
        (_broken("tokenizer.json", {"model": {}, "decoder": {"type": "ByteLevel"}}), "model.vocab: is not what"),
        (
            _broken("tokenizer.json", {"model": {"type": "WordPiece", "vocab": {}, "continuing_subword_prefix": 3}}),
            "model.continuing_subword_prefix: is not what tokenizer files hold here",
        ),
        (_broken("tokenizer_config.json", "[1]"), "tokenizer_config.json: not a JSON object"),
        (_broken("tokenizer_config.json", {"extra_ids": "3"}), "extra_ids: is not what tokenizer files hold here"),
        (_broken("added_tokens.json", {"<x>": -1}), "'<x>': -1 is not a token id"),
        (_broken("added_tokens.json", {"<x>": 9999}), "token 700 ('<x>') is beyond the embedding's 700 rows"),
    ],
)
def test_errors(bpe: dict[str, Any], tmp_path: Path, change: Callable[[Files], None], message: str) -> None:
    files: Files = {"tokenizer.json": bpe}
    change(files)
    with pytest.raises(TokenizerError) as error:
        read_tokenizer(write_folder(tmp_path, files), vocab_size=700, model_ids={})
    assert message in str(error.value)


def test_other_errors(tmp_path: Path, bpe: dict[str, Any]) -> None:
    assert read_tokenizer(tmp_path, vocab_size=10, model_ids={}) is None
    with pytest.raises(TokenizerError, match="--pre: no pre-tokenizer called 'gpt2'"):
        read_tokenizer(tmp_path, vocab_size=10, model_ids={}, pre="gpt2")
    slow = write_folder(tmp_path / "slow", {"vocab.json": {"a": 0}, "merges.txt": "", "tokenizer_config.json": {}})
    with pytest.raises(TokenizerError, match=r"tokenizer_class: vocab\.json and merges.txt do not say"):
        read_tokenizer(slow, vocab_size=10, model_ids={})
    assert _read(slow, 10, pre="qwen2").pre == "qwen2"
    junk = write_folder(tmp_path / "junk", {"tokenizer.model": b"\xff" * 20})
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        read_tokenizer(junk, vocab_size=10, model_ids={})
    strange = {**bpe, "pre_tokenizer": {**BY_NAME["gpt-2"].pre_tokenizer, "add_prefix_space": True}}
    folder = write_folder(tmp_path / "strange", {"tokenizer.json": strange})
    with pytest.raises(TokenizerError, match="--pre"):
        read_tokenizer(folder, vocab_size=700, model_ids={})
    assert _read(folder, 700, pre="gpt-2").pre == "gpt-2"
