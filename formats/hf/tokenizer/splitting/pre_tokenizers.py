"""llama.cpp's pre-tokenizer names, and what each one does in Hugging Face's terms.

A row's ``steps`` are the pre_tokenizer of tokenizer.json as its models publish it; the regexes that llama.cpp runs for
the same name are in src/llama-vocab.cpp (``llm_tokenizer_bpe``). Names that llama.cpp treats alike share a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..files.json_values import Json


@dataclass(frozen=True)
class PreTokenizer:
    """One way to split text into words, under the names that llama.cpp has for it.

    Args:
        name: llama.cpp's ``tokenizer.ggml.pre``; the one that is written.
        steps: the pre_tokenizers of tokenizer.json, in order.
        nfc: whether the models' tokenizer.json normalizes to NFC. llama.cpp never normalizes: this only breaks ties.
        ignore_merges: whether a word in the vocabulary is a token whatever the merges say. llama.cpp decides it by the
            name.
        aliases: other names that llama.cpp splits in the same way.
        rare: whether it is one model's name, taken only where the ``ignore_merges`` of the others would tokenize
            differently.
    """

    name: str
    steps: tuple[Json, ...]
    nfc: bool = False
    ignore_merges: bool = False
    aliases: tuple[str, ...] = ()
    rare: bool = False

    @property
    def normalizer(self) -> Json | None:
        """The normalizer of tokenizer.json."""
        return {"type": "NFC"} if self.nfc else None

    @property
    def pre_tokenizer(self) -> Json:
        """The pre_tokenizer of tokenizer.json."""
        return self.steps[0] if len(self.steps) == 1 else {"type": "Sequence", "pretokenizers": list(self.steps)}


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _split(pattern: str) -> Json:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _byte_level(use_regex: bool) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _digits(individual: bool) -> Json:
    return {"type": "Digits", "individual_digits": individual}


def _splits(*patterns: str) -> tuple[Json, ...]:
    return (*map(_split, patterns), _byte_level(use_regex=False))


_GPT2 = _byte_level(use_regex=True)
_GPT2_REGEX = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SLASH_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_CAMEL = rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+", rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*"
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_TAIL}"
_ASCII_MARKS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    _ASCII_MARKS + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_O200K = rf"{_CAMEL[0]}{_CONTRACTION}?|{_CAMEL[1]}{_CONTRACTION}?|\p{{N}}{{1,3}}|{_SLASH_TAIL}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_TAIL}"
_NOT_HAN = r"&&[^\p{Han}]"
_KIMI = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}{_NOT_HAN}]*[{_LOWER}{_NOT_HAN}]+{_CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}{_NOT_HAN}]+[{_LOWER}{_NOT_HAN}]*{_CONTRACTION}?"
)
_JAIS2_SPACES = "".join(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)) + r"|\s{1,2}(?!\S)|\s{1}"
# What DeepSeek takes for letters: the alphabets that have upper and lower case.
_CASED = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώ"
    "ᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏"
    "𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)

PRE_TOKENIZERS = (
    PreTokenizer(
        "llama-bpe",
        _splits(_LLAMA3),
        ignore_merges=True,
        aliases=_names("llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano glm4 glm5"),
    ),
    PreTokenizer("dbrx", _splits(_LLAMA3), aliases=("smaug-bpe", "chatglm-bpe")),
    PreTokenizer(
        "smollm",
        (_digits(individual=True), _GPT2),
        aliases=("starcoder", "refact", "codeshell", "minerva-7b", "mellum2"),
    ),
    PreTokenizer("command-r", (_digits(individual=True), _GPT2), nfc=True, aliases=("exaone",)),
    PreTokenizer(
        "gpt-2",
        (_GPT2,),
        aliases=_names(
            "phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum modern-bert exaone4 jais "
            "trillion granite-docling jina-v1-en jina-v2-code roberta-bpe"
        ),
    ),
    PreTokenizer("olmo", (_GPT2,), nfc=True, aliases=("mpt",)),
    PreTokenizer(
        "qwen2",
        _splits(_QWEN2),
        nfc=True,
        aliases=_names(
            "stablelm2 deepseek-r1-qwen kormo f2llmv2 megrez hunyuan solar-open grok-2 bailingmoe bailingmoe2 llada-moe"
        ),
    ),
    PreTokenizer(
        "qwen35",
        _splits(
            rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
            r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        nfc=True,
    ),
    PreTokenizer("tekken", _splits(rf"{_CAMEL[0]}|{_CAMEL[1]}|\p{{N}}|{_SLASH_TAIL}"), ignore_merges=True),
    PreTokenizer(
        "gpt-4o",
        _splits(_O200K),
        aliases=("llama4", "kanana2", "talkie", "minimax-m2"),
    ),
    PreTokenizer(
        "falcon",
        (
            {"type": "Punctuation", "behavior": "Contiguous"},
            _GPT2,
            _digits(individual=False),
            _split("[0-9][0-9][0-9]"),
        ),
    ),
    PreTokenizer(
        "deepseek-llm",
        (
            *map(
                _split, ("[\r\n]", rf"\s?[{_CASED}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+")
            ),
            _digits(individual=True),
            _byte_level(use_regex=False),
        ),
    ),
    PreTokenizer(
        "deepseek-coder",
        (
            *map(_split, ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")),
            _digits(individual=True),
            _byte_level(use_regex=False),
        ),
    ),
    PreTokenizer("deepseek-v3", _splits(*_DEEPSEEK3), aliases=("hunyuan-dense", "joyai-llm", "hy_v4")),
    PreTokenizer(
        "seed-coder",
        _splits(rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"),
    ),
    PreTokenizer(
        "jais-2",
        _splits(rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+{_JAIS2_SPACES}"),
    ),
    PreTokenizer(
        "minicpm5",
        _splits(r"\p{N}{1,3}", rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_TAIL}"),
        ignore_merges=True,
    ),
    PreTokenizer("granite-embed-multi-97m", _splits(_O200K), ignore_merges=True, rare=True),
    PreTokenizer("kimi-k2", _splits(rf"[\p{{Han}}]+|{_KIMI}|\p{{N}}{{1,3}}|{_TAIL}")),
    PreTokenizer(
        "afmoe",
        _splits(
            r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|\z))",
            "[一-鿿㐀-䶿豈-\ufaff぀-ゟ゠-ヿ･-ﾟ⼀-\u2fdfเ-\u0e7f\u0e80-\u0eff\u1780-\u17ffက-႟ꩠ-ꩿꧠ-\ua9ff가-\ud7afᄀ-ᇿ]+",
            _DEEPSEEK3[2],
        ),
    ),
    PreTokenizer("laguna", _splits(r"[^\n]+|[\n]+", _QWEN2)),
    PreTokenizer(
        "exaone-moe",
        _splits(
            rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
    ),
    PreTokenizer(
        "spark2_5",
        _splits(
            *_DEEPSEEK3[:2],
            _ASCII_MARKS + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+",
            r"\p{N}",
        ),
    ),
    PreTokenizer("superbpe", _splits(r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    PreTokenizer(
        "chameleon",
        (
            *map(_split, ("<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )")),
            _digits(individual=True),
            _split(r"[\p{P}!-/:-@\[-`{-~]"),
            _GPT2,
        ),
    ),
    PreTokenizer("tiny_aya", _splits(r"\d{1,3}(?=(?:\d{3})*\b)", _O200K), aliases=("cohere2moe",)),
    PreTokenizer(
        "youtu",
        _splits(
            "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
            rf"{_CAMEL[0]}{_CONTRACTION}?|{_CAMEL[1]}{_CONTRACTION}?|\p{{N}}|{_SLASH_TAIL}",
        ),
        ignore_merges=True,
    ),
    PreTokenizer("ufakzeka", _splits(rf"{_WORD}|\p{{N}}|{_TAIL}")),
    PreTokenizer("bloom", _splits(r" ?[^(\s|.,!?…。，、।۔،)]+"), aliases=("poro-chat", "gpt3-finnish")),
    PreTokenizer(
        "viking", (_split(r" ?[^(\s|.,!?…。，、।۔،)]+"), _digits(individual=True), _byte_level(use_regex=False))
    ),
    # What llama.cpp does with files that have no name (of before April 2024); no published tokenizer.json does this.
    PreTokenizer("default", _splits(r"[\p{P}\$\+<=>\^~\|]+", _GPT2_REGEX, r"\p{N}+", "[0-9][0-9][0-9]")),
)

BY_NAME = {name: row for row in PRE_TOKENIZERS for name in (row.name, *row.aliases)}
NAMES = tuple(BY_NAME)

# Names of the gpt-2 row with which llama.cpp also takes the spaces before <mask> (llama-vocab.cpp, load).
MASK_LSTRIP = ("jina-v2-code", "jina-v2-de", "jina-v2-es")
