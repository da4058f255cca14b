"""What releases are made of in tests: a small model with a card and a chat template."""

from __future__ import annotations

import json
from pathlib import Path

from oracles.tiny import save_tiny_llama

CARD = """---
license: apache-2.0
language: [en, "no"]
tags: [chat]
---
# A card
"""
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}\n{% endfor %}<|assistant|>"


def save_with_card(folder: Path) -> Path:
    """Save a Llama whose rows are a super-block wide; the template ends turns with the end of the text."""
    save_tiny_llama(folder, layers=2, hidden=256)
    (folder / "README.md").write_text(CARD)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
