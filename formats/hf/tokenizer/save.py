"""``Tokenizer`` -> the files transformers and sentencepiece load: the inverse of ``tokenizer.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ...errors import TokenizerError
from ...ir import Tokenizer, TokenType
from .files import Json
from .pieces import pieces_model, pieces_proto
from .pretokenizers import BY_NAME, NAMES

_SPECIAL_NAMES = {
    **{name: f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "mask", "eot", "eom")},
    **{name: f"{name}_token" for name in ("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep")},
}
_MAPPED = ("bos", "eos", "unk", "sep", "pad", "mask")  # what special_tokens_map.json and transformers know
# llama.cpp's defaults where a GGUF says nothing (llama-vocab.cpp, load)
_ADD_BOS_BY_PRE = {"llama-bpe", "tekken", "chameleon"}


def write_tokenizer(tok: Tokenizer, folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json, special_tokens_map.json, the chat templates, and for SentencePiece
    tokenizer.model, so that ``read_tokenizer`` gives ``tok`` again and transformers tokenizes as llama.cpp does.

    Raises:
        TokenizerError: a kind of tokenizer, or a pre-tokenizer name, that has no counterpart here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if tok.model == "gpt2":
        document = _byte_level_document(tok)
    elif tok.model == "llama":
        document = pieces_model(tok)
        (folder / "tokenizer.model").write_bytes(pieces_proto(tok))
    else:
        raise TokenizerError(f"a {tok.model!r} tokenizer cannot be written for Hugging Face", hint="gpt2 and llama can")
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
            "merges": [list(_pair(merge)) for merge in tok.merges],
        },
    }


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge[1:].partition(" ")  # the first byte may itself be a space: llama.cpp looks from 1 on
    return merge[0] + left, right


def _added(tok: Tokenizer) -> list[Json]:
    kinds = {TokenType.CONTROL: True, TokenType.UNKNOWN: True, TokenType.USER_DEFINED: False}
    return [
        {"id": i, **_added_token(text, kinds[TokenType(kind)])}
        for i, (text, kind) in enumerate(zip(tok.tokens, tok.types.tolist(), strict=True))
        if kind in kinds
    ]


def _added_token(text: str, special: bool) -> Json:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": text, **flags, "special": special}


def _adds(tok: Tokenizer) -> dict[str, bool]:
    """Whether bos and eos are added, llama.cpp's own defaults included."""
    bos = tok.model == "llama" or (tok.pre is not None and BY_NAME[tok.pre].name in _ADD_BOS_BY_PRE)
    wanted = {"bos": tok.flags.get("add_bos_token", bos), "eos": tok.flags.get("add_eos_token", False)}
    return {name: add and name in tok.special for name, add in wanted.items()}


def _post_processor(tok: Tokenizer, plain: Json | None) -> Json | None:
    adds = _adds(tok)
    if not any(adds.values()):
        return plain
    texts = {name: _text(tok, name) for name, add in adds.items() if add}

    def around(sequence: str, type_id: int) -> list[Json]:
        special = {name: [{"SpecialToken": {"id": text, "type_id": type_id}}] for name, text in texts.items()}
        return [*special.get("bos", []), {"Sequence": {"id": sequence, "type_id": type_id}}, *special.get("eos", [])]

    template = {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": {
            text: {"id": text, "ids": [tok.special[name]], "tokens": [text]} for name, text in texts.items()
        },
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
    config.update({f"add_{name}_token": add for name, add in _adds(tok).items()})
    if "add_space_prefix" in tok.flags:
        config["add_prefix_space"] = tok.flags["add_space_prefix"]
    if tok.model == "llama":
        config["legacy"] = tok.flags.get("legacy", True)
    return config


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
