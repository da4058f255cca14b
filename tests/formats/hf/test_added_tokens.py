"""Added tokens that contradict each other get the ids, the types and the flags that transformers gives them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from oracles.small_tokenizers import sentencepiece_json, train_sentencepiece, write_folder
from quantmill.formats.errors import FormatError, TokenizerError
from quantmill.formats.hf.tokenizer.files.added_tokens import AddedToken
from quantmill.formats.hf.tokenizer.read import read_tokenizer
from quantmill.formats.ir import Tokenizer, TokenType

Json = dict[str, Any]
ROWS = 320
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_PAIRS = ("ab", "cd", "ef", "gh", "ij", "kl", "mn", "op")  # tokens 256 to 263
_FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}


def _vocab() -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel

    return {text: number for number, text in enumerate([*sorted(ByteLevel.alphabet()), *_PAIRS])}


def _token(text: str, special: bool = False, **flags: bool) -> Json:
    return {
        **{"content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False},
        **{"special": special, **flags},
    }


def _document(*added: Json, vocab: dict[str, int] | None = None) -> Json:
    return {
        "version": "1.0",
        "added_tokens": [{"id": 264 + i, **token} for i, token in enumerate(added)],
        "pre_tokenizer": _BYTE_LEVEL,
        "decoder": _BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocab or _vocab(), "merges": [list(pair) for pair in _PAIRS]},
    }


_TWO = _document(_token("<x1>"), _token("<x2>"))
_SLOW = {
    "vocab.json": {**_vocab(), "<|endoftext|>": 264},
    "merges.txt": "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in _PAIRS) + "\n",
    "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"},
}


def _with_decoder(decoder: Json, document: Json = _TWO, **config: Any) -> Json:
    return {"tokenizer.json": document, "tokenizer_config.json": {**_FAST, **config, "added_tokens_decoder": decoder}}


def _read(folder: Path, **options: Any) -> tuple[Tokenizer, list[str]]:
    lines: list[str] = []
    tok = read_tokenizer(folder, **{"vocab_size": ROWS, "model_ids": {}, **options}, say=lines.append)
    assert tok is not None
    return tok, [line.removeprefix(f"{folder}: ") for line in lines]


def _assert_as_in_transformers(tok: Tokenizer, folder: Path) -> None:
    """Every token of transformers' tokenizer has its id, text and type here, and there are no others."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    added, expected = theirs.added_tokens_decoder, {}
    for text, number in theirs.get_vocab().items():
        expected[number] = (text, TokenType.NORMAL)
        if (found := added.get(number)) is not None:
            token = AddedToken(text, found.special)
            expected[number] = (token.stored_text, token.type)
    rows = {number: (f"[PAD{number}]", TokenType.UNUSED) for number in range(ROWS)} | expected
    ours = {
        number: (text, TokenType(kind)) for number, (text, kind) in enumerate(zip(tok.tokens, tok.types, strict=True))
    }
    assert ours == rows
    assert tok.flags.get("special_rstrip", False) == any(token.rstrip for token in added.values())


CASES: dict[str, tuple[Json, dict[str, int], str]] = {
    # name: files, text -> id of what was added, a part of the line that is said
    "swapped": (
        {"tokenizer.json": _TWO, "added_tokens.json": {"<x1>": 265, "<x2>": 264}},
        {"<x1>": 264, "<x2>": 265},
        "added_tokens.json: 2 added tokens have the vocabulary's id or the next free one, as in transformers, not the"
        " one in this file: '<x1>' is 264, not 265",
    ),
    "another text for an id": (
        {"tokenizer.json": _TWO, "added_tokens.json": {"[PAD]": 264}},
        {"<x1>": 264, "<x2>": 265},
        "added_tokens.json: '[PAD]' (id 264) left out, as in transformers: the id is another token's",
    ),
    "the same, named": (
        {"tokenizer.json": _TWO, "added_tokens.json": {"[PAD]": 264}, "tokenizer_config.json": {"unk_token": "[PAD]"}},
        {"<x1>": 264, "<x2>": 265, "[PAD]": 266},
        "'[PAD]' is 266, not 264",
    ),
    "the id of a base token": (
        {"tokenizer.json": _TWO, "added_tokens.json": {"<x3>": 100}},
        {"<x1>": 264, "<x2>": 265, "<x3>": 266},
        "'<x3>' is 266, not 100",
    ),
    "moved": (
        {"tokenizer.json": _TWO, "added_tokens.json": {"<x1>": 267}},
        {"<x1>": 264, "<x2>": 265},
        "'<x1>' is 264, not 267",
    ),
    "a base token": ({"tokenizer.json": _TWO, "added_tokens.json": {"ab": 300}}, {"ab": 256}, "'ab' is 256, not 300"),
    "agreeing": ({"tokenizer.json": _TWO, "added_tokens.json": {"<x2>": 265}}, {"<x1>": 264, "<x2>": 265}, ""),
    "decoder with a gap": (
        _with_decoder({"264": _token("<x1>"), "265": _token("<x2>"), "270": _token("<x3>")}),
        {"<x1>": 264, "<x2>": 265, "<x3>": 266},
        "tokenizer_config.json: 1 added token has the vocabulary's id or the next free one",
    ),
    "decoder with another text": (
        _with_decoder({"264": _token("<y>"), "265": _token("<x2>")}),
        {"<x1>": 264, "<x2>": 265, "<y>": 266},
        "'<y>' is 266, not 264",
    ),
    "decoder, and a file that nobody reads": (
        _with_decoder({"264": _token("<x1>"), "265": _token("<x2>")}) | {"added_tokens.json": {"<x3>": 266}},
        {"<x1>": 264, "<x2>": 265},
        "added_tokens.json: '<x3>' (id 266) not taken from it, as in transformers, since tokenizer_config.json has",
    ),
    "decoder of other flags": (
        _with_decoder({"264": _token("<x1>", True), "265": _token("<x2>", rstrip=True)}),
        {"<x1>": 264, "<x2>": 265},
        "",
    ),
    "decoder that takes special back": (
        _with_decoder({"264": _token("<x1>")}, _document(_token("<x1>", True))),
        {"<x1>": 264},
        "",
    ),
    "list out of order": (
        {"tokenizer.json": {**_TWO, "added_tokens": _TWO["added_tokens"][::-1]}, "tokenizer_config.json": _FAST},
        {"<x2>": 264, "<x1>": 265},
        "tokenizer.json: 2 added tokens have the id that the tokenizers library gives, not the one in its list",
    ),
    "list with a gap": (
        {"tokenizer.json": {**_TWO, "added_tokens": [{"id": 270, **_token("<x1>")}]}},
        {"<x1>": 264},
        "'<x1>' is 264, not 270",
    ),
    "list with two texts for an id": (
        {"tokenizer.json": {**_TWO, "added_tokens": [{"id": 264, **_token(text)} for text in ("<x1>", "<x2>")]}},
        {"<x1>": 264, "<x2>": 265},
        "'<x2>' is 265, not 264",
    ),
    "a text twice, with other flags": (
        {"tokenizer.json": _document(_token("<x1>"), _token("<x1>", lstrip=True, rstrip=True), _token("<x2>"))},
        {"<x1>": 264, "<x2>": 265},
        "2 added tokens have the id that",
    ),
    "named, in no vocabulary": (
        {"tokenizer.json": _TWO, "tokenizer_config.json": {**_FAST, "pad_token": "[PAD]", "image_token": "<img>"}},
        {"<x1>": 264, "<x2>": 265, "[PAD]": 266, "<img>": 267},
        "",
    ),
    "named, a base token": ({"tokenizer.json": _TWO, "tokenizer_config.json": {"pad_token": "ab"}}, {"ab": 256}, ""),
    "named by two files": (
        {
            "tokenizer.json": _TWO,
            "tokenizer_config.json": {"eos_token": "<x1>", "extra_special_tokens": ["<y>"]},
            "special_tokens_map.json": {"eos_token": "<x2>", "additional_special_tokens": ["<z>"]},
        },
        {"<x1>": 264, "<x2>": 265, "<y>": 266},
        "tokenizer_config.json: its eos_token '<x1>' is not taken, as in transformers: '<x2>' is",
    ),
    "named by a map that nobody reads": (
        _with_decoder({"264": _token("<x1>"), "265": _token("<x2>")}, eos_token="<x1>")
        | {"special_tokens_map.json": {"eos_token": "<x2>", "pad_token": "[PAD]"}},
        {"<x1>": 264, "<x2>": 265},
        "special_tokens_map.json: its pad_token '[PAD]' is not taken, as in transformers: None is",
    ),
    "vocab.json": (
        _SLOW | {"added_tokens.json": {"<x3>": 100, "<x1>": 270, "ab": 266}},
        {"<x3>": 265, "<x1>": 266, "ab": 256},
        "3 added tokens have the vocabulary's id or the next free one",
    ),
    "vocab.json, named": (
        _SLOW | {"special_tokens_map.json": {"pad_token": "[PAD]", "eos_token": "ab"}},
        {"[PAD]": 265, "ab": 256, "<|endoftext|>": 264},
        "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_ids_as_in_transformers(name: str, tmp_path: Path) -> None:
    files, ids, said = CASES[name]
    folder = write_folder(tmp_path, files)
    tok, lines = _read(folder)
    assert {text: tok.tokens.index(text) for text in ids} == ids
    assert bool(lines) == bool(said)
    assert said in "\n".join(lines)
    _assert_as_in_transformers(tok, folder)


def _random_files(rng: random.Random) -> Json:
    texts, ids = ("<x1>", "<x2>", "<x3>", "ab", "cd", "[PAD]", "a", ""), (100, 257, 264, 265, 266, 267, 270, 280)

    def token(text: str) -> Json:
        return _token(text, *(rng.random() < 0.4,), lstrip=rng.random() < 0.2, rstrip=rng.random() < 0.2)

    files: Json = {}
    config: Json = {}
    if rng.random() < 0.7:
        added = [token(rng.choice(texts)) for _ in range(rng.randrange(4))]
        files["tokenizer.json"] = _document(*added)
        if rng.random() < 0.4:
            for one in files["tokenizer.json"]["added_tokens"]:
                one["id"] = rng.choice(ids)
        config["tokenizer_class"] = rng.choice(("PreTrainedTokenizerFast", None))
    else:
        files |= _SLOW
        config["tokenizer_class"] = "GPT2Tokenizer"
    if rng.random() < 0.4:
        config["added_tokens_decoder"] = {
            str(rng.choice(ids)): token(rng.choice(texts)) for _ in range(rng.randrange(4))
        }
    if rng.random() < 0.4:
        files["added_tokens.json"] = {rng.choice(texts): rng.choice(ids) for _ in range(rng.randrange(1, 4))}
    mapped: Json = {}
    for where in (config, mapped):
        for key in ("pad_token", "eos_token", "image_token"):
            if rng.random() < 0.3:
                where[key] = rng.choice(texts)
        if rng.random() < 0.3:
            key = rng.choice(("additional_special_tokens", "extra_special_tokens"))
            where[key] = [rng.choice(texts) for _ in range(rng.randrange(3))]
    return files | {"tokenizer_config.json": config, "special_tokens_map.json": mapped}


@pytest.mark.parametrize("seed", range(40))
def test_any_contradiction_as_in_transformers(seed: int, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, _random_files(random.Random(seed)))
    _assert_as_in_transformers(_read(folder)[0], folder)


def test_vocab_txt(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    folder = write_folder(
        tmp_path,
        {
            "vocab.txt": "\n".join([*special, *"abc"]) + "\n",
            "added_tokens.json": {"<x>": 3, "<y>": 20, "b": 8},
            "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "pad_token": "[UNK]"},
        },
    )
    tok, lines = _read(folder, vocab_size=12)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert {text: theirs.get_vocab()[text] for text in ("<x>", "b", "<y>")} == {"<x>": 8, "b": 6, "<y>": 9}
    assert tok.tokens[5:] == ("▁a", "b", "▁c", "<x>", "<y>", "[PAD10]", "[PAD11]")
    assert [number for number, kind in enumerate(tok.types) if kind == TokenType.CONTROL] == [1, 2, 3, 4]
    assert "'<x>' is 8, not 3" in lines[0]


def test_a_sentencepiece_model_alone_is_overwritten_with_a_word(tmp_path: Path) -> None:
    """As in llama.cpp's converter. transformers 5 does so with some classes, and numbers on with others."""
    files = {
        "tokenizer.model": train_sentencepiece(),
        "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"},
        "added_tokens.json": {"<x>": 300, "<y>": 905, "▁the": 906},
    }
    folder = write_folder(tmp_path, files)
    before, _ = _read(write_folder(tmp_path / "plain", {"tokenizer.model": files["tokenizer.model"]}), vocab_size=910)
    tok, lines = _read(folder, vocab_size=910)
    the = before.tokens.index("▁the")
    assert (tok.tokens[300], tok.tokens[the], tok.tokens[905], tok.tokens[906]) == ("<x>", " the", "<y>", "[PAD906]")
    assert lines == [
        "added_tokens.json: 1 added token has the vocabulary's id or the next free one, as in transformers, not the one"
        f" in this file: '▁the' is {the}, not 906",
        "added_tokens.json: 2 added tokens have the id in this file, as in llama.cpp's converter: '<x>' is 300, in"
        f" place of {before.tokens[300]!r}; transformers 5 may make it 900",
    ]


@pytest.mark.parametrize("decoder", [True, False])
def test_classes_that_take_only_the_vocabulary(decoder: bool, tmp_path: Path) -> None:
    """transformers 5's Qwen2Tokenizer would number them by the other file."""
    files: Json = {"tokenizer.json": _TWO, "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer"}}
    if decoder:
        files["tokenizer_config.json"]["added_tokens_decoder"] = {"264": _token("<x2>"), "265": _token("<x1>")}
    else:
        files["added_tokens.json"] = {"<x3>": 100}
    with pytest.raises(TokenizerError, match=r"'<x1>' is token 264 by tokenizer\.json, but 265 with") as error:
        _read(write_folder(tmp_path, files))
    assert "Qwen2Tokenizer" in str(error.value)
    files["tokenizer_config.json"]["added_tokens_decoder"] = {"264": _token("<x1>")}
    tok, lines = _read(write_folder(tmp_path, files))
    assert tok.tokens[265] == "<x2>"
    assert "its added tokens '<x2>' are kept" in lines[0]


def test_ids_that_gaps_make_ambiguous(tmp_path: Path) -> None:
    vocab = {text: number + (number > 100) for text, number in _vocab().items()}  # up to 264, which is the next
    folder = write_folder(tmp_path, {"tokenizer.json": _document(_token("<x1>"), vocab=vocab)})
    with pytest.raises(TokenizerError, match="'<x1>' gets the id 264, the next after 264 texts, which is 'op'"):
        _read(folder)


def test_tokens_beyond_the_embedding(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"tokenizer.json": _TWO, "tokenizer_config.json": {"pad_token": "[PAD]"}})
    tok, lines = _read(folder, vocab_size=266)
    assert lines == [
        "left out the special tokens '[PAD]', which are named but in no vocabulary: the embedding has 266 rows, and"
        " transformers would number them from 266 on"
    ]
    assert tok.tokens[264:] == ("<x1>", "<x2>")
    with pytest.raises(FormatError, match=r"token 265 \('<x2>'\) is beyond .* convert --drop-extra-tokens"):
        _read(folder, vocab_size=262)
    tok, lines = _read(folder, vocab_size=262, drop_extra_tokens=True)
    assert (
        lines[1] == "left out tokens beyond the embedding's 262 rows: 262 ('mn'), 263 ('op'), 264 ('<x1>') and 1 more"
    )
    assert len(tok.tokens) == 262
    assert tok.merges == ("a b", "c d", "e f", "g h", "i j", "k l")  # none makes a token that is gone


def test_a_tokenizer_json_that_contradicts_its_model_file(tmp_path: Path) -> None:
    """transformers runs tokenizer.json, whatever lies beside it."""
    data = train_sentencepiece()
    document = sentencepiece_json(data)
    files = {"tokenizer.json": document, "tokenizer.model": data}
    tok, lines = _read(write_folder(tmp_path / "same", files), vocab_size=900)
    assert lines == []
    vocab = document["model"]["vocab"]
    piece = next(text for text, number in vocab.items() if number == 880)
    vocab["<other>"] = vocab.pop(piece)
    other, lines = _read(write_folder(tmp_path / "other", files), vocab_size=900)
    assert lines == [f"tokenizer.json is read, not tokenizer.model: token 880 is '<other>' there, {piece!r} here"]
    assert (tok.tokens[880], other.tokens[880]) == (piece, "<other>")
