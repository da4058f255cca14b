"""``Tokenizer`` -> the files transformers and sentencepiece load: the inverse of ``read.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ...errors import TokenizerError
from ...ir import Tokenizer, TokenType
from .files import AddedToken, Json
from .pieces import pieces_model, pieces_proto, unk_id
from .pretokenizers import BY_NAME, MASK_LSTRIP, NAMES
from .raw_bpe import RAW_PRE, pair, raw_bpe_document
from .unigram import unigram_document
from .wordpiece import wordpiece_document

_SPECIAL_NAMES = {
    **{name: f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "mask", "eot", "eom")},
    **{name: f"{name}_token" for name in ("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep")},
}
_MAPPED = ("bos", "eos", "unk", "sep", "pad", "mask")  # what special_tokens_map.json and transformers know
# llama.cpp's defaults where a GGUF says nothing (llama-vocab.cpp, load)
_ADD_BOS_BY_PRE = {"llama-bpe", "tekken", "chameleon"}
# Phi-3's tokens that leave the spaces after them alone (llama-vocab.cpp, load)
_NO_RSTRIP = ("<unk>", "<s>", "<|endoftext|>")


def write_tokenizer(tok: Tokenizer, folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json, special_tokens_map.json, the chat templates, and for SentencePiece
    tokenizer.model, so that ``read_tokenizer`` gives ``tok`` again and transformers tokenizes as llama.cpp does.

    Raises:
        TokenizerError: a kind of tokenizer, or a pre-tokenizer name, that has no counterpart here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if tok.model not in _DOCUMENTS:
        known = ", ".join(_DOCUMENTS)
        raise TokenizerError(
            f"a {tok.model!r} tokenizer cannot be written for Hugging Face", hint=f"these can: {known}"
        )
    document = _DOCUMENTS[tok.model](tok)
    if tok.model in ("llama", "t5"):
        (folder / "tokenizer.model").write_bytes(pieces_proto(tok))
    document["added_tokens"] = _added(tok)
    document["post_processor"] = _post_processor(tok, document.pop("post_processor", None))
    _write_json(folder / "tokenizer.json", document)
    _write_json(folder / "tokenizer_config.json", _config(tok))
    _write_json(
        folder / "special_tokens_map.json", {_SPECIAL_NAMES[n]: _text(tok, n) for n in _MAPPED if n in tok.special}
    )
    _write_templates(tok.chat_templates, folder)


def padding(tok: Tokenizer, number: int) -> bool:
    """Whether a token only fills an embedding row that the vocabulary does not reach."""
    return tok.types[number] == TokenType.UNUSED and tok.tokens[number] == f"[PAD{number}]"


def _byte_level_document(tok: Tokenizer) -> Json:
    if tok.merges is None:
        raise TokenizerError("byte-level BPE without merges", where="tokenizer.ggml.merges")
    name = tok.pre or "default"
    if name in RAW_PRE:
        return raw_bpe_document(tok)
    if name not in BY_NAME:
        raise TokenizerError(
            f"no pre-tokenizer called {name!r} is known here",
            where="tokenizer.ggml.pre",
            hint=f"set it to one of {', '.join(NAMES)}",
        )
    row = BY_NAME[name]
    vocab = {text: i for i, text in enumerate(tok.tokens) if not padding(tok, i)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": row.normalizer,
        "pre_tokenizer": row.pre_tokenizer,
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": row.ignore_merges,
            "vocab": vocab,
            "merges": [list(pair(merge)) for merge in tok.merges],
        },
    }


_DOCUMENTS = {
    **{"gpt2": _byte_level_document, "llama": pieces_model, "t5": unigram_document, "bert": wordpiece_document},
    "gemma4": raw_bpe_document,
}


def _added(tok: Tokenizer) -> list[Json]:
    kinds = {TokenType.CONTROL: True, TokenType.UNKNOWN: True, TokenType.USER_DEFINED: False}
    mask = tok.special.get("mask") if _strips_before_mask(tok) else None
    rstrip = tok.flags.get("special_rstrip", False)
    return [
        {"id": i, **_added_token(text, kinds[TokenType(kind)], i == mask, rstrip and text not in _NO_RSTRIP)}
        for i, (text, kind) in enumerate(zip(tok.tokens, tok.types.tolist(), strict=True))
        if kind in kinds
    ]


def _added_token(text: str, special: bool, lstrip: bool, rstrip: bool) -> Json:
    flags = {"single_word": False, "lstrip": lstrip, "rstrip": rstrip, "normalized": False}
    return {"content": text, **flags, "special": special}


def _strips_before_mask(tok: Tokenizer) -> bool:
    return tok.flags.get("mask_lstrip", (tok.pre or "").startswith(MASK_LSTRIP))


def _around(tok: Tokenizer) -> tuple[str | None, str | None]:
    """The names of the tokens that go before and after a text, llama.cpp's own defaults included."""
    if tok.model == "bert":  # whatever the flags say
        return "bos", "sep" if "sep" in tok.special else "eos"
    bos = tok.model in ("llama", "gemma4") or (tok.pre in BY_NAME and BY_NAME[tok.pre].name in _ADD_BOS_BY_PRE)
    first = tok.flags.get("add_bos_token", bos) and "bos" in tok.special
    last = tok.flags.get("add_eos_token", tok.model == "t5") and "eos" in tok.special
    return "bos" if first else None, "eos" if last else None


def _post_processor(tok: Tokenizer, plain: Json | None) -> Json | None:
    first, last = _around(tok)
    names = [name for name in (first, last) if name is not None]
    if not names:
        return plain
    separates = "add_sep_token" in tok.flags or tok.model == "bert"
    if separates and tok.flags.get("add_sep_token", False) and "sep" in tok.special:
        names.append("sep")

    def special(name: str | None, type_id: int) -> list[Json]:
        return [] if name not in names else [{"SpecialToken": {"id": _text(tok, str(name)), "type_id": type_id}}]

    def text(sequence: str, type_id: int) -> list[Json]:
        return [{"Sequence": {"id": sequence, "type_id": type_id}}]

    single = [*special(first, 0), *text("A", 0), *special(last, 0)]
    start = special("sep" if last != "sep" else None, 0) if separates else special(first, 1)
    used = dict.fromkeys(_text(tok, name) for name in names)
    template = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *start, *text("B", 1), *special(last, 1)],
        "special_tokens": {text: {"id": text, "ids": [tok.tokens.index(text)], "tokens": [text]} for text in used},
    }
    return template if plain is None else {"type": "Sequence", "processors": [plain, template]}


def _config(tok: Tokenizer) -> Json:
    config: Json = {
        # the class that runs tokenizer.json as it stands; LlamaTokenizer would rebuild it with its own splitting
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in _added(tok)
        },
    }
    for name, key in _SPECIAL_NAMES.items():
        told = name == "eot" and tok.special.get("eot") == tok.special.get("eos")  # the reader finds it again
        if name in tok.special and not told:
            config[key] = _text(tok, name)
    if "sep" in tok.special and "bos" in tok.special:
        config["cls_token"] = _text(tok, "bos")
    if tok.model == "bert":
        config["model_input_names"].insert(1, "token_type_ids")
    else:
        config.update({f"add_{name}_token": name in _around(tok) for name in ("bos", "eos")})
    if "add_space_prefix" in tok.flags:
        config["add_prefix_space"] = tok.flags["add_space_prefix"]
    if noted := _noted(tok):
        config["quantmill"] = noted
    if tok.model == "llama":
        config["legacy"] = tok.flags.get("legacy", True)
    return config


def _noted(tok: Tokenizer) -> Json:
    """What ``read_tokenizer`` would not find again: the name among equals, types that these files have no word for."""
    noted: Json = {}
    if tok.model == "gpt2" and tok.pre in BY_NAME and BY_NAME[tok.pre].name != tok.pre:
        noted["pre"] = tok.pre
    unk = unk_id(tok) if tok.model in ("llama", "t5", "gemma4") else None
    types = {}
    for i, (text, kind) in enumerate(zip(tok.tokens, tok.types.tolist(), strict=True)):
        if kind == TokenType.USER_DEFINED:
            found = AddedToken(text, special=False).type == kind
        elif kind in (TokenType.UNKNOWN, TokenType.CONTROL):
            found = (kind == TokenType.UNKNOWN) == (i == unk)
        else:
            found = kind != TokenType.UNUSED or padding(tok, i) or tok.model in ("llama", "t5")
        if not found:
            types[str(i)] = kind
    return {**noted, **({"token_types": types} if types else {})}


def _text(tok: Tokenizer, name: str) -> str:
    return tok.tokens[tok.special[name]]


def _write_templates(templates: Mapping[str, str], folder: Path) -> None:
    """One file each, as transformers has done since 2025."""
    for name, text in templates.items():
        if name == "default":
            path = folder / "chat_template.jinja"
        elif name.replace("_", "").replace("-", "").isalnum():  # a file's name comes from a stranger's metadata
            path = folder / "additional_chat_templates" / f"{name}.jinja"
            path.parent.mkdir(exist_ok=True)
        else:
            raise TokenizerError(
                f"a chat template called {name!r} cannot be a file's name", where="tokenizer.chat_template"
            )
        path.write_bytes(text.encode("utf-8", "surrogateescape"))


def _write_json(path: Path, data: Json) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", errors="surrogateescape")
