"""Fetch llama.cpp's own test vocabularies: models/ggml-vocab-*.gguf, some with .inp and .out, and the code that reads
them (77 MB, half a minute).

python tests/oracles/make_vocabularies.py

They come in the source distribution of llama-cpp-python and go to ``QUANTMILL_CLIENTS`` (default
~/.cache/quantmill-clients), a folder for CI to cache.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

PINNED = "llama-cpp-python==0.3.36"
NAMES = (
    *("aquila", "baichuan", "bert-bge", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2"),
    *("gpt-neox", "llama-bpe", "llama-spm", "mpt", "nomic-bert-moe", "phi-3", "qwen2", "qwen35", "refact", "starcoder"),
)


def folder() -> Path:
    root = Path(os.environ.get("QUANTMILL_CLIENTS", "~/.cache/quantmill-clients")).expanduser()
    return root / f"vocabularies-{PINNED.replace('==', '-')}"


def make() -> Path:
    """Fetch them unless they are there. Raises ``CalledProcessError``; half of them do not stay."""
    if folder().is_dir():
        return folder()
    half = folder().with_name(f"{folder().name}.{os.getpid()}")
    half.mkdir(parents=True)
    try:
        archive = download(half)
        with tarfile.open(archive) as tar:
            for member in tar:
                name = Path(member.name)
                vocabulary = name.parent.name == "models" and name.name.startswith("ggml-vocab-")
                if member.isfile() and (vocabulary or name.parts[-2:] == ("src", "llama-vocab.cpp")):
                    data = tar.extractfile(member)
                    assert data is not None
                    (half / name.name).write_bytes(data.read())
        archive.unlink()
        half.rename(folder())
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return folder()


def download(folder: Path) -> Path:
    """The source distribution, as an archive in ``folder``."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python"]
    subprocess.run([*pip, PINNED, "-d", str(folder)], check=True)
    (archive,) = folder.glob("*.tar.gz")
    return archive


def cases(name: str) -> tuple[list[str], list[list[int]]]:
    """A vocabulary's texts and the ids llama.cpp's own tests want for each (special tokens' texts being text)."""
    path = make() / f"ggml-vocab-{name}.gguf"
    wanted = path.with_name(f"{path.name}.out")
    if not wanted.is_file():
        return [], []
    texts = path.with_name(f"{path.name}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    ids = [[int(number) for number in line.split()] for line in wanted.read_text().splitlines()]
    assert len(texts) - len(ids) in (0, 1)  # the last separator may end the file
    return texts[: len(ids)], ids


def names_in_the_source() -> set[str]:
    """The pre-tokenizers' names that llama.cpp's source compares with."""
    return set(re.findall(r'tokenizer_pre == "([^"]+)"', (make() / "llama-vocab.cpp").read_text()))


if __name__ == "__main__":
    print(make())
