"""RoBERTa, ModernBERT, Gemma 4, Phi-3: what is special about each, against tokenizers and llama.cpp."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as HfTokenizer

from oracles.llama import Llama
from oracles.small_tokenizers import train_bpe, train_raw_bpe, train_sentencepiece, with_added, write_folder
from oracles.strings import adversarial
from oracles.vocab_gguf import write_vocab_gguf
from quantmill.formats.gguf.vocab import tokenizer_from_metadata, tokenizer_to_metadata
from quantmill.formats.hf.tokenizer.kinds.byte_level_bpe import NFC_NOTE
from quantmill.formats.hf.tokenizer.read import read_tokenizer
from quantmill.formats.hf.tokenizer.splitting.pre_tokenizers import BY_NAME
from quantmill.formats.hf.tokenizer.write import write_tokenizer
from quantmill.formats.ir import Tokenizer, TokenType, Value, ValueType

ROBERTA = ("<s>", "</s>", "<unk>", "<pad>", "<mask>")
ROBERTA_CONFIG = {
    **{"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"},
    **{"pad_token": "<pad>", "mask_token": "<mask>", "tokenizer_class": "RobertaTokenizer", "add_prefix_space": False},
}


def _read(folder: Path, n: int, say: Callable[[str], object] | None = None) -> Tokenizer:
    tok = read_tokenizer(folder, vocab_size=n, model_ids={}, say=say)
    assert tok is not None
    return tok


def _strips(document: dict[str, Any], side: str, *texts: str) -> None:
    for token in document["added_tokens"]:
        token[side] = token["content"] in texts


def _there_and_back(tok: Tokenizer, folder: Path) -> HfTokenizer:
    again = tokenizer_from_metadata(tokenizer_to_metadata(tok))
    assert again is not None
    write_tokenizer(again, folder)
    read = _read(folder, len(tok.tokens))
    assert (read.types == tok.types).all()
    for name in ("model", "pre", "tokens", "merges", "special", "flags"):
        assert getattr(read, name) == getattr(tok, name), name
    return HfTokenizer.from_file(str(folder / "tokenizer.json"))


def _llama_cpp(tok: Tokenizer, path: Path, strings: list[str], name: str = "") -> list[list[int]]:
    """With what goes before and after; ``name`` is the model's, by which llama.cpp knows some of them."""
    metadata = {**tokenizer_to_metadata(tok), "general.name": Value(ValueType.STRING, name)}
    with Llama(write_vocab_gguf(path, metadata), vocab_only=True) as llama:
        return llama.tokenize_many(strings, add_special=True)


def _differing(strings: list[str], ours: HfTokenizer, theirs: list[list[int]] | HfTokenizer) -> list[str]:
    if isinstance(theirs, HfTokenizer):
        theirs = [encoding.ids for encoding in theirs.encode_batch(strings)]
    ids = [encoding.ids for encoding in ours.encode_batch(strings)]
    return [text for text, a, b in zip(strings, ids, theirs, strict=True) if a != b]


def test_roberta(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    document = with_added(train_bpe(BY_NAME["gpt-2"].pre_tokenizer, vocab_size=600), ROBERTA)
    _strips(document, "lstrip", "<mask>")
    document["post_processor"] = {
        **{"type": "RobertaProcessing", "sep": ["</s>", 601], "cls": ["<s>", 600]},
        **{"trim_offsets": True, "add_prefix_space": False},
    }
    files = {"tokenizer.json": document, "tokenizer_config.json": ROBERTA_CONFIG}
    tok = _read(write_folder(tmp_path / "a", files), 607)
    assert tok.pre == "jina-v2-code"  # the gpt-2 that takes the spaces before <mask>
    assert tok.special == {"bos": 600, "eos": 601, "unk": 602, "sep": 601, "pad": 603, "mask": 604}
    adds = dict.fromkeys(("add_bos_token", "add_eos_token", "add_sep_token", "mask_lstrip"), True)
    assert tok.flags == {**adds, "add_space_prefix": False}
    before, after = HfTokenizer.from_file(str(tmp_path / "a" / "tokenizer.json")), _there_and_back(tok, tmp_path / "b")
    strings = adversarial(2000, special=[*ROBERTA, "  <mask>", "\t<mask> "], seed=51)
    strings = [text for text in strings if not _wide_space_before("<mask>", text)]
    assert _differing(strings, before, after) == []
    assert _differing(strings, after, _llama_cpp(tok, tmp_path / "v.gguf", strings)) == []
    assert before.encode("x", "y").ids == after.encode("x", "y").ids

    (tmp_path / "b" / "config.json").write_text('{"model_type": "roberta"}')
    auto = AutoTokenizer.from_pretrained(tmp_path / "b")
    assert [t for t in strings[:300] if auto(t)["input_ids"] != before.encode(t).ids] == []

    vocab = {**document["model"]["vocab"], **{text: 600 + i for i, text in enumerate(ROBERTA)}}
    merges = "\n".join(" ".join(merge) for merge in document["model"]["merges"])
    slow = _read(write_folder(tmp_path / "c", {"vocab.json": vocab, "merges.txt": merges, **_only_class()}), 607)
    assert (slow.tokens, slow.merges, slow.special, slow.pre) == (tok.tokens, tok.merges, tok.special, tok.pre)
    assert (slow.types == tok.types).all()
    assert slow.flags == adds


def _only_class() -> dict[str, Any]:
    return {"tokenizer_config.json": {"tokenizer_class": "RobertaTokenizer"}}


def _wide_space_before(text: str, string: str) -> bool:
    """Before a token that takes them, llama.cpp takes the spaces of the C locale only."""
    head = string.split(text)[:-1]
    return any(part != part.rstrip() and not part.isascii() for part in head)


def test_modern_bert(tmp_path: Path) -> None:
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    document = with_added(train_bpe(BY_NAME["gpt-2"].pre_tokenizer, vocab_size=600), special, ["    ", "|||X|||"])
    _strips(document, "lstrip", "[MASK]")
    document["normalizer"] = {"type": "NFC"}
    cls, sep = ({"SpecialToken": {"id": text, "type_id": 0}} for text in ("[CLS]", "[SEP]"))
    a, b = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    document["post_processor"] = {
        **{"type": "TemplateProcessing", "single": [cls, a, sep], "pair": [cls, a, sep, b, sep]},
        "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in (("[CLS]", 601), ("[SEP]", 602))},
    }
    names = ("unk", "cls", "sep", "pad", "mask")
    config = {f"{name}_token": text for name, text in zip(names, special, strict=True)}
    folder = write_folder(tmp_path / "a", {"tokenizer.json": document, "tokenizer_config.json": config})
    said: list[str] = []
    tok = _read(folder, 608, said.append)
    assert said == [f"{folder}: tokenizer.json: {NFC_NOTE}"]
    assert tok.special == {"bos": 601, "eos": 602, "unk": 600, "sep": 602, "pad": 603, "mask": 604}
    adds = {"add_bos_token": True, "add_eos_token": True, "add_sep_token": False}
    assert tok.flags == {**adds, "mask_lstrip": True}
    assert tok.types[-3:].tolist() == [TokenType.USER_DEFINED] * 2 + [TokenType.UNUSED]
    before, after = HfTokenizer.from_file(str(folder / "tokenizer.json")), _there_and_back(tok, tmp_path / "b")
    strings = adversarial(2000, special=[*special, "  [MASK]"], seed=52)
    strings = [unicodedata.normalize("NFC", text) for text in strings]  # llama.cpp does not
    strings = [text for text in strings if not _wide_space_before("[MASK]", text)]
    assert _differing(strings, before, after) == []
    theirs = _llama_cpp(tok, tmp_path / "v.gguf", strings, name="modern-bert tiny")
    assert _differing(strings, after, theirs) == []
    assert before.encode("x", "y").ids == after.encode("x", "y").ids


def test_a_token_after_every_text_that_is_not_the_eos_token(tmp_path: Path) -> None:
    """Qwen3-Embedding's, at which embeddings are pooled."""
    texts = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    document = with_added(train_bpe(BY_NAME["qwen2"].pre_tokenizer, vocab_size=600), texts)
    end = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    template = {
        **{"type": "TemplateProcessing", "single": [a, end], "pair": [a, end, b, end]},
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [600], "tokens": ["<|endoftext|>"]}},
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    document["post_processor"] = {"type": "Sequence", "processors": [byte_level, template]}
    config = {
        **{"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "add_bos_token": False},
        "chat_template": "<|im_start|>{{ messages }}<|im_end|>",
    }
    folder = write_folder(tmp_path / "a", {"tokenizer.json": document, "tokenizer_config.json": config})
    tok = _read(folder, 603)
    assert tok.special == {"eos": 600, "pad": 600, "eot": 602}
    assert tok.flags == {"add_bos_token": False, "add_eos_token": True, "add_sep_token": False}
    before, after = HfTokenizer.from_file(str(folder / "tokenizer.json")), _there_and_back(tok, tmp_path / "b")
    strings = [unicodedata.normalize("NFC", text) for text in adversarial(700, special=texts, seed=55)]
    assert _differing(strings, before, after) == []
    assert _differing(strings, after, _llama_cpp(tok, tmp_path / "v.gguf", strings)) == []
    assert before.encode("x").ids[-1] == 600


def test_gemma4(tmp_path: Path) -> None:
    document = train_raw_bpe()
    bos = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    document["post_processor"] = {
        **{"type": "TemplateProcessing", "single": [bos, a], "pair": [bos, a, b]},
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
    }
    config = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    n = len(document["model"]["vocab"])
    folder = write_folder(tmp_path / "a", {"tokenizer.json": document, "tokenizer_config.json": config})
    tok = _read(folder, n + 2)
    assert (tok.model, tok.pre) == ("gemma4", None)
    assert tok.special == {"bos": 2, "eos": 1, "unk": 3, "pad": 0}
    assert tok.flags == {"add_space_prefix": False, "add_bos_token": True, "add_eos_token": False}
    assert (tok.types == TokenType.BYTE).sum() == 256
    before, after = HfTokenizer.from_file(str(folder / "tokenizer.json")), _there_and_back(tok, tmp_path / "b")
    strings = adversarial(2000, special=["<bos>", "<eos>"], seed=53)
    assert _differing(strings, before, after) == []
    assert _differing(strings, after, _llama_cpp(tok, tmp_path / "v.gguf", strings)) == []
    for token in document["added_tokens"]:
        token["special"] = token["content"] != "<|channel>"
    assert _read(write_folder(folder, {"tokenizer.json": document}), n).model == "gemma4"
    document["post_processor"] = None
    assert _read(write_folder(folder, {"tokenizer.json": document}), n).model == "llama"


def test_phi3(tmp_path: Path) -> None:
    special = ["<|endoftext|>", "<|user|>", "<|end|>"]
    first = _read(write_folder(tmp_path / "a", {"tokenizer.model": train_sentencepiece()}), 900)
    write_tokenizer(first, tmp_path / "b")
    document = json.loads((tmp_path / "b" / "tokenizer.json").read_text())
    plain = dict.fromkeys(("single_word", "lstrip", "normalized"), False)
    document["added_tokens"] += [
        {"id": 900 + i, "content": text, **plain, "rstrip": False, "special": True} for i, text in enumerate(special)
    ]
    _strips(document, "rstrip", "</s>", "<|user|>", "<|end|>")
    (tmp_path / "b" / "tokenizer.json").write_text(json.dumps(document))
    (tmp_path / "b" / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "<|endoftext|>"}')
    tok = _read(tmp_path / "b", 903)
    assert tok.flags["special_rstrip"]
    before, after = HfTokenizer.from_file(str(tmp_path / "b" / "tokenizer.json")), _there_and_back(tok, tmp_path / "c")
    strings = adversarial(1000, special=[*special, "<|user|> \n", "</s> x"], seed=54)
    strings = [text for text in strings if all(ord(c) < 0x7F or not c.isspace() for c in text)]
    assert _differing(strings, before, after) == []
    assert _differing(strings, after, _llama_cpp(tok, tmp_path / "v.gguf", strings, name="Phi-3 tiny")) == []
    # a GGUF of llama.cpp's says it by the model's name alone
    flags = {name: value for name, value in tok.flags.items() if name != "special_rstrip"}
    plain_keys = tokenizer_to_metadata(Tokenizer(**{**vars(tok), "flags": flags}))
    by_name = tokenizer_from_metadata({**plain_keys, "general.name": Value(ValueType.STRING, "Phi 3 mini phi3")})
    assert by_name is not None
    assert by_name.flags["special_rstrip"]


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (
            ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
            "pms0rS",
        ),
        (("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<reponame>"), "pmsr"),
        (("<｜fim▁begin｜>", "<｜fim▁end｜>", "<｜fim▁hole｜>"), "pms"),
        (("[PAD]", "<reponame>", "<|file_sep|>"), "---"),  # without a prefix they are for something else
    ],
)
def test_fill_in_the_middle_by_texts(texts: tuple[str, ...], found: str, tmp_path: Path) -> None:
    names = {"p": "fim_pre", "m": "fim_mid", "s": "fim_suf", "0": "fim_pad", "r": "fim_rep", "S": "fim_sep"}
    document = with_added(train_bpe(BY_NAME["gpt-2"].pre_tokenizer, vocab_size=600), texts)
    tok = _read(write_folder(tmp_path, {"tokenizer.json": document}), 600 + len(texts))
    assert tok.special == {names[letter]: 600 + i for i, letter in enumerate(found) if letter != "-"}
    with Llama(write_vocab_gguf(tmp_path / "v.gguf", tokenizer_to_metadata(tok)), vocab_only=True) as llama:
        stops = {tok.special[name] for name in ("fim_pad", "fim_rep", "fim_sep") if name in tok.special}
        assert stops <= set(llama.stops())
