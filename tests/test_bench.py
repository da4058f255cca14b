"""The benches' texts repeat nothing from split to split, and their errors are those of pairs."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from bench.judge import change, mean
from bench.texts import MIXED, Kept, Texts, overlap, write_texts

from quantmill import tiny_llama, write_gguf

SENTENCE = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    return write_texts(tmp_path_factory.mktemp("texts"))


def test_no_gram_stands_in_two_splits(texts: Texts) -> None:
    parts = {key: path.read_text("utf-8") for key, path in texts.files.items() if key[0] != MIXED}
    assert len(parts) == 6
    for (_, one), (_, other) in combinations(parts.items(), 2):
        assert overlap(one, other) == 0
    assert min(texts.before.values()) > 0.05, "the sources repeat themselves; is nothing measured?"
    assert set(texts.after.values()) == {0.0}
    mixed = texts.files[MIXED, "calibration"].read_text("utf-8")
    assert all(overlap(mixed, text) == 0 for (_, split), text in parts.items() if split != "calibration")


def test_a_seed_moves_what_calibrates_and_nothing_that_is_held_out(texts: Texts, tmp_path: Path) -> None:
    other = write_texts(tmp_path, seed=1)
    for key, path in texts.files.items():
        same = path.read_bytes() == other.files[key].read_bytes()
        assert same == (key[1] == "heldout"), key


def test_repeats_across_paragraphs_are_found() -> None:
    kept = Kept(set())
    first, second = SENTENCE[:40].rsplit(" ", 1)[0], SENTENCE
    kept.add(f"{first}\n\nand more of it\n\n{second}")
    assert len(kept.passages[0].split("\n\n")) == 3
    words = SENTENCE.split()
    kept.add(f"{' '.join(words[:7])}\n\n{' '.join(words[7:])}\n\nand more of it")
    assert kept.passages[1] == f"{' '.join(words[:7])}\n\nand more of it"


def test_the_error_of_a_change_is_that_of_pairs() -> None:
    rng = np.random.default_rng(0)
    first = rng.gamma(2.0, size=4000)
    second = 0.7 * first + 0.02 * rng.standard_normal(4000)
    found, error = change(first, second)
    draws = rng.integers(0, 4000, (300, 4000))
    boot = (second[draws].mean(1) / first[draws].mean(1) - 1).std()
    assert found == pytest.approx(-0.3, abs=4 * error)
    assert error == pytest.approx(boot, rel=0.2)
    unpaired = mean(first)[1] / first.mean()
    assert error < 0.1 * unpaired, "what makes a chunk hard for both should cancel out"


@pytest.mark.slow
def test_the_bench_of_refine_prints_a_row_for_each_way_and_text(tmp_path: Path) -> None:
    bench = Path(__file__).parent / "bench" / "refine.py"
    write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    words = [tmp_path / "tiny.gguf", "--levels", "Q4_0", "--chunks", "4", "--test-chunks", "3", "-c", "64", "--json"]
    done = subprocess.run([sys.executable, bench, *words], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["overlap"]["0"]["after"] == {"docs": 0.0, "code": 0.0}
    assert [(row["way"], row["text"]) for row in found["rows"]] == [
        (way, text) for way in ("importance", "refine-256", "refine-whole", "refine-text") for text in ("docs", "code")
    ]
    assert all(row["kld"] > 0 and row["kld_error"] > 0 for row in found["rows"])
    assert len({row["bytes"] for row in found["rows"]}) <= 3
