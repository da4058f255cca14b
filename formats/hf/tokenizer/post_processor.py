"""tokenizer.json's post-processor: it adds around a text the tokens that llama.cpp adds by a ``Tokenizer``'s flags."""

from __future__ import annotations

from ...ir import Tokenizer
from .files.json_values import Json
from .splitting.pre_tokenizers import BY_NAME

# The pre-tokenizers with which llama.cpp adds bos where a GGUF does not say (llama-vocab.cpp, load).
_ADD_BOS_BY_PRE = {"llama-bpe", "tekken", "chameleon"}


def tokens_around(tok: Tokenizer) -> tuple[str | None, str | None]:
    """The short names of the tokens that go before and after a text, by its flags or else llama.cpp's defaults."""
    if tok.model == "bert":  # whatever the flags say
        return "bos", "sep" if "sep" in tok.special else "eos"
    bos = tok.model in ("llama", "gemma4") or (tok.pre in BY_NAME and BY_NAME[tok.pre].name in _ADD_BOS_BY_PRE)
    first = tok.flags.get("add_bos_token", bos) and "bos" in tok.special
    last = tok.flags.get("add_eos_token", tok.model == "t5") and "eos" in tok.special
    return "bos" if first else None, "eos" if last else None


def post_processor(tok: Tokenizer, plain: Json | None) -> Json | None:
    """Make the post-processor of tokenizer.json, or None where nothing is added.

    Args:
        tok: the tokenizer.
        plain: what its kind does where no tokens are added, or None.
    """
    first, last = tokens_around(tok)
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
    template: Json = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *start, *text("B", 1), *special(last, 1)],
        "special_tokens": {text: {"id": text, "ids": [tok.tokens.index(text)], "tokens": [text]} for text in used},
    }
    return template if plain is None else {"type": "Sequence", "processors": [plain, template]}


def _text(tok: Tokenizer, name: str) -> str:
    return tok.tokens[tok.special[name]]
