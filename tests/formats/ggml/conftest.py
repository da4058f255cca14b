"""A small Llama with grouped-query attention and a SentencePiece vocabulary, as a checkpoint and as an F16 GGUF."""

from __future__ import annotations

from pathlib import Path

import pytest

from oracles.ggml_v3 import save_gqa_llama


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gqa_llama(tmp_path_factory.mktemp("ggml") / "gqa")


@pytest.fixture(scope="session")
def f16(checkpoint: Path) -> Path:
    """The checkpoint as an F16 GGUF."""
    from quantmill.formats.hf.load import read_hf
    from quantmill.quantize.execute import execute
    from quantmill.quantize.plan import make_plan

    path = checkpoint.with_name("gqa-f16.gguf")
    execute(make_plan(read_hf(checkpoint), "F16"), path)
    return path
