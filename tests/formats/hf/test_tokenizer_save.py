"""GGUF -> Hugging Face: SmolLM2 and small tokenizers; equal arrays after the round trip, equal ids everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as HfTokenizer

from oracles.llama import Llama
from oracles.small_tokenizers import train_bpe, train_sentencepiece, with_added, write_folder
from oracles.strings import adversarial
from oracles.vocab_gguf import read_vocab_metadata, write_vocab_gguf
from quantmill.formats.errors import TokenizerError
from quantmill.formats.gguf.vocab import tokenizer_from_metadata, tokenizer_to_metadata
from quantmill.formats.hf.tokenizer.read import read_tokenizer
from quantmill.formats.hf.tokenizer.splitting.pre_tokenizers import BY_NAME
from quantmill.formats.hf.tokenizer.write import write_tokenizer
from quantmill.formats.ir import Tokenizer, TokenType


def assert_same(a: Tokenizer | None, b: Tokenizer | None) -> None:
    assert a is not None
    assert b is not None
    np.testing.assert_array_equal(a.types, b.types)
    assert (a.scores is None) == (b.scores is None)
    if a.scores is not None:
        np.testing.assert_array_equal(a.scores, b.scores)
    for name in ("model", "pre", "tokens", "merges", "special", "flags", "chat_templates"):
        assert getattr(a, name) == getattr(b, name), name


def round_trip(folder: Path, vocab_size: int, out: Path) -> Tokenizer:
    """HF -> GGUF's keys -> HF -> GGUF's keys: the arrays are equal."""
    first = read_tokenizer(folder, vocab_size=vocab_size, model_ids={})
    assert first is not None
    from_keys = tokenizer_from_metadata(tokenizer_to_metadata(first))
    assert_same(from_keys, first)
    assert from_keys is not None
    write_tokenizer(from_keys, out)
    assert_same(read_tokenizer(out, vocab_size=vocab_size, model_ids={}), first)
    return first


def disagreements(a: HfTokenizer, b: HfTokenizer, strings: Sequence[str]) -> list[str]:
    return [text for text in strings if a.encode(text).ids != b.encode(text).ids]


@pytest.fixture(scope="module")
def smollm2(smollm2_q4_1: Path) -> Tokenizer:
    tok = tokenizer_from_metadata(read_vocab_metadata(smollm2_q4_1))
    assert tok is not None
    return tok


def test_smollm2_on_3000_strings(smollm2: Tokenizer, smollm2_q4_1: Path, tmp_path: Path) -> None:
    write_tokenizer(smollm2, tmp_path / "hf")
    again = read_tokenizer(tmp_path / "hf", vocab_size=49152, model_ids={})
    assert again is not None
    assert again.pre == "smollm"
    # what reading adds: the end of turn that llama.cpp would otherwise pick by hash order, and add_eos said aloud
    flags = {**smollm2.flags, "add_eos_token": False}
    assert_same(again, replace(smollm2, special={**smollm2.special, "eot": 2}, flags=flags))
    control = [text for text, kind in zip(smollm2.tokens, smollm2.types, strict=True) if kind == TokenType.CONTROL]
    strings = adversarial(3000, special=control, seed=11)
    hf = HfTokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    ours = [encoding.ids for encoding in hf.encode_batch(strings)]
    for path in (smollm2_q4_1, write_vocab_gguf(tmp_path / "again.gguf", tokenizer_to_metadata(again))):
        with Llama(path, vocab_only=True) as llama:
            theirs = llama.tokenize_many(strings, add_special=True)
        assert [text for text, a, b in zip(strings, ours, theirs, strict=True) if a != b] == []


def test_transformers_loads_smollm2(smollm2: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_tokenizer(smollm2, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    auto = AutoTokenizer.from_pretrained(tmp_path)
    assert (auto.bos_token_id, auto.eos_token_id, auto.pad_token_id, auto.unk_token_id) == (1, 2, 2, 0)
    assert len(auto) == 49152
    hf = HfTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in adversarial(300, special=["<|im_end|>"], seed=12):
        assert auto(text)["input_ids"] == hf.encode(text).ids
    chat = auto.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n")


@pytest.mark.parametrize("pre", ["llama-bpe", "gpt-2", "qwen2", "smollm", "gpt-4o", "deepseek-v3"])
def test_byte_level_round_trip(pre: str, tmp_path: Path) -> None:
    row = BY_NAME[pre]
    document = with_added(train_bpe(row.pre_tokenizer, vocab_size=600), ["<|bos|>", "<|end|>"], ["<think>", "  "])
    document["model"]["ignore_merges"] = row.ignore_merges
    document["normalizer"] = row.normalizer
    templates = {"default": "{{ m }}<|end|>", "tools": "{{ t }}"}
    config = {"bos_token": "<|bos|>", "eos_token": "<|end|>", "add_bos_token": True, "chat_template": templates}
    folder = write_folder(tmp_path / "a", {"tokenizer.json": document, "tokenizer_config.json": config})
    tok = round_trip(folder, 608, tmp_path / "b")
    assert tok.pre == pre
    assert tok.special == {"bos": 600, "eos": 601, "eot": 601}
    bare = replace(tok, flags={**tok.flags, "add_bos_token": False})
    write_tokenizer(bare, tmp_path / "c")
    before, after = (HfTokenizer.from_file(str(tmp_path / name / "tokenizer.json")) for name in ("a", "c"))
    strings = adversarial(500, special=["<|bos|>", "<think>", "<|end|>"], seed=4)
    assert disagreements(before, after, strings) == []
    assert [before.decode(before.encode(text).ids) for text in strings] == [
        after.decode(after.encode(text).ids) for text in strings
    ]
    with_bos = HfTokenizer.from_file(str(tmp_path / "b" / "tokenizer.json"))
    assert with_bos.encode("x").ids == [600, *before.encode("x").ids]


@pytest.mark.parametrize("legacy", [True, False])
def test_sentencepiece_round_trip(legacy: bool, tmp_path: Path) -> None:
    import sentencepiece

    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": "{{ m }}</s>"}
    added = {"added_tokens.json": {"<|extra|>": 900, "<think>": 901}}
    folder = write_folder(
        tmp_path / "a", {"tokenizer.model": train_sentencepiece(), "tokenizer_config.json": config} | added
    )
    first = round_trip(folder, 910, tmp_path / "b")
    tok = replace(first, flags={**first.flags, "add_bos_token": False} | ({} if legacy else {"legacy": False}))
    write_tokenizer(tok, tmp_path / "c")
    assert_same(read_tokenizer(tmp_path / "c", vocab_size=910, model_ids={}), tok)
    hf = HfTokenizer.from_file(str(tmp_path / "c" / "tokenizer.json"))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "a" / "tokenizer.model"))
    rebuilt = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "c" / "tokenizer.model"))
    strings = adversarial(500, seed=6)
    if not legacy:  # Metaspace, unlike SentencePiece, puts no ▁ before a text that starts with a space
        strings = [text for text in strings if not text.startswith((" ", "▁"))]
    plain = [text for text in strings if "\x00" not in text]
    ours = [hf.encode(text).ids for text in plain]
    assert ours == [pieces.encode(text) for text in plain]
    assert ours == [rebuilt.encode(text) for text in plain]
    with Llama(write_vocab_gguf(tmp_path / "v.gguf", tokenizer_to_metadata(tok)), vocab_only=True) as llama:
        assert llama.tokenize_many(strings) == [hf.encode(text).ids for text in strings]
        mixed = adversarial(200, special=["</s>", "<think>", "<|extra|>"], seed=7)
        if legacy:  # llama.cpp knows no other way
            assert llama.tokenize_many(mixed) == [hf.encode(text).ids for text in mixed]
    x = tok.tokens.index("▁x") if "▁x" in tok.tokens else None
    after_special = hf.encode("</s>x").ids
    assert (after_special[:1], after_special[1:]) == ([2], hf.encode("x").ids if legacy else [tok.tokens.index("x")])
    assert x is None or hf.encode("x").ids == [x]


def test_transformers_loads_sentencepiece(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    files = {"tokenizer.model": train_sentencepiece(), "tokenizer_config.json": config}
    tok = read_tokenizer(write_folder(tmp_path / "a", files), vocab_size=900, model_ids={})
    assert tok is not None
    write_tokenizer(tok, tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text('{"model_type": "llama"}')
    auto = AutoTokenizer.from_pretrained(tmp_path / "b")
    hf = HfTokenizer.from_file(str(tmp_path / "b" / "tokenizer.json"))
    for text in adversarial(200, seed=8):
        assert auto(text)["input_ids"] == hf.encode(text).ids
    ids = auto("Hello world")["input_ids"]
    assert ids[0] == auto.bos_token_id == 1  # llama.cpp adds it where nothing is said
    assert auto.decode(ids, skip_special_tokens=True) == "Hello world"


def test_a_hole_in_the_vocabulary_stays_a_hole(tmp_path: Path) -> None:
    document = train_bpe(BY_NAME["gpt-2"].pre_tokenizer, vocab_size=300)
    document["model"]["vocab"]["<x>"] = 303
    document["added_tokens"] = [{"id": 303, "content": "<x>"}]
    tok = round_trip(write_folder(tmp_path / "a", {"tokenizer.json": document}), 306, tmp_path / "b")
    assert tok.tokens[300:] == ("[PAD300]", "[PAD301]", "[PAD302]", "<x>", "[PAD304]", "[PAD305]")
    hf = HfTokenizer.from_file(str(tmp_path / "b" / "tokenizer.json"))
    assert hf.token_to_id("<x>") == 303
    assert hf.token_to_id("[PAD300]") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "rwkv"}, "a 'rwkv' tokenizer cannot be written"),
        ({"pre": "nobody"}, "tokenizer.ggml.pre: no pre-tokenizer called 'nobody'"),
        ({"merges": None}, "tokenizer.ggml.merges: byte-level BPE without merges"),
        ({"model": "llama"}, "tokenizer.ggml.scores: a SentencePiece vocabulary without scores"),
        ({"chat_templates": {"../x": "y"}}, "a chat template called '../x' cannot be a file's name"),
    ],
)
def test_errors(change: dict[str, object], message: str, tmp_path: Path) -> None:
    tok = Tokenizer("gpt2", "gpt-2", ("a", "b", "ab"), np.ones(3, np.int32), merges=("a b",))
    with pytest.raises(TokenizerError) as error:
        write_tokenizer(replace(tok, **change), tmp_path)  # type: ignore[arg-type]
    assert message in str(error.value)


@pytest.mark.parametrize("model", ["gpt2", "llama", "t5", "bert", "gemma4"])
@pytest.mark.parametrize(
    ("tokens", "ids", "text"),
    [
        (("<unk>", "a", "b", "a"), (1, 3), "a"),
        (("<unk>", "a", "b", "<unk>"), (0, 3), "<unk>"),
        (("<unk>", "[PAD3]", "b", "[PAD3]"), (1, 3), "[PAD3]"),  # the second only fills a row
    ],
)
def test_a_text_of_two_tokens(
    model: str, tokens: tuple[str, ...], ids: tuple[int, int], text: str, tmp_path: Path
) -> None:
    """An id would be lost, or the folder could not be read again."""
    types = np.array([TokenType.UNKNOWN, TokenType.NORMAL, TokenType.NORMAL, TokenType.UNUSED], np.int32)
    tok = Tokenizer(model, "gpt-2", tokens, types, np.zeros(4, np.float32), ("a b",), {"unk": 0})
    with pytest.raises(TokenizerError) as error:
        write_tokenizer(tok, tmp_path / "out")
    assert str(error.value).startswith(f"tokenizer.ggml.tokens: tokens {ids[0]} and {ids[1]} are both {text!r}, and")
    assert not (tmp_path / "out").exists()


def test_pieces_that_are_one_text_in_vocab_txt(tmp_path: Path) -> None:
    """GGUF's ▁un starts a word, un as a control token is that very text: BERT's vocabulary has un for both."""
    types = np.array([TokenType.CONTROL, TokenType.NORMAL, TokenType.CONTROL], np.int32)
    tok = Tokenizer("bert", None, ("[UNK]", "▁un", "un"), types, special={"unk": 0})
    with pytest.raises(TokenizerError, match="tokens 1 and 2 are both 'un'"):
        write_tokenizer(tok, tmp_path / "out")
