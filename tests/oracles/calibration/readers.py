"""A file of a source as paragraphs."""

from __future__ import annotations

import gzip
import html
import re
import zlib
from collections.abc import Callable, Iterator
from itertools import cycle

import yaml

# (before all, user before and after, assistant before and after), as the models' own templates write them
TEMPLATES = (
    ("", "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", "<|im_end|>\n"),
    ("<|begin_of_text|>", "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>",
     "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    ("", "<start_of_turn>user\n", "<end_of_turn>\n", "<start_of_turn>model\n", "<end_of_turn>\n"),
    ("<s>", "[INST] ", " [/INST]", " ", "</s>"),
    ("", "<|user|>\n", "<|end|>\n", "<|assistant|>\n", "<|end|>\n"),
    ("", "USER: ", " ", "ASSISTANT: ", "</s>"),
)  # fmt: skip
TURNS = 4  # questions in a conversation
NOVEL = 30_000  # characters of each: the beginnings of several say more than one as a whole
LONGEST = 8000  # characters of a paragraph: longer ones are tables


def plain(data: bytes) -> Iterator[str]:
    """Paragraphs between empty lines, less licences', Sphinx's directives, and tables."""
    text = data.decode("utf-8", errors="ignore").replace("\r\n", "\n").replace("\t", "    ")
    for paragraph in re.split(r"\n\s*\n", text):
        named = re.search(r"copyright|licen[sc]e|warrant", paragraph, re.IGNORECASE)
        if not named and not paragraph.startswith(".. auto") and len(paragraph) < LONGEST:
            yield paragraph.rstrip()


def gzipped(data: bytes) -> Iterator[str]:
    """``plain`` of a gzip file; a dictionary's headings of its own are left out."""
    for paragraph in plain(gzip.decompress(data)):
        if not paragraph.startswith("00-database"):
            yield paragraph


def r_strings(data: bytes) -> Iterator[str]:
    """The paragraphs in the character vectors of R's lazy-load database: zlib streams of its XDR serialization."""
    for start in (match.start() for match in re.finditer(rb"\x78\x9c", data)):
        try:
            raw = zlib.decompressobj().decompress(data[start:])
        except zlib.error:
            continue
        lines = list(_r_lines(raw))
        if len(lines) > 1000:
            yield from plain("\n".join(lines)[:NOVEL].encode())


def _r_lines(raw: bytes) -> Iterator[str]:
    """The strings of an R object: CHARSXP's flags, a length, and as many bytes."""
    for match in re.finditer(rb"\x00[\x00\x04][\x00\x80]\x09(\x00\x00..)", raw, re.DOTALL):
        length = int.from_bytes(match[1], "big")
        if length < 200:
            yield raw[match.end() : match.end() + length].decode("utf-8", errors="ignore")


def markup(data: bytes) -> Iterator[str]:
    """The text of an HTML page, an element a paragraph."""
    body = data.decode("utf-8").partition("<body>")[2]
    for text in re.findall(r"<(?:p|h1|h2|h3)[^>]*>(.*?)</(?:p|h1|h2|h3)>", body, re.DOTALL):
        yield html.unescape(re.sub(r"<[^>]+>|\s+", " ", text)).strip()


def faq(data: bytes) -> Iterator[str]:
    """Questions that are headings, and the paragraphs under each, as conversations of one turn."""
    parts = re.split(r"\n([^\n]+\?)\n[=\-~]{4,}\n", data.decode("utf-8"))
    shapes = cycle(TEMPLATES)
    for question, answer in zip(parts[1::2], parts[2::2], strict=True):
        answer = re.sub(r":\w+:`~?([^`<]+?)(?: <[^`]+>)?`", r"``\1``", re.sub(r"\.\. _[^\n]+:\n", "", answer)).strip()
        yield chat(next(shapes), [(question.strip(), answer)])


def conversations(data: bytes) -> Iterator[str]:
    """Questions and answers of a chatbot's corpus, a few turns each."""
    pairs = []
    for lines in yaml.safe_load(data.decode("utf-8"))["conversations"]:
        words = [str(line).strip() for line in lines]
        if len(words) >= 2 and all(words[:2]):
            pairs.append((words[0], words[1]))
    shapes = cycle(TEMPLATES)
    for start in range(0, len(pairs) - TURNS + 1, TURNS):
        yield chat(next(shapes), pairs[start : start + TURNS])


def chat(template: tuple[str, ...], turns: list[tuple[str, str]]) -> str:
    """A conversation as a template writes it, its empty lines closed up so that it stays one paragraph."""
    start, before, after, answer, end = template
    said = "".join(f"{before}{question}{after}{answer}{reply}{end}" for question, reply in turns)
    return re.sub(r"\n\s*\n(?!\S*<)", "\n", f"{start}{said}").strip()


READERS: dict[str, Callable[[bytes], Iterator[str]]] = {
    "plain": plain,
    "gzipped": gzipped,
    "r_strings": r_strings,
    "html": markup,
    "faq": faq,
    "conversations": conversations,
}
