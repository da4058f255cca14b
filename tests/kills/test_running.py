"""Nothing is lost: killed at random moments and run again, what runs a model ends in the bytes of a whole run.

In a file of its own, so that two processes share the kills.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from oracles.kills import KILLS, RUNNING, check


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNING)
def test_at_random_moments(name: str, sources: Path, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    record_property("counts", check(name, sources, tmp_path / "out", KILLS))
