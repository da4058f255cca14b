"""Texts that every Python has, without repeats, in three splits: to calibrate on, to test on, and one held out.

Documentation is the language reference that ``help()`` shows, code the source of Python's library. Both repeat
themselves, so passages that share 16 words in a row with what is kept already are dropped: no 16-gram stands in two
splits. Which passages are held out never changes; a seed divides the others into calibration and test. Choose settings
on ``test``, and report ``heldout`` once they stand.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from pydoc_data.topics import topics

GRAM = 16  # words in a row: shorter ones repeat by chance, longer ones miss edited copies
PASSAGE = 3000  # characters at least, up to the end of a paragraph: some 700 tokens
MOST = 600_000  # characters of a domain, all splits together
SPLITS = ("calibration", "test", "heldout")
DOMAINS = ("docs", "code")
MIXED = "mixed"  # passages of both domains in turns
WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Texts:
    """The files of each split, and how much of the test splits stands in the calibration text.

    Args:
        files: by domain and split; the calibration split has a ``mixed`` one, too.
        before, after: the share of 16-grams of a domain's test and held-out text that the same domain's calibration
            text holds, as the sources lie and without repeats.
    """

    files: dict[tuple[str, str], Path]
    before: dict[str, float]
    after: dict[str, float]

    def line(self) -> str:
        """What was found, for people."""
        found = (f"{name} {self.before[name]:.1%} -> {self.after[name]:.1%}" for name in self.before)
        return f"{GRAM}-grams of the test texts that stand in the calibration text: {', '.join(found)}"


def write_texts(folder: Path, seed: int = 0) -> Texts:
    """Write all splits of all domains into ``folder``."""
    whole = {"docs": list(passages(documentation())), "code": list(passages(sources()))}
    seen: set[int] = set()
    kept = {(domain, split): Kept(seen) for domain in DOMAINS for split in SPLITS}
    for split in reversed(SPLITS):  # what is held out first, so that no seed changes what is kept of it
        for domain, pieces in whole.items():
            for name, passage in pieces:
                if place(name, seed) == split:
                    kept[domain, split].add(passage)
    files = {key: _write(folder / f"{'.'.join(key)}.txt", side.passages) for key, side in kept.items()}
    turns = zip(*(kept[domain, "calibration"].passages for domain in DOMAINS), strict=False)
    files[MIXED, "calibration"] = _write(folder / f"{MIXED}.calibration.txt", chain.from_iterable(turns))
    before, after = {}, {}
    for domain, pieces in whole.items():
        lying = {split: [text for name, text in pieces if place(name, seed) == split] for split in SPLITS}
        before[domain] = _overlap(lying)
        after[domain] = _overlap({split: kept[domain, split].passages for split in SPLITS})
    return Texts(files, before, after)


def documentation() -> dict[str, str]:
    """The topics of Python's help()."""
    return {name: topics[name] for name in sorted(topics)}


def sources() -> dict[str, str]:
    """Modules of Python's library, in an order that mixes them, up to ``MOST`` characters."""
    library = Path(json.__file__).parents[1]
    found: dict[str, str] = {}
    paths = [*library.glob("*.py"), *library.glob("[a-k]*/*.py")]
    for path in sorted(paths, key=lambda path: _digest(str(path.relative_to(library)))):
        text = path.read_text("utf-8", errors="replace")
        found[str(path.relative_to(library))] = text
        if sum(map(len, found.values())) > MOST:
            break
    return found


def passages(documents: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Documents in pieces of whole paragraphs, each with a name."""
    for name, text in documents.items():
        gathered: list[str] = []
        number = 0
        for paragraph in text.split("\n\n"):
            gathered.append(paragraph)
            if sum(map(len, gathered)) >= PASSAGE:
                yield f"{name} {number}", "\n\n".join(gathered)
                gathered, number = [], number + 1
        if gathered:
            yield f"{name} {number}", "\n\n".join(gathered)


class Kept:
    """A text that grows by the paragraphs that repeat nothing.

    Args:
        seen: the 16-grams kept until now, which texts share.
    """

    def __init__(self, seen: set[int]) -> None:
        self.passages: list[str] = []
        self.seen = seen
        self._last: list[str] = []

    def add(self, passage: str) -> bool:
        """Add the paragraphs of a passage that share no 16-gram with what is kept; whether there is one.

        The words before a paragraph count, too, so that no repeat lies across two paragraphs.
        """
        paragraphs = []
        for paragraph in passage.split("\n\n"):
            words = self._last + WORDS.findall(paragraph)
            found = set(grams_of(words))
            if paragraph.strip() and not found & self.seen:
                self.seen |= found
                self._last = words[-GRAM + 1 :]
                paragraphs.append(paragraph)
        if paragraphs:
            self.passages.append("\n\n".join(paragraphs))
        return bool(paragraphs)


def overlap(text: str, other: str) -> float:
    """The share of the 16-grams of ``text`` that stand in ``other``.

    >>> words = [str(number) for number in range(40)]
    >>> overlap(" ".join(words[:20]), " ".join(words[1:]))
    0.8
    """
    known = set(grams_of(WORDS.findall(other)))
    grams = list(grams_of(WORDS.findall(text)))
    return sum(gram in known for gram in grams) / max(1, len(grams))


def place(name: str, seed: int) -> str:
    """The split of a passage: a quarter is held out for every seed, a quarter is test, half is calibration."""
    if _digest(name) % 4 == 0:
        return "heldout"
    return "test" if random.Random(f"{seed} {name}").random() < 1 / 3 else "calibration"


def _overlap(splits: dict[str, list[str]]) -> float:
    return overlap("\n\n".join(splits["test"] + splits["heldout"]), "\n\n".join(splits["calibration"]))


def grams_of(words: list[str]) -> Iterator[int]:
    """The hash of every 16 words in a row."""
    return (hash(tuple(words[start : start + GRAM])) for start in range(len(words) - GRAM + 1))


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _write(path: Path, parts: Iterable[str]) -> Path:
    path.write_text("\n\n".join(parts), "utf-8")
    return path
