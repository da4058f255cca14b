"""``quantmill demo``, from start to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quantmill.tools.demo import LEVELS


@pytest.mark.slow
def test_demo(cli: Callable[..., object], tmp_path: Path) -> None:
    done = cli("demo", tmp_path / "out")
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines() if line.split()[0] in LEVELS]
    assert [row[0] for row in rows] == list(LEVELS)
    sizes = [float(row[1]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    for level in LEVELS:
        assert len(list((tmp_path / "out").glob(f"*.{level}.gguf"))) == 1
