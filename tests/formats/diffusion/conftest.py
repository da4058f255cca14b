"""Reading files of small image models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quantmill.formats.diffusion.read import read_diffusion
from quantmill.formats.ir import Model


@pytest.fixture
def read() -> Callable[[Path], tuple[Model, list[str]]]:
    """``model, lines = read(path)``: the model, and what was said."""

    def run(path: Path) -> tuple[Model, list[str]]:
        lines: list[str] = []
        return read_diffusion(path, say=lines.append), lines

    return run
