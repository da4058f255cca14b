"""tiktoken's files and tekken.json, alone in a folder: against transformers' own reading of them, and llama.cpp."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as HfTokenizer

from oracles.llama import Llama
from oracles.small_tokenizers import train_bpe, write_folder
from oracles.strings import adversarial
from oracles.vocab_gguf import write_vocab_gguf
from quantmill.formats.byte_alphabet import BYTE_OF
from quantmill.formats.errors import TokenizerError
from quantmill.formats.gguf.vocab import tokenizer_from_metadata, tokenizer_to_metadata
from quantmill.formats.hf.tokenizer.read import read_tokenizer
from quantmill.formats.hf.tokenizer.splitting.pre_tokenizers import BY_NAME
from quantmill.formats.hf.tokenizer.write import write_tokenizer
from quantmill.formats.ir import Tokenizer, TokenType

N = 700  # ranks
# As published: tokenization_kimi.py, tokenization_qwen.py and tokenization_hy.py.
_MARKED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
KIMI = rf"[\p{{Han}}]+|{_MARKED}*{_LOWER}+{_SHORT}?|{_MARKED}+{_LOWER}*{_SHORT}?|\p{{N}}{{1,3}}|{_SPACES}"
QWEN = rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_SPACES}"


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """Merges that cross word boundaries, so that every wrong boundary shows."""
    vocab = train_bpe(None, vocab_size=N)["model"]["vocab"]
    return {bytes(BYTE_OF[char] for char in text): number for text, number in vocab.items()}


def _lines(ranks: dict[bytes, int]) -> bytes:
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items())


def _tiktoken(ranks: dict[bytes, int], pattern: str, special: dict[int, str]) -> HfTokenizer:
    """transformers' reading, without tiktoken's function that only reads the file."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Converter(TikTokenConverter):
        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
            return ranks

    texts = dict.fromkeys(special[number] for number in sorted(special))
    tok: HfTokenizer = Converter("", pattern, extra_special_tokens=texts).converted()
    assert all(tok.token_to_id(text) == number for number, text in special.items())
    return tok


def _read(folder: Path, n: int, say: Callable[[str], object] | None = None) -> Tokenizer:
    tok = read_tokenizer(folder, vocab_size=n, model_ids={}, say=say)
    assert tok is not None
    return tok


def _assert_same_ids(tok: Tokenizer, original: HfTokenizer, strings: list[str], folder: Path) -> None:
    """Those of the original, of llama.cpp, and of what is written for Hugging Face."""
    wanted = [encoding.ids for encoding in original.encode_batch(strings, add_special_tokens=False)]
    metadata = tokenizer_to_metadata(tok)
    with Llama(write_vocab_gguf(folder / "v.gguf", metadata), vocab_only=True) as llama:
        theirs = llama.tokenize_many(strings)
    assert [text for text, a, b in zip(strings, wanted, theirs, strict=True) if a != b] == []
    again = tokenizer_from_metadata(metadata)
    assert again is not None
    write_tokenizer(again, folder / "written")
    written = HfTokenizer.from_file(str(folder / "written" / "tokenizer.json"))
    ours = [encoding.ids for encoding in written.encode_batch(strings, add_special_tokens=False)]
    assert [text for text, a, b in zip(strings, wanted, ours, strict=True) if a != b] == []
    read = _read(folder / "written", len(tok.tokens))
    for name in ("tokens", "merges", "special", "pre", "flags"):
        assert getattr(read, name) == getattr(tok, name), name
    assert (read.types == tok.types).all()


def _plain_letters(text: str) -> bool:
    """llama.cpp's code for Kimi and tekken sees no marks, and any letter beyond ASCII as upper and lower case."""
    return not any(ord(c) > 0x7F and unicodedata.category(c) in ("Lu", "Ll", "Lt", "Mn", "Mc", "Me") for c in text)


def test_kimi(ranks: dict[bytes, int], tmp_path: Path) -> None:
    named = {N: "[BOS]", N + 1: "[EOS]", N + 2: "<|im_end|>", N + 22: "<think>", N + 254: "[UNK]", N + 255: "[PAD]"}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    decoder = {str(i): {"content": text, **plain, "special": text != "<think>"} for i, text in named.items()}
    config = {
        **{"tokenizer_class": "TikTokenTokenizer", "added_tokens_decoder": decoder},
        **{"additional_special_tokens": ["<|im_end|>"], "bos_token": "[BOS]", "eos_token": "[EOS]"},
        **{"unk_token": "[UNK]", "pad_token": "[PAD]", "chat_template": "<|im_end|>"},
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
    }
    files = {"tiktoken.model": _lines(ranks), "tokenizer_config.json": config, "tokenization_kimi.py": "raise"}
    said: list[str] = []
    folder = write_folder(tmp_path / "a", {**files, "generation_config.json": {"eos_token_id": N + 2}})
    tok = _read(folder, N + 256 + 4, said.append)
    assert said == []
    assert (tok.model, tok.pre) == ("gpt2", "kimi-k2")
    assert tok.special == {"bos": N, "eos": N + 2, "unk": N + 254, "pad": N + 255, "eot": N + 2}
    assert tok.flags == {"add_bos_token": False, "add_eos_token": False}
    assert tok.tokens[N + 3] == f"<|reserved_token_{N + 3}|>"
    assert tok.tokens[N + 256] == f"[PAD{N + 256}]"
    assert (tok.types[N : N + 256] == TokenType.CONTROL).sum() == 255
    assert tok.types[N + 22] == TokenType.USER_DEFINED
    special = {i: named.get(i, f"<|reserved_token_{i}|>") for i in range(N, N + 256)}
    strings = adversarial(2000, special=[*named.values(), special[N + 9]], seed=61)
    strings = [text for text in strings if _plain_letters(text)]
    assert len(strings) > 500
    _assert_same_ids(tok, _tiktoken(ranks, KIMI, special), strings, tmp_path)


def test_special_tokens_of_the_class_beyond_the_embedding(ranks: dict[bytes, int], tmp_path: Path) -> None:
    """They are made whether a model has rows for them or not; those that a file declares are needed."""
    config = {"tokenizer_class": "TikTokenTokenizer", "added_tokens_decoder": {str(N + 9): {"content": "[EOS]"}}}
    folder = write_folder(tmp_path, {"tiktoken.model": _lines(ranks), "tokenizer_config.json": config})
    said: list[str] = []
    assert _read(folder, N + 10, said.append).tokens[N + 8 :] == (f"<|reserved_token_{N + 8}|>", "[EOS]")
    assert len(said) == 1
    assert f"left out the special tokens '<|reserved_token_{N + 10}|>', " in said[0]
    with pytest.raises(TokenizerError, match=rf"token {N + 9} \('\[EOS\]'\) is beyond the embedding's"):
        _read(folder, N + 4)


def test_qwen(ranks: dict[bytes, int], tmp_path: Path) -> None:
    files = {"qwen.tiktoken": _lines(ranks), "tokenizer_config.json": {"tokenizer_class": "QWenTokenizer"}}
    said: list[str] = []
    tok = _read(write_folder(tmp_path / "a", files), N + 210, said.append)
    assert [line.split(": ", 1)[1] for line in said] == [
        "qwen.tiktoken: text is normalized to NFC, but not by llama.cpp: there an accent that is a character of its own"
        " stays one"
    ]
    assert (tok.pre, tok.special) == ("qwen2", {"bos": N, "eos": N, "unk": N})
    special = dict(enumerate(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), N))
    special |= {N + 3 + i: f"<|extra_{i}|>" for i in range(205)}
    assert tok.tokens[N : N + 208] == tuple(special.values())
    strings = adversarial(2000, special=["<|im_end|>", "<|extra_204|>"], seed=62)
    strings = [unicodedata.normalize("NFC", text) for text in strings]
    _assert_same_ids(tok, _tiktoken(ranks, QWEN, special), strings, tmp_path)


def test_hunyuan(ranks: dict[bytes, int], tmp_path: Path) -> None:
    files = {"hy.tiktoken": _lines(ranks), "tokenizer_config.json": {"tokenizer_class": "HYTokenizer"}}
    tok = _read(write_folder(tmp_path / "a", files), N + 210)
    assert (tok.pre, tok.special) == ("hunyuan", {"bos": N + 2, "eos": N + 3, "pad": N + 4})
    special = dict(enumerate(("<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"), N))
    special |= {N + 5 + i: f"<|extra_{i}|>" for i in range(205)}
    assert tok.tokens[N:] == tuple(special.values())
    strings = [unicodedata.normalize("NFC", text) for text in adversarial(700, special=["<|bos|>"], seed=64)]
    _assert_same_ids(tok, _tiktoken(ranks, QWEN, special), strings, tmp_path)


def _tekken(ranks: dict[bytes, int], **changes: Any) -> dict[str, Any]:
    pattern = BY_NAME["tekken"].steps[0]["pattern"]["Regex"]  # type: ignore[index]
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for token, rank in ranks.items()
    ]
    special = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>", "[THINK]")
    return {
        "config": {
            **{"pattern": pattern, "num_vocab_tokens": len(vocab) + 50, "version": "v13"},
            **{"default_vocab_size": 10 + N, "default_num_special_tokens": 10},
        },
        "vocab": [*vocab, {"rank": len(vocab), "token_bytes": "bm90IHRoZXJl", "token_str": "not there"}],
        "special_tokens": [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(special)],
        **changes,
    }


def test_tekken(ranks: dict[bytes, int], tmp_path: Path) -> None:
    from transformers.integrations.mistral.tokenizer import MistralConverter

    # a tokenizer.model of an older version is not read
    folder = write_folder(tmp_path / "a", {"tekken.json": _tekken(ranks), "tokenizer.model": b"?"})
    tok = _read(folder, N + 12)
    assert (tok.model, tok.pre) == ("gpt2", "tekken")
    assert tok.special == {"bos": 1, "eos": 2, "unk": 0, "pad": 5}
    assert tok.flags == {"add_bos_token": True, "add_eos_token": False}
    assert tok.tokens[5:10] == ("<pad>", "[THINK]", "<SPECIAL_7>", "<SPECIAL_8>", "<SPECIAL_9>")
    assert (tok.types == TokenType.CONTROL).sum() == 10
    assert tok.tokens[N + 10 :] == (f"[PAD{N + 10}]", f"[PAD{N + 11}]")
    strings = adversarial(2000, special=["<s>", "[INST]", "[THINK]"], seed=63)
    strings = [text for text in strings if _plain_letters(text)]
    assert len(strings) > 500
    original = MistralConverter(str(folder / "tekken.json")).converted()
    bos = _without_bos(tok)
    _assert_same_ids(bos, original, strings, tmp_path)


def _without_bos(tok: Tokenizer) -> Tokenizer:
    return Tokenizer(**{**vars(tok), "flags": {**tok.flags, "add_bos_token": False}})


def test_tekken_of_before_its_special_tokens_were_listed(ranks: dict[bytes, int], tmp_path: Path) -> None:
    document = _tekken(ranks, special_tokens=None)
    document["config"] |= {"default_vocab_size": N + 30, "default_num_special_tokens": 30}
    tok = _read(write_folder(tmp_path, {"tekken.json": document}), N + 30)
    assert tok.tokens[11:15] == ("<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]")
    assert tok.tokens[19:21] == ("[TOOL_CONTENT]", "<SPECIAL_20>")


def test_a_token_that_no_merges_make(ranks: dict[bytes, int], tmp_path: Path) -> None:
    """tiktoken finds it as a word; so does llama.cpp with tekken's name, but not with Kimi's."""
    ranks = {**ranks, b"\xf0\xf1\xf2": N}
    files = {"tiktoken.model": _lines(ranks), "tokenizer_config.json": {"tokenizer_class": "TikTokenTokenizer"}}
    said: list[str] = []
    _read(write_folder(tmp_path, files), N + 257, said.append)
    assert [line.split(": ", 1)[1] for line in said] == [
        r"tiktoken.model: no merges make 1 of its tokens, such as b'\xf0\xf1\xf2': llama.cpp does not find these"
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("tiktoken.model", b"AA== 0\nAQ==\n", "tiktoken.model: line 2: not a token in base64 and its rank"),
        ("tiktoken.model", b"A!== 0\n", "tiktoken.model: line 1: not a token in base64 and its rank"),
        ("tiktoken.model", b"AA== x\n", "tiktoken.model: line 1: not a token in base64 and its rank"),
        ("tiktoken.model", b"AA== 0\nAA== 1\n", "two tokens of the same bytes, or ranks that are not 0, 1, 2..."),
        ("tiktoken.model", b"AA== 1\n", "two tokens of the same bytes, or ranks that are not 0, 1, 2..."),
        ("tiktoken.model", b"AA== 0\n", "tiktoken.model: no token for the byte 0x01"),
        ("tekken.json", {}, "tekken.json: config: is not what tokenizer files hold here"),
        ("tekken.json", {"config": {}}, "tekken.json: config.pattern: is not what tokenizer files hold here"),
        ("tekken.json", {"config": {"pattern": "a"}, "vocab": [{}]}, "tekken.json: vocab: is not what"),
        (
            "tekken.json",
            {"config": {"pattern": "a"}, "vocab": [], "special_tokens": [{"rank": 1, "token_str": "x"}]},
            "tekken.json: special_tokens: not the ranks from 0 to 0",
        ),
    ],
)
def test_damaged_files(name: str, data: Any, message: str, tmp_path: Path) -> None:
    config = {"tokenizer_class": "TikTokenTokenizer"}
    folder = write_folder(tmp_path, {name: data, "tokenizer_config.json": config})
    with pytest.raises(TokenizerError) as error:
        _read(folder, 300)
    assert message in str(error.value)


def test_a_class_or_a_pattern_that_is_unknown(ranks: dict[bytes, int], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", {"tiktoken.model": _lines(ranks)})
    with pytest.raises(TokenizerError, match=r"the class None is unknown.*--pre NAME"):
        _read(folder, N)
    tok = read_tokenizer(folder, vocab_size=N, model_ids={}, pre="gpt-4o")
    assert tok is not None
    assert tok.pre == "gpt-4o"
    document = _tekken(ranks)
    document["config"]["pattern"] = "a|[^a]+"
    with pytest.raises(TokenizerError, match=r"tekken.json: pre_tokenizer: llama.cpp has no pre-tokenizer that splits"):
        _read(write_folder(tmp_path / "b", {"tekken.json": document}), N + 10)
