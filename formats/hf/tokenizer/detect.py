"""Which of llama.cpp's pre-tokenizers a tokenizer.json is: by its structure, else by what it does to probe strings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import TokenizerError
from .pretokenizers import PRE_TOKENIZERS, Json, PreTokenizer

_PROBE_PARTS = (
    *("Hello", "hello world", "I'm", "I'M", "we'll've", "WE'LL", "it's 's 'S", "don't", "you'd 'D", "'reason", "l'été"),
    *("CamelCase", "HTMLParser", "iPhone", "éÉa", "ÀÉÎ", "Straße", "ǅungla", "ʰa", "aªb"),
    *("0", "12", "123", "1234", "12345678", "3.14159", " 42", "a1b22c333d", "٣٤٥٦", "½", "①②③④", "Ⅷ", "x²"),
    *(
        "!",
        "...",
        "?!?",
        " !!",
        "a,b",
        "$100",
        "a+b=c",
        "<tag>",
        "x_y",
        "#a",
        "-b",
        "(c)",
        "a/b//\n/",
        "`x`",
        "~|^",
        "€5",
    ),
    *("“q”", "—", "…", "¿qué?", "!!\n", "!! \n\n", "\\n", "@user", "a-b"),
    *(
        " ",
        "  ",
        "   ",
        "    ",
        "\t",
        "\t\t",
        "\n",
        "\n\n",
        "\n \n",
        " \n",
        "\n ",
        "\r\n",
        "\r\n\r\n",
        "a\n\nb",
        "a \n b",
    ),
    *(
        "a  b",
        "a   b",
        "  a",
        "a  ",
        "a \t b",
        "a\t\tb",
        "\u00a0a",
        "a\u3000b",
        "\u2003 x",
        "x\n    y",
        "     \n     z",
    ),
    *(
        "你好",
        "你好，世界。",
        "日本語テキスト",
        "カタカナ ひらがな",
        "한국어 텍스트",
        "中文123字",
        "a中b文c",
        "ࠀ一",
        "。、！",
    ),
    *(
        "Привет, мир",
        "Γειά σου",
        "שלום",
        "مرحبا، بالعالم",
        "नमस्ते दुनिया।",
        "สวัสดี",
        "e\u0301t\u0301",
        "क्षि 12",
        "a\u0308\u0301 b",
    ),
    *("😀", "😀😀", " 😀", "👩‍👩‍👧", "❤️", "a😀b", "🇩🇪🇫🇷", "☃!"),
    *("\x00", "\x01\x02", "\u200b", "a\u200bb", "\ufeff", "\ufffd", "\ue000"),
)
PROBES = (
    *_PROBE_PARTS,
    *(a + b for a, b in zip(_PROBE_PARTS, _PROBE_PARTS[7:] + _PROBE_PARTS[:7], strict=True)),
    *(f"{a} {b}" for a, b in zip(_PROBE_PARTS, _PROBE_PARTS[31:] + _PROBE_PARTS[:31], strict=True)),
)


def detect_pre(tokenizer_json: Mapping[str, Any], path: Path) -> str:
    """llama.cpp's name for what this tokenizer.json does to text before its merges.

    Raises:
        TokenizerError: nothing llama.cpp does agrees on every probe; names the nearest and a string that differs.
    """
    normalizer, pre_tokenizer = tokenizer_json.get("normalizer"), tokenizer_json.get("pre_tokenizer")
    steps, rules = _flat(pre_tokenizer, "pretokenizers"), _flat(normalizer, "normalizers")
    only_nfc = all(rule == {"type": "NFC"} for rule in rules)
    matches = [row for row in PRE_TOKENIZERS if only_nfc and steps == _flat(row.pre_tokenizer, "pretokenizers")]
    if not matches:
        matches = _by_probes(normalizer if not only_nfc else None, pre_tokenizer, path)
    wants_merges_ignored = bool(tokenizer_json["model"].get("ignore_merges", False))
    matches.sort(key=lambda row: (row.rare, row.ignore_merges != wants_merges_ignored, row.nfc != bool(rules)))
    best = matches[0]
    if (
        best.ignore_merges != wants_merges_ignored
        and matches[-1].rare
        and _unreachable(tokenizer_json, path) is not None
    ):
        best = matches[-1]
    if best.ignore_merges != wants_merges_ignored and (word := _unreachable(tokenizer_json, path)) is not None:
        raise TokenizerError(
            f"its ignore_merges is {wants_merges_ignored}, llama.cpp's pre-tokenizer {best.name!r} has the opposite,"
            f" and they tokenize {word!r} differently",
            path=path,
            where="model.ignore_merges",
            hint=f"--pre {best.name} uses it all the same",
        )
    return best.name


def split(normalizer: Json | None, pre_tokenizer: Json | None, texts: tuple[str, ...]) -> list[list[str]]:
    """The words (byte-level alphabet) that this normalizer and pre-tokenizer make of each text."""
    from tokenizers import Tokenizer

    model = {"type": "BPE", "vocab": {}, "merges": []}
    tok = Tokenizer.from_str(
        json.dumps({"version": "1.0", "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "model": model})
    )
    if tok.normalizer is not None:
        texts = tuple(map(tok.normalizer.normalize_str, texts))
    if tok.pre_tokenizer is None:
        return [[text] for text in texts]
    return [[word for word, _ in tok.pre_tokenizer.pre_tokenize_str(text)] for text in texts]


def split_probes(normalizer: Json | None, pre_tokenizer: Json | None, path: Path) -> list[list[str]]:
    """``split`` of the probes, for what a file says.

    Raises:
        TokenizerError: the tokenizers library cannot make sense of it.
    """
    with _refusals(path, "pre_tokenizer"):
        return split(normalizer, pre_tokenizer, PROBES)


@contextmanager
def _refusals(path: Path, where: str) -> Iterator[None]:
    """What the tokenizers library raises, as a ``TokenizerError``."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers raises bare Exception, and its panics are not even that
        raise TokenizerError(f"the tokenizers library refuses it: {error}", path=path, where=where) from None


def _by_probes(normalizer: Json | None, pre_tokenizer: Json | None, path: Path) -> list[PreTokenizer]:
    ours = split_probes(normalizer, pre_tokenizer, path)
    wrong: dict[str, list[int]] = {}
    matches = []
    for row in PRE_TOKENIZERS:
        theirs = split(None, row.pre_tokenizer, PROBES)
        wrong[row.name] = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        if not wrong[row.name]:
            matches.append(row)
    if matches:
        return matches
    nearest = min(PRE_TOKENIZERS, key=lambda row: len(wrong[row.name]))
    i = min(wrong[nearest.name], key=lambda i: len(PROBES[i]))
    there = split(None, nearest.pre_tokenizer, (PROBES[i],))[0]
    raise TokenizerError(
        f"llama.cpp has no pre-tokenizer that splits as this one does; the nearest, {nearest.name!r}, differs on"
        f" {len(wrong[nearest.name])} of {len(PROBES)} probes: {PROBES[i]!r} becomes {ours[i]} here, {there} there",
        path=path,
        where="pre_tokenizer",
        hint=f"--pre {nearest.name} uses it all the same",
    )


def _flat(part: Any, inner: str) -> list[Json]:
    """A normalizer or pre-tokenizer as a list of steps, without what does not change the words."""
    if part is None:
        return []
    if part.get("type") == "Sequence":
        return [step for child in part.get(inner, ()) for step in _flat(child, inner)]
    step = {key: value for key, value in part.items() if key != "trim_offsets"}
    if step["type"] == "ByteLevel":
        step.setdefault("use_regex", True)
    return [step]


def _unreachable(tokenizer_json: Mapping[str, Any], path: Path) -> str | None:
    """A word of the vocabulary that the merges do not build: only there does ignore_merges change anything."""
    from tokenizers import Tokenizer

    model = {**tokenizer_json["model"], "ignore_merges": False}
    added = {token["content"] for token in tokenizer_json.get("added_tokens") or ()}
    with _refusals(path, "model"):
        tok = Tokenizer.from_str(json.dumps({"version": "1.0", "model": model}))
        for word in model["vocab"]:
            if word not in added and len(tok.model.tokenize(word)) != 1:
                return str(word)
    return None
