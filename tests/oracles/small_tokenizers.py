"""Small tokenizers of each kind, trained in a second, laid out as Hugging Face folders."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

Json = dict[str, Any]


@cache
def training_text(n: int = 60_000) -> str:
    import pydoc_data.topics

    return "\n".join(pydoc_data.topics.topics.values())[:n]


def train_bpe(
    pre_tokenizer: Json | None, extra: Iterable[str] = (), vocab_size: int = 1500, text: str | None = None
) -> Json:
    """tokenizer.json of a byte-level BPE trained with this pre_tokenizer; None lets merges cross every boundary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document = json.loads(Tokenizer(models.BPE()).to_str())
    document["pre_tokenizer"] = pre_tokenizer or whole
    tok = Tokenizer.from_str(json.dumps(document))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False, max_token_length=12
    )
    text = text or training_text()
    tok.train_from_iterator([*(text[i : i + 2000] for i in range(0, len(text), 2000)), *extra], trainer)
    trained: Json = json.loads(tok.to_str())
    trained["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return trained


def with_added(document: Json, special: Sequence[str], ordinary: Sequence[str] = ()) -> Json:
    """``document`` with added tokens after its vocabulary."""
    start = len(document["model"]["vocab"])
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": start + i, "content": text, **plain, "special": i < len(special)}
        for i, text in enumerate([*special, *ordinary])
    ]
    return {**document, "added_tokens": added}


def write_folder(folder: Path, files: Mapping[str, Any]) -> Path:
    """Name -> JSON data, text or bytes."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, bytes):
            path.write_bytes(data)
        else:
            path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return folder


@cache
def _raw_bpe(vocab_size: int, text: str | None) -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Replace(" ", "▁")
    words = pre_tokenizers.Split(Regex("▁*[^▁]*"), "isolated")
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("\n+"), "isolated"), words])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<|channel>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    tok.train_from_iterator([text] if text else [training_text(), "é è 你 好 ß 😀\n\n\n\n\n    \n"], trainer)
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tok.to_str()


def train_raw_bpe(vocab_size: int = 900, text: str | None = None) -> Json:
    """tokenizer.json as Gemma 4's: characters with ▁ for a space, bytes for the rest, merges within lines."""
    document: Json = json.loads(_raw_bpe(vocab_size, text))
    document["added_tokens"] = document["added_tokens"][:5]
    document["pre_tokenizer"] = {
        **{"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
    }
    return document


@cache
def train_sentencepiece(vocab_size: int = 900, text: str | None = None, **options: Any) -> bytes:
    """A tokenizer.model as Llama 2's: BPE, byte fallback, identity normalization, split digits."""
    return _train(
        text,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        **options,
    )


@cache
def train_unigram(vocab_size: int = 900, byte_fallback: bool = False, text: str | None = None, **options: Any) -> bytes:
    """A spiece.model as T5's: Unigram, NFKC, runs of spaces made one, <pad> </s> <unk> in front."""
    t5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    return _train(text, model_type="unigram", vocab_size=vocab_size, byte_fallback=byte_fallback, **{**t5, **options})


def _train(text: str | None, **options: Any) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter((text or training_text()).split("\n")),
        model_writer=model,
        character_coverage=0.9995,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


@cache
def _wordpiece_vocab(lowercase: bool, vocab_size: int) -> str:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    accented = "é è ü ñ Ä ж 你 好 世 日 本 ß \u0301 #"
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    tok.train_from_iterator([*training_text().split("\n"), accented], trainer)
    return tok.to_str()


def train_wordpiece(lowercase: bool = True, vocab_size: int = 900) -> Json:
    """tokenizer.json as BERT's."""
    document: Json = json.loads(_wordpiece_vocab(lowercase, vocab_size))
    cls, sep = ({"id": text, "type_id": 0} for text in ("[CLS]", "[SEP]"))
    a, b = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    single = [{"SpecialToken": cls}, a, {"SpecialToken": sep}]
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, b, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
        "special_tokens": {
            text: {"id": text, "ids": [i], "tokens": [text]} for i, text in ((2, "[CLS]"), (3, "[SEP]"))
        },
    }
    document["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    return document


def sentencepiece_json(data: bytes) -> Json:
    """The tokenizer.json that transformers makes of a tokenizer.model."""
    import sentencepiece.sentencepiece_model_pb2 as pb2
    from transformers import LlamaTokenizerFast
    from transformers.convert_slow_tokenizer import generate_merges

    proto = pb2.ModelProto.FromString(data)
    vocab = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    scores = {piece.piece: piece.score for piece in proto.pieces}
    tok = LlamaTokenizerFast(vocab=vocab, merges=generate_merges(vocab, scores))
    document: Json = json.loads(tok.backend_tokenizer.to_str())
    return document
