"""Nothing is lost: killed at random moments and run again, what reads and writes ends in the bytes of a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest

from oracles.kills import KILLS, WRITING, check, digest


def test_quantize_twice(sources: Path, tmp_path: Path) -> None:
    check("quantize", sources, tmp_path / "out", 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITING)
def test_at_random_moments(name: str, sources: Path, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    record_property("counts", check(name, sources, tmp_path / "out", KILLS))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quantize", "convert in one pass"])
def test_past_the_cache(name: str, sources: Path, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    """As models are read and written that do not fit it; the bytes are those of the ordinary way."""
    check(name, sources, tmp_path / "ordinary", 0)
    before = "from quantmill.formats.storage import uncached; uncached._room = lambda: -1"
    counts = check(name, sources, tmp_path / "past", KILLS, before)
    made = WRITING[name][1]
    assert digest(tmp_path / "past" / made) == digest(tmp_path / "ordinary" / made)
    record_property("counts", f"past the cache: {counts}")
