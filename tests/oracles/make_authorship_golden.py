"""What llama.cpp's converter makes of --metadata, --model-name and --vocab-only: goldens/authorship.json of the tests.

PYTHONPATH=tests python tests/oracles/make_authorship_golden.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from oracles.converter import GOLDENS, summary
from oracles.make_converter_goldens import Converter, fetch
from oracles.make_vocabularies import PINNED
from oracles.tiny import save_tiny_llama

GOLDEN = GOLDENS.with_name("authorship.json")
CARD = """---
license: [mit, apache-2.0]
base_model: org/Base-7B-v0.1
datasets: org/words
tags: [a, b]
language: en
---
"""
FACTS = {
    "general.sampling.temp": 0.7,
    "general.sampling.top_k": 40,
    "general.author": "somebody",
    "general.version": "v2",
    "general.description": "a file of facts",
    "general.quantized_by": "us",
    "general.url": "https://example.org/model",
    "general.source.repo_url": "https://example.org/source",
    "general.base_models": [
        {"name": "First 7B", "organization": "Org", "repo_url": "https://example.org/1"},
        {"name": "Second"},
    ],
    "general.datasets": [],
    "general.tags": ["x", "y"],
    "general.languages": ["de", "fr"],
}
RUNS = {"facts": (), "named": ("--model-name", "Our Name 8B")}


def folder_of_facts(folder: Path) -> Path:
    """A checkpoint with a card, and facts.json beside it."""
    save_tiny_llama(folder / "tiny-llama", layers=1)
    (folder / "tiny-llama" / "README.md").write_text(CARD)
    (folder / "facts.json").write_text(json.dumps(FACTS))
    return folder / "tiny-llama"


def main() -> None:
    converter = Converter(fetch())
    converter.base.TextModel.get_vocab_base_pre = converter.look_up = lambda *_: "llama-bpe"
    golden = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = folder_of_facts(folder)
        for name, words in RUNS.items():
            path = folder / f"{name}-{{ftype}}.gguf"
            converter.convert(model, path, "f16", options=("--metadata", str(folder / "facts.json"), *words))
            made = folder / f"{name}-f16.gguf"
            keys = summary(made, made)["metadata"]
            golden[name] = {key: value for key, value in keys.items() if key.startswith("general.")}
        path = folder / "vocabulary.gguf"
        converter.convert(model, path, "f16", options=("--vocab-only",))
        golden["vocabulary"] = summary(path, path)["metadata"]
    GOLDEN.write_text(json.dumps({"made with": PINNED, **golden}, indent=1) + "\n")


if __name__ == "__main__":
    main()
