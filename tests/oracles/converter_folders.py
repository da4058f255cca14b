"""The proofs' tiny models as folders that people publish: a tokenizer, a chat template and a model card beside them.

Every tokenizer is real, trained within 320 tokens, and of the kind that the architecture's models are published with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from oracles.proofs import Proof
from oracles.small_tokenizers import (
    Json,
    train_bpe,
    train_raw_bpe,
    train_sentencepiece,
    train_unigram,
    train_wordpiece,
    with_added,
    write_folder,
)
from quantmill.formats.hf.tokenizer.splitting.pre_tokenizers import BY_NAME

IDENTITY = "torch.nn.modules.linear.Identity"
CARD = """---
license: apache-2.0
license_name: apache-2
license_link: https://example.org/license
base_model: example-org/Base-7B-v0.2
tags:
- tiny
- random
pipeline_tag: text-generation
language:
- en
datasets: example-org/some-text
---
# A tiny random model
"""
TEMPLATE = "{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}"

# The pre-tokenizer of an architecture's byte-level BPE, by llama.cpp's name.
BYTE_LEVEL = {
    "falcon-h1": "llama-bpe",
    "eurobert": "llama-bpe",
    "bloom": "bloom", "command-r": "command-r", "cohere2": "command-r", "dbrx": "dbrx", "deepseek2": "deepseek-llm",
    "deepseek3": "deepseek-v3", "deepseek32": "deepseek-v3", "glm-dsa": "llama-bpe",
    "exaone4": "gpt-2", "falcon": "falcon", "glm4": "llama-bpe", "glm4moe": "llama-bpe",
    "gpt2": "gpt-2", "gpt-oss": "gpt-4o", "gptneox": "olmo", "granite": "smollm", "granitemoe": "smollm",
    "granitehybrid": "dbrx", "hunyuan-dense": "deepseek-v3", "hunyuan-moe": "qwen2", "lfm2": "llama-bpe",
    "glm4v": "llama-bpe", "glm-ocr": "llama-bpe", "glm4v_moe": "llama-bpe", "hunyuan_vl": "deepseek-v3",
    "qwen2vl": "qwen2", "qwen3vl": "qwen2", "qwen3asr": "qwen2", "qwen3vlmoe": "qwen2", "qwen3omnimoe": "qwen2",
    "lfm2moe": "llama-bpe", "llama4": "gpt-4o", "mamba": "olmo", "mamba2": "olmo", "mistral3": "tekken",
    "mistral4": "tekken",
    "mpt": "olmo", "olmo": "olmo", "olmo2": "dbrx", "olmo3": "dbrx", "olmoe": "olmo",
    "phi2": "gpt-2", "qwen2": "qwen2", "qwen2moe": "qwen2", "qwen3": "qwen2", "qwen3moe": "qwen2",
    "qwen3next": "qwen2", "qwen35": "qwen35", "qwen35moe": "qwen35", "qwen4exp": "qwen35",
    "seed_oss": "seed-coder", "smollm3": "llama-bpe", "stablelm": "qwen2",
    "starcoder": "smollm", "starcoder2": "smollm", "laguna": "qwen2", "mellum": "qwen2",
    "mimo2": "qwen2", "granite_swa": "dbrx", "cohere2moe": "command-r", "apertus": "tekken", "step35": "deepseek-v3",
    "cohere2_vision": "command-r", "glm4moelite": "llama-bpe", "youtu": "youtu",
    "chatglm": "llama-bpe", "solar-open": "qwen2", "hy_v3": "qwen2", "minimax-m2": "gpt-4o", "dots1": "qwen2",
    "dots3note": "qwen2", "hy_v4": "qwen2",
    "kimi-linear": "kimi-k2", "deepseek4": "deepseek-v3", "jais2": "qwen2", "afmoe": "qwen2", "exaone-moe": "qwen2",
    "minimax-m3": "gpt-4o", "hrm_text": "qwen2", "muse-glimmer": "gpt-4o",
    "nemotron_h": "tekken", "nemotron_h_moe": "tekken", "bamba": "llama-bpe", "falcon-mamba": "falcon",
    "bailingmoe3": "qwen2", "glm5-next": "llama-bpe",
}  # fmt: skip
N_TOKENS, N_UNIGRAM = 320, 70
# Few letters, so that 320 tokens hold them, the 256 bytes and words. The standard library's texts change with Python.
TEXT = """the tide took the old boat out past the point, and the men stood at the rail and told the same tale again.
in the morning the rain had gone; the road to the mill was a line of pools, and in each of them lay a piece of sky.
she put the tea on, read the letter to the end, and then read it once more to see what it did not say.
there are ten stones in the wall that no one has moved, and one that moves a little when the trains go by."""


def publish(proof: Proof, folder: Path) -> None:
    """Write beside a saved model what is published with one, and its tensors as they are published."""
    if proof.published:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        published = dict(proof.published)
        if "text_config" in published:
            published["text_config"] = _without_null(config["text_config"] | published["text_config"])
        path.write_text(json.dumps(_without_null(config | published), indent=2))
    if proof.renamed or proof.layout:
        path = folder / "model.safetensors"
        save_file(published_tensors(proof, load_file(path)), path)
    write_folder(folder, {**tokenizer_files(proof), "README.md": CARD})
    if proof.modules:
        write_modules(folder, proof.modules)


def write_modules(folder: Path, names: tuple[str, ...], mode: str = "mean", middle: int = 64) -> None:
    """The files of sentence-transformers: one after the other, with dense modules to another width and back."""
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    paths = ["", *(f"{i}_{name}" for i, name in enumerate(names, 1))]
    kinds = ("Transformer", *names)
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    sizes = [(width, middle), (middle, width)]
    generator = np.random.default_rng(5)
    for path, kind in zip(paths, kinds, strict=True):
        if kind == "Pooling":
            flag = {"mean": "mean_tokens", "cls": "cls_token"}.get(mode, mode)
            config = {"word_embedding_dimension": width, f"pooling_mode_{flag}": True}
            write_folder(folder, {f"{path}/config.json": config})
        elif kind == "Dense":
            n_in, n_out = sizes.pop(0)
            config = {"in_features": n_in, "out_features": n_out, "bias": False}
            write_folder(folder, {f"{path}/config.json": config | {"activation_function": IDENTITY}})
            weights = generator.standard_normal((n_out, n_in)).astype(np.float32) * 0.1
            save_file({"linear.weight": weights}, folder / path / "model.safetensors", metadata={"format": "pt"})


def _without_null(config: Mapping[str, Any]) -> Json:
    return {key: one for key, one in config.items() if one is not None}


def published_tensors(proof: Proof, weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A saved model's tensors as they are published."""
    laid_out = proof.layout(weights) if proof.layout else weights
    return {published_name(proof, name): weight for name, weight in laid_out.items()}


def published_name(proof: Proof, name: str) -> str:
    """What published checkpoints call a tensor."""
    for pattern, theirs in proof.renamed.items():
        name = re.sub(pattern, theirs, name)
    return name


def tokenizer_files(proof: Proof) -> Mapping[str, Any]:
    """The tokenizer's files of a proof's folder, by name: of its own kind, or of its architecture's."""
    if proof.arch in BYTE_LEVEL:
        return _byte_level(BYTE_LEVEL[proof.arch], FURTHER.get(proof.arch, ()))
    return _OTHERS.get(proof.id, _OTHERS.get(proof.arch, _llama))()


def pre_name(proof: Proof) -> str:
    """llama.cpp's name of the proof's pre-tokenizer."""
    if proof.id == "roberta-byte level":
        return "roberta-bpe"
    return BYTE_LEVEL.get(proof.arch, "olmo" if proof.arch == "modern-bert" else "default")


# GLM's and Hunyuan's conversions ask for these by name.
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "[gMASK]", "<|user|>", "<|observation|>")
FURTHER = {"dots3note": ("<|endofassistant|>",), "solar-open": ("<|startoftext|>", "<unk>")}
_SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@cache
def _byte_level(pre: str, further: tuple[str, ...]) -> Mapping[str, Any]:
    row = BY_NAME[pre]
    trained = train_bpe(row.pre_tokenizer, vocab_size=N_TOKENS - 12, text=TEXT)
    document = with_added(trained, (*SPECIAL, *further), ("<think>", "</think>")) | {"normalizer": row.normalizer}
    document["model"]["ignore_merges"] = row.ignore_merges
    first = ("<|endoftext|>",) if row.ignore_merges else ()  # as Llama 3's and Mistral's
    document["post_processor"] = _around(document, first, ()) if first else _BYTE_LEVEL
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    return {"tokenizer.json": document, "tokenizer_config.json": config | {"chat_template": TEMPLATE}}


@cache
def _modern_bert() -> Mapping[str, Any]:
    texts = {f"{text[1:-1].lower()}_token": text for text in _SPECIAL_PIECES}
    trained = train_bpe(BY_NAME["gpt-2"].pre_tokenizer, vocab_size=N_TOKENS - 12, text=TEXT)
    document = with_added(trained, tuple(texts.values())) | {"normalizer": {"type": "NFC"}}
    document["post_processor"] = _around(document, ("[CLS]",), ("[SEP]",))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **texts}
    return {"tokenizer.json": document, "tokenizer_config.json": config}


def _around(document: Json, first: tuple[str, ...], last: tuple[str, ...]) -> Json:
    """A post-processor that adds these tokens around a text, and ``last`` between two."""
    ids = {added["content"]: added["id"] for added in document["added_tokens"]}
    before, after = ([{"SpecialToken": {"id": text, "type_id": 0}} for text in texts] for texts in (first, last))
    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    special = {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in (*first, *last)}
    single, pair = [*before, a, *after], [*before, a, *(after or before), b, *after]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


@cache
def _llama(prefix: bool = True) -> Mapping[str, Any]:
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    texts = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    model = train_sentencepiece(N_TOKENS - 8, text=TEXT, add_dummy_prefix=prefix)
    return {"tokenizer.model": model, "tokenizer_config.json": config | texts | {"chat_template": TEMPLATE}}


def _gemma() -> Mapping[str, Any]:
    return _llama(prefix=False)


@cache
def _unigram() -> Mapping[str, Any]:
    config = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return {"spiece.model": train_unigram(N_UNIGRAM, text=TEXT), "tokenizer_config.json": config}


@cache
def _fairseq() -> Mapping[str, Any]:
    """XLM-RoBERTa's: a SentencePiece model, and a tokenizer.json in which its pieces follow one place later."""
    import base64

    from sentencepiece import sentencepiece_model_pb2

    data = train_unigram(N_UNIGRAM, text=TEXT, pad_id=-1, unk_id=0, bos_id=1, eos_id=2)
    proto = sentencepiece_model_pb2.ModelProto.FromString(data)
    pieces = [(text, 0.0) for text in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces += [(piece.piece, piece.score) for piece in proto.pieces[3:]] + [("<mask>", 0.0)]
    table = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
    meta = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    document = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": pieces[i][0], **plain, "special": True, "lstrip": i > 3}
            for i in (0, 1, 2, 3, len(pieces) - 1)
        ],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": table},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, meta]},
        "decoder": meta,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces},
    }
    document["post_processor"] = _around(document, ("<s>",), ("</s>",))
    texts = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    texts |= {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
    config = {"tokenizer_class": "XLMRobertaTokenizer", **texts}
    return {"sentencepiece.bpe.model": data, "tokenizer.json": document, "tokenizer_config.json": config}


@cache
def _roberta() -> Mapping[str, Any]:
    names = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    trained = train_bpe(BY_NAME["gpt-2"].pre_tokenizer, vocab_size=N_TOKENS - 12, text=TEXT)
    document = with_added(trained, names)
    ids = {added["content"]: added["id"] for added in document["added_tokens"]}
    document["added_tokens"][-1]["lstrip"] = True
    document["post_processor"] = {
        **{"type": "RobertaProcessing", "sep": ["</s>", ids["</s>"]], "cls": ["<s>", ids["<s>"]]},
        **{"trim_offsets": True, "add_prefix_space": False},
    }
    texts = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    texts |= {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
    return {"tokenizer.json": document, "tokenizer_config.json": {"tokenizer_class": "RobertaTokenizer", **texts}}


@cache
def _wordpiece() -> Mapping[str, Any]:
    texts = {f"{text[1:-1].lower()}_token": text for text in _SPECIAL_PIECES}
    words = sorted({*TEXT.replace(".", " ").replace(",", " ").replace(";", " ").split()})
    letters = sorted({*TEXT} - {" ", "\n"})
    # Not trained: that tokenizers does another way each time.
    pieces = [*_SPECIAL_PIECES, *letters, *(f"##{letter}" for letter in letters), *(w for w in words if len(w) > 1)]
    document = train_wordpiece()
    document["model"]["vocab"] = {piece: i for i, piece in enumerate(pieces)}
    return {"tokenizer.json": document, "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", **texts}}


@cache
def _gemma4() -> Mapping[str, Any]:
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    document = train_raw_bpe(N_TOKENS, text=TEXT)
    document["post_processor"] = _around(document, ("<bos>",), ())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "chat_template": TEMPLATE}
    return {"tokenizer.json": document, "tokenizer_config.json": config}


_OTHERS: Mapping[str, Callable[[], Mapping[str, Any]]] = {  # what is not here has a tokenizer as Llama 2's
    "bert": _wordpiece, "distilbert": _wordpiece, "roberta": _fairseq, "roberta-byte level": _roberta,
    "gemma": _gemma, "gemma2": _gemma, "gemma3": _gemma, "gemma-embedding": _gemma, "gemma4": _gemma4,
    "gemma3n": _gemma,
    "modern-bert": _modern_bert, "nomic-bert": _wordpiece, "t5": _unigram, "t5encoder": _unigram,
    "jina-bert-v3": _fairseq,
}  # fmt: skip
