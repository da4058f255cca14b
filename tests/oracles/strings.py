"""Strings that tokenizers stumble over, the same ones for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

_WORDS = ["the", "Hello", "I'm", "you'LL", "we've", "IT'S", "don't", "they'd", "o'clock", "naïve", "Straße", "world"]
_CODE = [
    "def f(x):\n\treturn x**2\n",
    "a += 1;",
    '<div class="x">',
    "{'k': [1, 2]}",
    "// --- \\\\n",
    "x->y",
    "#!/bin/sh",
]
_SPACES = [
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    " \n ",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u2028",
    "\x0b",
    "\x0c",
    "\x85",
]
_MARKS = [*list("!?.,;:'\"()[]{}<>|/\\@#$%^&*-_=+~`"), "...", "—", "“x”", "…", "¿", "§", "。", "、", "！", "«»", "€"]
_DIGITS = ["0", "7", "42", "123", "1234", "3.14159", "1,000,000", "2" * 19, "٣٤٥", "①②", "½", "x²", "Ⅷ", "१२३"]
_SCRIPTS = [
    *(
        "你好世界",
        "日本語のテキスト",
        "한국어 텍스트",
        "Привет, мир",
        "Γειά σου Κόσμε",
        "שלום",
        "مرحبا بالعالم",
        "नमस्ते दुनिया",
    ),
    *(
        "สวัสดีชาวโลก",
        "Tiếng Việt",
        "ქართული",
        "አማርኛ",
        "ǅ ǈ",
        "ÀÉÎ àéî",
        "e\u0301a\u0308",
        "İı",
        "ﬁﬂ",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
        "𐍈",
        "𠜎𠜱",
    ),
]
_EMOJI = ["😀", "👩‍👩‍👧", "🏳️‍🌈", "🇩🇪", "👍🏽", "❤️", "☃", "🤷🏿‍♀️"]
_CONTROL = [
    "\x00",
    "\x01",
    "\x1b[0m",
    "\x7f",
    "\u200b",
    "\u200d",
    "\ufeff",
    "\u202e",
    "\u00ad",
    "\ufffd",
    "\ue000",
    "\U0010ffff",
]
_PIECES = [_WORDS, _CODE, _SPACES, _SPACES, _MARKS, _MARKS, _DIGITS, _SCRIPTS, _EMOJI, _CONTROL]


def adversarial(n: int, special: Sequence[str] = (), seed: int = 0, control: bool = True) -> list[str]:
    """``n`` strings: words, code, runs of spaces, digits, scripts, emoji, control characters, special tokens' texts.

    Args:
        n: how many.
        special: texts of added tokens to mix in, whole and cut in two.
        seed: of the generator.
        control: with control characters and private-use code points; some tokenizers drop NUL.
    """
    rng = random.Random(seed)
    kinds = [kind for kind in _PIECES if control or kind is not _CONTROL]
    if special:
        kinds.append([*special, *(text[: max(1, len(text) // 2)] for text in special)])
    fixed = ["", " ", "\n", "a", "  a", "a  ", " a ", "\t\ta", "\n \n", "'s", "' s", "1 2", "12345678901234567890"]
    strings = fixed[:n]
    while len(strings) < n:
        if rng.random() < 0.15:
            strings.append("".join(_any_code_point(rng) for _ in range(rng.randint(1, 12))))
            continue
        parts = []
        for _ in range(rng.randint(1, 9)):
            kind = rng.choice(kinds)
            parts.append(rng.choice(kind) * rng.choice([1, 1, 1, 1, 2, 3]))
            parts.append(rng.choice(["", "", " "]))
        strings.append("".join(parts))
    return strings


def _any_code_point(rng: random.Random) -> str:
    """A Unicode scalar value: never a surrogate, rarely beyond the planes in use."""
    top = rng.choice([0x7F, 0x24F, 0x33FF, 0xFFFF, 0x1FFFF])
    while True:
        code = rng.randint(1, top)
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)
