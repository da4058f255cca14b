"""What the commands that are killed work on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from oracles.quantized import save
from oracles.tiny import TEXT, save_tiny_llama


@pytest.fixture(scope="module")
def sources(smollm2_hf: Path, smollm2_f16: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(smollm2_hf, folder / "smollm2")
    (folder / "f16.gguf").symlink_to(smollm2_f16)
    save_tiny_llama(folder / "small", layers=6, hidden=256)
    save("qwen3moe", folder / "experts", num_hidden_layers=6)
    (folder / "text.txt").write_text(TEXT * 20)
    return folder
