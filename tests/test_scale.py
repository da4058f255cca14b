"""Size costs time, not memory: sparse models of gigabytes, planned at once and streamed in a few MB."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.scale import Model, llama, measure

MEMORY = 300  # MB; the interpreter, numpy and numba take a hundred of them, whatever the model


def test_a_hundred_billion_weights_are_planned_at_once(tmp_path: Path) -> None:
    model = Model(tmp_path / "m", llama(100e9, hidden=8192))
    assert 95e9 < model.weights < 105e9
    for words in model.commands("Q4_K_M").values():
        found = measure([*words, "--dry-run"])
        assert found["code"] == 0, found["said"]
        assert found["seconds"] < 30
        assert 10 < found["peak_mb"] < MEMORY


@pytest.mark.parametrize("command", ["quantize to Q8_0", pytest.param("convert to Q8_0", marks=pytest.mark.slow)])
def test_a_tensor_of_a_gigabyte(command: str, tmp_path: Path) -> None:
    config = llama(1, vocabulary=int(1e9 / 2 / 2048)) | {"tie_word_embeddings": True}
    model = Model(tmp_path / "m", config)
    found = measure(model.commands("Q8_0")[command])
    assert found["code"] == 0, found["said"]
    assert model.out.stat().st_size > 0.5e9
    assert 50 < found["peak_mb"] < MEMORY


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    peaks = []
    for billions in (0.1, 2):
        model = Model(tmp_path / f"{billions}", llama(billions * 1e9))
        rows = [model.row(what, words) for what, words in model.commands("Q4_K_M").items()]
        assert [row["code"] for row in rows] == [0, 0, 0]
        peaks.append(max(row["peak_mb"] for row in rows))
    assert peaks[1] < MEMORY
    assert peaks[1] < peaks[0] + 50
