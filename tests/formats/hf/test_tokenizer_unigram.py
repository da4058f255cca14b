"""Unigram: both ways, against sentencepiece, tokenizers and llama.cpp, on vocabularies trained here."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import normalizers

from oracles.charsmap import Charsmap
from oracles.llama import Llama
from oracles.small_tokenizers import train_unigram, write_folder
from oracles.strings import adversarial
from oracles.vocab_gguf import write_vocab_gguf
from quantmill.formats.errors import TokenizerError
from quantmill.formats.gguf.vocab import tokenizer_from_metadata, tokenizer_to_metadata
from quantmill.formats.hf.tokenizer.kinds.unigram import normalize_spaces
from quantmill.formats.hf.tokenizer.read import read_tokenizer
from quantmill.formats.hf.tokenizer.write import write_tokenizer
from quantmill.formats.ir import Tokenizer, TokenType

T5 = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
XLMR = {"tokenizer_class": "XLMRobertaTokenizer", "bos_token": "<s>", "cls_token": "<s>", "sep_token": "</s>"}
XLMR |= {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}


def _proto(data: bytes) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(data)


def _read(folder: Path, n: int, pre: str | None = None) -> Tokenizer:
    tok = read_tokenizer(folder, vocab_size=n, model_ids={}, pre=pre)
    assert tok is not None
    return tok


def _json(vocab: list[tuple[str, float]], unk: int, charsmap: bytes | None, special: list[int]) -> dict[str, Any]:
    """tokenizer.json as transformers 4 published T5's and XLM-RoBERTa's."""
    meta = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    added = [{"id": i, "content": vocab[i][0], "special": True, "lstrip": vocab[i][0] == "<mask>"} for i in special]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    table = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap or b"").decode()}
    return {
        "version": "1.0",
        "added_tokens": [{**plain, **token} for token in added],
        "normalizer": table if charsmap else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, meta]},
        "decoder": meta,
        "post_processor": None,
        "model": {"type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": False},
    }


def assert_same(a: Tokenizer, b: Tokenizer) -> None:
    np.testing.assert_array_equal(a.types, b.types)
    assert a.scores is not None
    assert b.scores is not None
    np.testing.assert_array_equal(a.scores, b.scores)
    for name in ("model", "pre", "tokens", "special", "flags", "precompiled_charsmap"):
        assert getattr(a, name) == getattr(b, name), name


def explained(text: str, tok: Tokenizer) -> bool:
    """Whether tokenizers and the table disagree on a text (see oracles/charsmap.py); llama.cpp follows the table."""
    assert tok.precompiled_charsmap is not None
    table = Charsmap(tok.precompiled_charsmap)
    by_library = normalizers.Precompiled(tok.precompiled_charsmap)
    added = re.compile("|".join(re.escape(tok.tokens[i]) for i in np.flatnonzero(np.isin(tok.types, (2, 3, 4)))))
    return any(by_library.normalize_str(part) != table.normalize(part) for part in added.split(text))


def unlike_published(text: str) -> bool:
    """T5 and XLM-RoBERTa split at U+0085, too, which the table does not make a space, and do not double a ▁."""
    return "\x85" in text or "▁" in text


def compare(tok: Tokenizer, hf: HfTokenizer, path: Path, strings: list[str]) -> None:
    """llama.cpp and ``hf`` tokenize equally; the strings that the tokenizers library normalizes otherwise are few."""
    with Llama(write_vocab_gguf(path, tokenizer_to_metadata(tok)), vocab_only=True) as llama:
        theirs = llama.tokenize_many(strings, add_special=True)
    ours = [encoding.ids for encoding in hf.encode_batch(strings)]
    different = [text for text, a, b in zip(strings, ours, theirs, strict=True) if a != b]
    assert [text for text in different if not explained(text, tok)] == []
    assert len(different) < len(strings) / 500


def _there_and_back(tok: Tokenizer, folder: Path) -> HfTokenizer:
    again = tokenizer_from_metadata(tokenizer_to_metadata(tok))
    assert again is not None
    assert_same(again, tok)
    write_tokenizer(again, folder)
    assert_same(_read(folder, len(tok.tokens)), tok)
    return HfTokenizer.from_file(str(folder / "tokenizer.json"))


def test_t5_by_json_and_by_model(tmp_path: Path) -> None:
    import sentencepiece

    data = train_unigram()
    proto = _proto(data)
    vocab = [(piece.piece, piece.score) for piece in proto.pieces]
    vocab += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(10))]
    special = [0, 1, 2, *range(900, 910)]
    document = _json(vocab, 2, proto.normalizer_spec.precompiled_charsmap, special)
    eos = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    sequences = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    document["post_processor"] = {
        **{"type": "TemplateProcessing", "single": [sequences[0], eos], "pair": [sequences[0], eos, sequences[1], eos]},
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
    }
    by_json = _read(write_folder(tmp_path / "a", {"tokenizer.json": document, "tokenizer_config.json": T5}), 912)
    files = {"spiece.model": data, "tokenizer_config.json": {**T5, "extra_ids": 10}}
    by_model = _read(write_folder(tmp_path / "b", files), 912)
    assert by_json.tokens == by_model.tokens
    np.testing.assert_array_equal(by_json.types, by_model.types)
    np.testing.assert_array_equal(by_json.scores, by_model.scores)
    assert by_json.precompiled_charsmap == by_model.precompiled_charsmap
    assert by_json.special == by_model.special == {"eos": 1, "unk": 2, "pad": 0}
    assert by_json.flags == by_model.flags
    assert by_model.flags == {
        **{"add_space_prefix": True, "remove_extra_whitespaces": True},
        **{"add_bos_token": False, "add_eos_token": True, "add_sep_token": False},
    }
    assert by_json.types[:4].tolist() == [3, 3, 2, 1]
    assert by_json.types[-3:].tolist() == [TokenType.CONTROL] + [TokenType.UNUSED] * 2

    hf = _there_and_back(by_json, tmp_path / "c")
    published = HfTokenizer.from_file(str(tmp_path / "a" / "tokenizer.json"))
    strings = adversarial(2000, special=["</s>", "<extra_id_3>", "<pad>"], seed=41)
    compare(by_json, hf, tmp_path / "v.gguf", strings)
    spaces = [text for text in strings if not unlike_published(text)]
    assert [t for t in spaces if published.encode(t).ids != hf.encode(t).ids] == []
    assert hf.decode(hf.encode("Hello world").ids) == "Hello world"
    assert hf.encode("x", "y").ids == published.encode("x", "y").ids
    rebuilt = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "c" / "tokenizer.model"))
    pieces = sentencepiece.SentencePieceProcessor(model_proto=data)
    plain = adversarial(500, seed=42)
    assert [rebuilt.encode(text) for text in plain] == [pieces.encode(text) for text in plain]


def test_xlm_roberta_by_json_and_by_model(tmp_path: Path) -> None:
    data = train_unigram(pad_id=-1, unk_id=0, bos_id=1, eos_id=2)
    proto = _proto(data)
    normal = [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *normal, ("<mask>", 0.0)]
    document = _json(vocab, 3, proto.normalizer_spec.precompiled_charsmap, [0, 1, 2, 3, 901])
    document["post_processor"] = {
        **{"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]},
        **{"trim_offsets": True, "add_prefix_space": True},
    }
    by_json = _read(write_folder(tmp_path / "a", {"tokenizer.json": document, "tokenizer_config.json": XLMR}), 902)
    by_model = _read(
        write_folder(tmp_path / "b", {"sentencepiece.bpe.model": data, "tokenizer_config.json": XLMR}), 902
    )
    assert_same(by_json, by_model)
    assert by_json.special == {"bos": 0, "eos": 2, "unk": 3, "sep": 2, "pad": 1, "mask": 901}
    assert by_json.flags == {
        **{"add_space_prefix": True, "remove_extra_whitespaces": True, "mask_lstrip": True},
        **{"add_bos_token": True, "add_eos_token": True, "add_sep_token": True},
    }
    hf = _there_and_back(by_json, tmp_path / "c")
    published = HfTokenizer.from_file(str(tmp_path / "a" / "tokenizer.json"))
    strings = adversarial(2000, special=["</s>", "<s>"], seed=43)
    masks = ["a <mask> b", "<mask>", " <mask>  <mask>"]  # the spaces before it are dropped anyway
    compare(by_json, hf, tmp_path / "v.gguf", [*strings, *masks])
    spaces = [text for text in [*strings, *masks] if not unlike_published(text)]
    assert [t for t in spaces if published.encode(t).ids != hf.encode(t).ids] == []
    assert published.encode("x", "y").ids == hf.encode("x", "y").ids


def test_byte_fallback_is_hugging_face_s_alone(tmp_path: Path) -> None:
    data = train_unigram(byte_fallback=True)
    tok = _read(
        write_folder(tmp_path / "a", {"spiece.model": data, "tokenizer_config.json": {**T5, "extra_ids": 0}}), 900
    )
    assert (tok.types == TokenType.BYTE).sum() == 256
    hf = _there_and_back(tok, tmp_path / "b")
    strings = adversarial(1000, seed=44)
    with Llama(write_vocab_gguf(tmp_path / "v.gguf", tokenizer_to_metadata(tok)), vocab_only=True) as llama:
        theirs = llama.tokenize_many(strings)
    different = 0
    for text, there in zip(strings, theirs, strict=True):
        here: list[int] = []
        for number in hf.encode(text, add_special_tokens=False).ids:
            unknown = tok.types[number] == TokenType.BYTE
            if not unknown or here[-1:] != [2]:  # llama.cpp writes one <unk> for a run of unknown characters
                here.append(2 if unknown else number)
            different += unknown
        assert here == there, text
    assert different > 100


@pytest.mark.parametrize("prefix", [True, False])
def test_spaces_kept(prefix: bool, tmp_path: Path) -> None:
    options = {"remove_extra_whitespaces": False, "add_dummy_prefix": prefix, "normalization_rule_name": "identity"}
    data = train_unigram(**options)
    tok = _read(write_folder(tmp_path / "a", {"spiece.model": data, "tokenizer_config.json": {"extra_ids": 0}}), 900)
    assert tok.precompiled_charsmap is None
    assert (tok.flags["add_space_prefix"], tok.flags["remove_extra_whitespaces"]) == (prefix, False)
    hf = _there_and_back(tok, tmp_path / "b")
    strings = [
        text for text in adversarial(1000, seed=45) if text.strip(" ")
    ]  # of spaces alone llama.cpp keeps n, not n+1
    with Llama(write_vocab_gguf(tmp_path / "v.gguf", tokenizer_to_metadata(tok)), vocab_only=True) as llama:
        theirs = llama.tokenize_many(strings)
    ours = [encoding.ids for encoding in hf.encode_batch(strings, add_special_tokens=False)]
    assert [text for text, a, b in zip(strings, ours, theirs, strict=True) if a != b] == []


@pytest.mark.parametrize(
    ("name", "file"), [("CamembertTokenizer", "sentencepiece.bpe.model"), ("PegasusTokenizer", "spiece.model")]
)
def test_a_class_that_numbers_pieces_its_own_way(name: str, file: str, tmp_path: Path) -> None:
    files = {file: train_unigram(), "tokenizer_config.json": {"tokenizer_class": name}}
    with pytest.raises(TokenizerError, match=f"how {name} numbers its pieces is in its code"):
        _read(write_folder(tmp_path, files), 900)


@pytest.mark.parametrize("content", ["▁", " "])
@pytest.mark.parametrize("strips", [True, False])
def test_other_published_forms(content: str, strips: bool, tmp_path: Path) -> None:
    proto = _proto(train_unigram())
    vocab = [(piece.piece, piece.score) for piece in proto.pieces]
    document = _json(vocab, 2, proto.normalizer_spec.precompiled_charsmap, [0, 1, 2])
    strip = [{"type": "Strip", "strip_left": False, "strip_right": True}] if strips else []
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": content}
    document["normalizer"] = {"type": "Sequence", "normalizers": [document["normalizer"], *strip, spaces]}
    document["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    tok = _read(write_folder(tmp_path / "a", {"tokenizer.json": document, "tokenizer_config.json": T5}), 900)
    assert (tok.flags["add_space_prefix"], tok.flags["remove_extra_whitespaces"]) == (True, True)
    published, hf = HfTokenizer.from_file(str(tmp_path / "a" / "tokenizer.json")), _there_and_back(tok, tmp_path / "b")
    strings = [text for text in adversarial(1000, seed=46) if not unlike_published(text)]
    if not strips:
        strings = [
            text for text in strings if not Charsmap(tok.precompiled_charsmap or b"").normalize(text).endswith(" ")
        ]
    assert [t for t in strings if published.encode(t).ids != hf.encode(t).ids] == []


@pytest.mark.parametrize(
    ("text", "merged", "prefixed", "plain"),
    [
        ("", "", "", ""),
        ("a b", "▁a▁b", "▁a▁b", "a▁b"),
        (" a  b ", "▁a▁b", "▁▁a▁▁b▁", "▁a▁▁b▁"),
        ("  ", "", "▁▁", "▁▁"),
        ("▁a", "▁▁a", "▁▁a", "▁a"),
    ],
)
def test_spaces_by_hand(text: str, merged: str, prefixed: str, plain: str) -> None:
    assert normalize_spaces(text, prefix=True, merge=True) == normalize_spaces(text, prefix=False, merge=True) == merged
    assert normalize_spaces(text, prefix=True, merge=False) == prefixed
    assert normalize_spaces(text, prefix=False, merge=False) == plain


def test_a_normalizer_llama_cpp_has_not(tmp_path: Path) -> None:
    proto = _proto(train_unigram())
    vocab = [(piece.piece, piece.score) for piece in proto.pieces]
    document = _json(vocab, 2, proto.normalizer_spec.precompiled_charsmap, [0, 1, 2])
    document["normalizer"] = {"type": "Sequence", "normalizers": [document["normalizer"], {"type": "Lowercase"}]}
    folder = write_folder(tmp_path, {"tokenizer.json": document, "tokenizer_config.json": T5})
    with pytest.raises(TokenizerError, match=r"normalizer: llama\.cpp does not prepare text as this Unigram"):
        _read(folder, 900)
    tok = _read(folder, 900, pre="default")
    assert (tok.flags["add_space_prefix"], tok.flags["remove_extra_whitespaces"]) == (True, True)
