"""A ``Tokenizer`` as the files that transformers and sentencepiece load: the inverse of ``read.py``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import TokenizerError
from ...ir import Tokenizer, TokenType
from .common.documents import ids_by_text
from .common.tokenizer_model import sentencepiece_bytes
from .files.json_values import Json, json_object, optional
from .files.tokenizer_config import RECORDED_KEY
from .kinds import byte_level_bpe, gemma4_bpe, sentencepiece_bpe, unigram, wordpiece
from .post_processor import post_processor, tokens_around
from .recorded import facts_to_record
from .splitting.pre_tokenizers import MASK_LSTRIP

_KEYS = {
    name: f"{name}_token"
    for name in (
        *("bos", "eos", "unk", "sep", "pad", "mask", "eot", "eom"),
        *("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"),
    )
}
_MAPPED = ("bos", "eos", "unk", "sep", "pad", "mask")  # those that special_tokens_map.json and transformers know
# Phi-3's tokens that do not take the spaces after them (llama-vocab.cpp, load).
_NO_RSTRIP = ("<unk>", "<s>", "<|endoftext|>")
_ADDED_TYPES = {TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED}


@dataclass(frozen=True)
class Writer:
    """How a kind of tokenizer is written.

    Args:
        model: llama.cpp's name of the kind, as in ``Tokenizer.model``.
        to_document: makes tokenizer.json without added tokens and post-processor; raises ``TokenizerError``.
        pre_names: the pre-tokenizer names under which it is of this kind; None for any.
        has_model_file: whether a tokenizer.model is written, too.
    """

    model: str
    to_document: Callable[[Tokenizer], Json]
    pre_names: tuple[str, ...] | None = None
    has_model_file: bool = False

    def fits(self, tok: Tokenizer) -> bool:
        """Whether the tokenizer is of this kind."""
        return tok.model == self.model and (self.pre_names is None or tok.pre in self.pre_names)


# The first that fits writes.
WRITERS = (
    Writer("gpt2", gemma4_bpe.to_document, pre_names=gemma4_bpe.GPT2_PRE_NAMES),
    Writer("gpt2", byte_level_bpe.to_document),
    Writer("llama", sentencepiece_bpe.to_document, has_model_file=True),
    Writer("t5", unigram.to_document, has_model_file=True),
    Writer("bert", wordpiece.to_document),
    Writer("gemma4", gemma4_bpe.to_document),
)


def write_tokenizer(tok: Tokenizer, folder: Path) -> None:
    """Write a tokenizer's files: ``read_tokenizer`` returns it again, and transformers tokenizes as llama.cpp does.

    These are tokenizer.json, tokenizer_config.json, special_tokens_map.json, the chat templates, and for
    SentencePiece's kinds tokenizer.model.

    Args:
        tok: the tokenizer.
        folder: where to write them; it is made if it does not exist.

    Raises:
        TokenizerError: a kind of tokenizer, or a pre-tokenizer name, that has no counterpart here; or a text that two
            tokens have.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> folder = Path(tempfile.mkdtemp())
        >>> tokenizer = Tokenizer("gpt2", "gpt-2", ("a", "b", "ab"), np.ones(3, np.int32), merges=("a b",))
        >>> write_tokenizer(tokenizer, folder)
        >>> json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
        [['a', 'b']]
    """
    write_files(tokenizer_files(tok), folder)


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write what ``tokenizer_files`` made."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def tokenizer_files(tok: Tokenizer) -> dict[str, bytes]:
    """The files of a tokenizer, name -> bytes. Arguments and errors as for ``write_tokenizer``."""
    bad = next((i for i, token in enumerate(tok.tokens) if not _is_utf8(token)), None)
    if bad is not None:
        raise TokenizerError(f"token {bad} is not UTF-8, as JSON must be", hint="get the original checkpoint")
    ids_by_text(enumerate(tok.tokens))
    writer = next((row for row in WRITERS if row.fits(tok)), None)
    if writer is None:
        known = ", ".join(dict.fromkeys(row.model for row in WRITERS))
        raise TokenizerError(
            f"a {tok.model!r} tokenizer cannot be written for Hugging Face",
            where="tokenizer.ggml.model",
            hint=f"these can: {known}",
        )
    document = writer.to_document(tok)
    plain = optional(json_object)(document.pop("post_processor"))
    document["added_tokens"] = [{"id": number, **token} for number, token in _added_tokens(tok).items()]
    document["post_processor"] = post_processor(tok, plain)
    mapped = {_KEYS[name]: tok.tokens[tok.special[name]] for name in _MAPPED if name in tok.special}
    return {
        "tokenizer.json": _json_bytes(document),
        "tokenizer_config.json": _json_bytes(_config(tok)),
        "special_tokens_map.json": _json_bytes(mapped),
        **({"tokenizer.model": sentencepiece_bytes(tok)} if writer.has_model_file else {}),
        **_template_files(tok.chat_templates),
    }


def _added_tokens(tok: Tokenizer) -> dict[int, Json]:
    """What tokenizer.json and tokenizer_config.json say of tokens that are looked for in a text, by id."""
    strips_before_mask = tok.flags.get("mask_lstrip", (tok.pre or "").startswith(MASK_LSTRIP))
    mask = tok.special.get("mask") if strips_before_mask else None
    rstrip = tok.flags.get("special_rstrip", False)
    return {
        i: {
            "content": text,
            "single_word": False,
            "lstrip": i == mask,
            "rstrip": rstrip and text not in _NO_RSTRIP,
            "normalized": False,
            "special": kind != TokenType.USER_DEFINED,
        }
        for i, (text, kind) in enumerate(zip(tok.tokens, tok.types.tolist(), strict=True))
        if kind in _ADDED_TYPES
    }


def _config(tok: Tokenizer) -> Json:
    """tokenizer_config.json."""
    kinds_of_input = ["input_ids", *(["token_type_ids"] if tok.model == "bert" else []), "attention_mask"]
    config: Json = {
        # the class that runs tokenizer.json as it stands; LlamaTokenizer would rebuild it with its own splitting
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": kinds_of_input,
        "added_tokens_decoder": {str(number): token for number, token in _added_tokens(tok).items()},
    }
    for name, key in _KEYS.items():
        found_again = name == "eot" and tok.special.get("eot") == tok.special.get("eos")
        if name in tok.special and not found_again:
            config[key] = tok.tokens[tok.special[name]]
    if "sep" in tok.special and "bos" in tok.special:
        config["cls_token"] = tok.tokens[tok.special["bos"]]
    if tok.model != "bert":
        config.update({f"add_{name}_token": name in tokens_around(tok) for name in ("bos", "eos")})
    if "add_space_prefix" in tok.flags:
        config["add_prefix_space"] = tok.flags["add_space_prefix"]
    if facts := facts_to_record(tok):
        config[RECORDED_KEY] = facts
    if tok.model == "llama":
        config["legacy"] = tok.flags.get("legacy", True)
    return config


def _template_files(templates: Mapping[str, str]) -> dict[str, bytes]:
    """One file each, as transformers has done since 2025."""
    files = {}
    for name, text in templates.items():
        if name == "default":
            path = "chat_template.jinja"
        elif name.replace("_", "").replace("-", "").isalnum():  # a file's name comes from a stranger's metadata
            path = f"additional_chat_templates/{name}.jinja"
        else:
            raise TokenizerError(
                f"a chat template called {name!r} cannot be a file's name", where="tokenizer.chat_template"
            )
        files[path] = text.encode("utf-8", "surrogateescape")
    return files


def _json_bytes(data: Mapping[str, object]) -> bytes:
    return (json.dumps(data, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "surrogateescape")


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _write_json(path: Path, data: Mapping[str, object]) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", errors="surrogateescape")
