"""WordPiece: both ways, against tokenizers and llama.cpp, on a vocabulary trained here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer

from oracles.llama import Llama
from oracles.small_tokenizers import train_wordpiece, with_added, write_folder
from oracles.strings import adversarial
from oracles.vocab_gguf import write_vocab_gguf
from oracles.wordpiece import unlike_bert
from quantmill.formats.errors import TokenizerError
from quantmill.formats.gguf.vocab import tokenizer_from_metadata, tokenizer_to_metadata
from quantmill.formats.hf.tokenizer.kinds.wordpiece import piece_from_gguf, piece_to_gguf
from quantmill.formats.hf.tokenizer.read import read_tokenizer
from quantmill.formats.hf.tokenizer.write import write_tokenizer
from quantmill.formats.ir import Tokenizer, TokenType

CONFIG = {
    **{"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"},
    "tokenizer_class": "BertTokenizer",
}


def _read(folder: Path, n: int, pre: str | None = None) -> Tokenizer:
    tok = read_tokenizer(folder, vocab_size=n, model_ids={}, pre=pre)
    assert tok is not None
    return tok


def _folder(path: Path, document: dict[str, Any]) -> Path:
    return write_folder(path, {"tokenizer.json": document, "tokenizer_config.json": CONFIG})


def compare(hf: HfTokenizer, llama: Llama, strings: Sequence[str], lowercase: bool) -> int:
    """How many strings, of those without a character that only llama.cpp treats so, tokenize equally: all of them."""
    fair = [text for text in strings if not unlike_bert(text, lowercase)]
    theirs = llama.tokenize_many(fair, add_special=True)
    ours = [encoding.ids for encoding in hf.encode_batch(fair)]
    assert [text for text, a, b in zip(fair, ours, theirs, strict=True) if a != b] == []
    return len(fair)


@pytest.mark.parametrize("lowercase", [True, False])
def test_round_trip_and_llama_cpp(lowercase: bool, tmp_path: Path) -> None:
    document = with_added(train_wordpiece(lowercase), [], ["<tool>"])
    document["added_tokens"] = [*train_wordpiece(lowercase)["added_tokens"], *document["added_tokens"]]
    n = len(document["model"]["vocab"])
    tok = _read(_folder(tmp_path / "a", document), n + 4)
    assert (tok.model, tok.pre, tok.scores, tok.merges) == ("bert", "default", None, None)
    assert tok.tokens[:5] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert tok.types[:5].tolist() == [TokenType.CONTROL] * 5
    assert "▁the" in tok.tokens
    assert "ing" in tok.tokens
    assert tok.special == {"bos": 2, "eos": 3, "unk": 1, "sep": 3, "pad": 0, "mask": 4}
    assert tok.flags == {
        **{"normalizer_lowercase": lowercase, "add_bos_token": True, "add_eos_token": True, "add_sep_token": False}
    }
    assert tok.types[n:].tolist() == [TokenType.USER_DEFINED] + [TokenType.UNUSED] * 3
    metadata = tokenizer_to_metadata(tok)
    assert metadata["tokenizer.ggml.normalizer.lowercase"].data is lowercase
    again = tokenizer_from_metadata(metadata)
    assert again is not None
    write_tokenizer(again, tmp_path / "b")
    assert_same(_read(tmp_path / "b", n + 4), tok)
    before, after = (HfTokenizer.from_file(str(tmp_path / name / "tokenizer.json")) for name in "ab")
    strings = adversarial(2000, special=["[MASK]", "<tool>", "[SEP]"], seed=31)
    assert [t for t in strings if before.encode(t).ids != after.encode(t).ids] == []
    assert before.encode("a", "b").ids == after.encode("a", "b").ids
    assert before.encode("a", "b").type_ids == after.encode("a", "b").type_ids
    with Llama(write_vocab_gguf(tmp_path / "v.gguf", metadata), vocab_only=True) as llama:
        assert compare(after, llama, strings, lowercase) > (1000 if lowercase else 1400)
        long = llama.tokenize("a" * 101)
    assert 1 not in long  # llama.cpp has no longest word
    assert after.encode("a" * 101, add_special_tokens=False).ids == [1]


def assert_same(a: Tokenizer, b: Tokenizer) -> None:
    np.testing.assert_array_equal(a.types, b.types)
    for name in ("model", "pre", "tokens", "special", "flags"):
        assert getattr(a, name) == getattr(b, name), name


def test_vocab_txt(tmp_path: Path) -> None:
    document = train_wordpiece()
    vocab = document["model"]["vocab"]
    text = "".join(f"{token}\n" for token in sorted(vocab, key=vocab.__getitem__))
    fast = _read(_folder(tmp_path / "a", document), 900)
    slow = _read(write_folder(tmp_path / "b", {"vocab.txt": text, "tokenizer_config.json": CONFIG}), 900)
    assert_same(slow, fast)


def test_a_file_that_names_no_special_tokens(tmp_path: Path) -> None:
    texts = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁a", "b"]
    types = np.where([text[1:].startswith(("unused", "▁")) or text[0] != "[" for text in texts], 1, 3).astype(np.int32)
    tok = Tokenizer("bert", None, tuple(texts), types)
    again = tokenizer_from_metadata(tokenizer_to_metadata(tok))
    assert again is not None
    assert again.special == {"bos": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103}  # llama.cpp's own
    write_tokenizer(again, tmp_path)
    hf = HfTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    with Llama(write_vocab_gguf(tmp_path / "v.gguf", tokenizer_to_metadata(tok)), vocab_only=True) as llama:
        assert llama.tokenize("ab Abc é", add_special=True) == hf.encode("ab Abc é").ids
    assert hf.encode("AB").ids == [101, 104, 105, 102]


def test_transformers_loads_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tok = _read(_folder(tmp_path / "a", train_wordpiece()), 900)
    write_tokenizer(tok, tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text('{"model_type": "bert"}')
    auto = AutoTokenizer.from_pretrained(tmp_path / "b")
    assert (auto.cls_token_id, auto.sep_token_id, auto.mask_token_id, auto.unk_token_id) == (2, 3, 4, 1)
    published = HfTokenizer.from_file(str(tmp_path / "a" / "tokenizer.json"))
    for text in adversarial(200, seed=33):
        assert auto(text)["input_ids"] == published.encode(text).ids
    assert auto("a", "b")["token_type_ids"] == published.encode("a", "b").type_ids


def test_what_bert_says_and_llama_cpp_has_not(tmp_path: Path) -> None:
    document = train_wordpiece()
    document["normalizer"] |= {"handle_chinese_chars": False, "strip_accents": False}
    tok = _read(_folder(tmp_path / "a", document), 900)
    flags = {"normalizer_lowercase": True, "normalizer_strip_accents": False, "handle_chinese_chars": False}
    assert {**tok.flags, **flags} == tok.flags
    write_tokenizer(tok, tmp_path / "b")
    assert_same(_read(tmp_path / "b", 900), tok)


def test_another_normalizer_that_does_the_same(tmp_path: Path) -> None:
    document = train_wordpiece()
    document["normalizer"] = {"type": "Sequence", "normalizers": [document["normalizer"]]}
    assert _read(_folder(tmp_path / "a", document), 900).flags["normalizer_lowercase"] is True


@given(st.text(min_size=1))
def test_a_piece_comes_back(piece: str) -> None:
    """But for what llama.cpp's form cannot tell apart: a bare ``##``, and a ▁ at the start of what goes on."""
    assume(piece != "##" and not piece.startswith("##▁"))
    turned = piece_to_gguf(piece)
    assert turned.startswith("▁") != piece.startswith("##")
    assert piece_from_gguf(turned) == piece


def test_errors(tmp_path: Path) -> None:
    document = {**train_wordpiece(), "pre_tokenizer": {"type": "WhitespaceSplit"}}
    with pytest.raises(TokenizerError, match="does not split text as this WordPiece tokenizer does"):
        _read(_folder(tmp_path / "a", document), 900)
    assert _read(tmp_path / "a", 900, pre="default").model == "bert"
    other = train_wordpiece()
    other["model"]["continuing_subword_prefix"] = "@@"
    with pytest.raises(TokenizerError, match="only '##' is known"):
        _read(_folder(tmp_path / "b", other), 900)
