from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from oracles.tiny import TEXT, save_tiny_llama
from quantmill.formats.errors import QuantmillError
from quantmill.tools.convert import command as convert
from quantmill.tools.evaluate import command


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 12)
    return path


def run(*args: object) -> Any:
    return CliRunner().invoke(command, [*[str(arg) for arg in args], "--quiet"], catch_exceptions=False)


def figures(*args: object) -> dict[str, Any]:
    done = run(*args, "--json")
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.output))


def test_quantized_against_its_base(tiny: Path, text: Path, tmp_path: Path) -> None:
    q8, q4 = tmp_path / "q8.gguf", tmp_path / "q4.gguf"
    for path, level in ((q8, "Q8_0"), (q4, "Q4_0")):
        done = CliRunner().invoke(
            convert, [str(tiny), str(path), "--outtype", level, "--quiet"], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
    common = ("-f", text, "-c", 64, "--chunks", 6)
    alone = figures(tiny, *common)
    fine, coarse = (figures(path, *common, "--base", tiny) for path in (q8, q4))
    assert fine["base_perplexity"] == pytest.approx(alone["perplexity"], rel=1e-6)
    assert {"perplexity", "perplexity_error", "kld_mean", "kld_p99", "top1"} <= set(fine)
    assert 0 < fine["kld_mean"] < coarse["kld_mean"] / 10
    assert coarse["top1"] < fine["top1"] <= 1
    assert alone["tokens"] == fine["tokens"] == 6 * 31
    assert alone["base"] is None


def test_saved_base_gives_the_same_figures(tiny: Path, text: Path, tmp_path: Path) -> None:
    other = save_tiny_llama(tmp_path / "other", rms_norm_eps=0.3)
    common = ("-f", text, "-c", 64, "--chunks", 4)
    saved = figures(tiny, *common, "--save-base", tmp_path / "base.npz")
    direct, kept = figures(other, *common, "--base", tiny), figures(other, *common, "--base", tmp_path / "base.npz")
    assert kept["base_perplexity"] == pytest.approx(saved["perplexity"], rel=1e-6)
    assert kept["perplexity"] == pytest.approx(direct["perplexity"], rel=1e-6)
    assert kept["kld_mean"] == pytest.approx(direct["kld_mean"], rel=0.1)  # 256 of 320 tokens kept: a lower bound
    assert kept["kld_mean"] <= direct["kld_mean"] * (1 + 1e-6)
    assert kept["top1"] == direct["top1"]
    for words, expected in (
        (("--chunks", 5, "--from-chunk", 1), "was made from another text"),
        (("--chunks", 5), "has only 4 of 5 chunks"),
        (("-c", 32), "was made from another text"),
    ):
        with pytest.raises(QuantmillError, match=expected):
            run(other, *common, *words, "--base", tmp_path / "base.npz")


def test_printed_table(tiny: Path, text: Path) -> None:
    done = run(tiny, "-f", text, "-c", 64, "--chunks", 2, "--base", tiny)
    lines = done.output.splitlines()
    assert lines[0].startswith("perplexity")
    assert next(line for line in lines if line.startswith("same top token")).split()[4] == "100.000"
    assert next(line for line in lines if line.startswith("mean KLD")).split()[2] in ("0.000000", "-0.000000")


def test_several_models(tiny: Path, text: Path, tmp_path: Path) -> None:
    """Each has the figures of its own run, of the base, of saved predictions of it, or of none."""
    other = save_tiny_llama(tmp_path / "other", rms_norm_eps=0.3)
    common = ("-f", text, "-c", 64, "--chunks", 3)
    figures(tiny, *common, "--save-base", tmp_path / "base.npz")
    for base in (("--base", tiny), ("--base", tmp_path / "base.npz"), ()):
        found = figures(tiny, other, *common, *base)
        assert [row.pop("model") for row in found["models"]] == [str(tiny), str(other)]
        for row, path in zip(found["models"], (tiny, other), strict=True):
            alone = figures(path, *common, *base)
            assert alone["base"] == found["base"]
            assert row == {key: value for key, value in alone.items() if key not in ("model", "base")}


def test_several_models_beside_each_other(tiny: Path, text: Path, tmp_path: Path) -> None:
    done = run(tiny, tiny, "-f", text, "-c", 64, "--chunks", 2, "--base", tiny)
    lines = done.output.splitlines()
    assert lines[0].split() == [tiny.name, tiny.name]
    assert next(line for line in lines if line.startswith("same top token")).split()[-2:] == ["100.000"] * 2
    alone = run(tiny, "-f", text, "-c", 64, "--chunks", 2).output.split()
    assert next(line for line in lines if line.startswith("perplexity")).split()[1:] == [alone[1]] * 2
    with pytest.raises(QuantmillError, match=r"--save-base: saves the predictions of one model \(name one\)"):
        run(tiny, tiny, "-f", text, "--save-base", tmp_path / "base.npz")
    assert not list(tmp_path.iterdir())
