"""``quantmill plan``: tables, JSON, what fits, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oracles.ggml_v3 import save_gqa_llama
from oracles.proofs import all_proofs, save_proof
from oracles.tiny import TEXT, save_tiny_llama, save_tiny_mixtral
from quantmill.quantize.recipes import LEVELS, RECIPE_SETS

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("plan") / "tiny", hidden=256)


@pytest.fixture(scope="module")
def gguf(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from click.testing import CliRunner

    from quantmill.tools.convert import command

    path = tmp_path_factory.mktemp("plan-gguf") / "tiny-f16.gguf"
    done = CliRunner().invoke(command, [str(checkpoint), str(path), "--outtype", "f16"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return path


def planned(cli: Cli, *args: object) -> dict[str, Any]:
    done = cli("plan", *args, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_every_level(cli: Cli, checkpoint: Path) -> None:
    report = planned(cli, checkpoint)
    made = [row["level"] for row in report["levels"]]
    assert made == [level for level in LEVELS if level not in report["impossible"]]
    assert set(report["impossible"]) == {"Q1_0"}  # a width of 64 fits none of its blocks, and it has no fallback
    for row in report["levels"]:
        assert row["max_ram_bytes"] == row["bytes"] + 2_500_000_000
        assert row["bytes"] < row["run_bytes"] < row["bytes"] + 100_000_000
        assert set(row) >= {"level", "bytes", "bpw", "max_ram_bytes", "fallbacks"}
        assert sum(row["types"].values()) == 30
    table = cli("plan", checkpoint, "Q4_K_M").out
    assert "19 F32" not in table
    assert "Q4_K" in table
    assert "RAM at 4096" in table


@pytest.mark.parametrize("level", ["F16", "Q8_0", "Q4_K_M"])
def test_planned_is_written_from_a_checkpoint(cli: Cli, checkpoint: Path, level: str, tmp_path: Path) -> None:
    (row,) = planned(cli, checkpoint, level)["levels"]
    out = tmp_path / "out.gguf"
    assert cli("convert", checkpoint, out, "--outtype", level, "--quiet").code == 0
    assert out.stat().st_size == row["bytes"]


def test_planned_is_written_with_importance(cli: Cli, gguf: Path, tmp_path: Path) -> None:
    imatrix = tmp_path / "tiny.imatrix.gguf"
    assert cli("imatrix", "-m", gguf, "-o", imatrix, "-c", "64", "--chunks", "2", "--quiet").code == 0
    (row,) = planned(cli, gguf, "Q4_0", "--imatrix", imatrix)["levels"]
    assert row["types"]["Q4_0"] > 0
    out = tmp_path / "out.gguf"
    assert cli("quantize", gguf, out, "Q4_0", "--imatrix", imatrix, "--quiet").code == 0
    assert out.stat().st_size == row["bytes"]


def test_planned_is_written_as_ggml(cli: Cli, tmp_path: Path) -> None:
    checkpoint = save_gqa_llama(tmp_path / "gqa")
    (row,) = planned(cli, checkpoint, "Q5_1", "--format", "ggml")["levels"]
    out = tmp_path / "out.bin"
    assert cli("convert", checkpoint, out, "--outtype", "Q5_1", "--quiet").code == 0
    assert out.stat().st_size == row["bytes"]


def test_a_config_alone(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    """With the tokenizer beside it, its sizes are those of the whole checkpoint; without, they say what they assume."""
    folder = shutil.copytree(checkpoint, tmp_path / checkpoint.name, ignore=shutil.ignore_patterns("*.safetensors"))
    whole = {row["level"]: row["bytes"] for row in planned(cli, checkpoint)["levels"]}
    for source in (folder, folder / "config.json"):
        report = planned(cli, source)
        assert {row["level"]: row["bytes"] for row in report["levels"]} == whole
        assert not report["vocabulary_assumed"]
    alone = tmp_path / "alone" / "config.json"
    alone.parent.mkdir()
    shutil.copy(checkpoint / "config.json", alone)
    report = planned(cli, alone, "Q8_0")
    assert report["vocabulary_assumed"]
    assert abs(report["levels"][0]["bytes"] - whole["Q8_0"]) < 20_000
    assert "no tokenizer" in cli("plan", alone, "Q8_0").out
    assert "no tokenizer" not in cli("plan", alone, "Q8_0", "--quiet").out


def test_recipe_sets_and_formats(cli: Cli, gguf: Path) -> None:
    old = planned(cli, gguf, "--recipe-set", "2023-12")["levels"]
    assert [row["level"] for row in old] == list(RECIPE_SETS["2023-12"])
    new = {row["level"]: row["bytes"] for row in planned(cli, gguf)["levels"]}
    assert next(row["bytes"] for row in old if row["level"] == "Q2_K") > new["Q2_K"]
    gptq = planned(cli, gguf, "--format", "gptq")
    assert len(gptq["levels"]) == len(gptq["impossible"]) == 4  # groups of 128 do not divide a width of 64
    assert gptq["recipe_set"] is None


def test_fits(cli: Cli, gguf: Path) -> None:
    levels = {row["level"]: row for row in planned(cli, gguf)["levels"]}
    limit = levels["Q5_K_M"]["run_bytes"]
    assert planned(cli, gguf, "--fits", limit)["fits"]["level"] == "Q5_K_M"
    assert planned(cli, gguf, "--fits", limit - 1)["fits"]["level"] != "Q5_K_M"
    # of the levels that were named, also one that would not be advised; and a longer context takes its share
    assert planned(cli, gguf, "Q4_0", "Q5_0", "--fits", limit)["fits"]["level"] == "Q5_0"
    longer = planned(cli, gguf, "--fits", limit, "--ctx", "4352")["fits"]["level"]
    assert levels[longer]["bytes"] < levels["Q5_K_M"]["bytes"]
    assert "F16" in cli("plan", gguf, "--fits", "8GiB").out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["Q9_K"], "unknown level"),
        (["IQ4_XS", "--book", "2023-12"], "unknown level"),
        (["--fits", "1MB"], "the smallest level, Q1_0|the smallest level, IQ1_S"),
        (["--format", "gptq", "4bit-17g"], "GPTQ has no"),
        (["--imatrix", "/nonexistent.dat"], "cannot be read"),
    ],
)
def test_refused(refused: Callable[..., str], gguf: Path, args: list[str], message: str) -> None:
    import re

    assert re.search(message, refused("plan", gguf, *args))


@pytest.mark.parametrize(("size", "message"), [("4GX", "unknown unit"), ("much", "not a valid size")])
def test_bad_sizes(cli: Cli, gguf: Path, size: str, message: str) -> None:
    done = cli("plan", gguf, "--fits", size)
    assert done.code == 2
    assert message in done.err


def test_no_such_model(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "no such file" in refused("plan", tmp_path / "nothing")


@pytest.mark.slow
def test_experts_every_level(cli: Cli, tmp_path: Path) -> None:
    """A mixture of experts, two of four at a time: as written, to the byte."""
    folder, gguf, imatrix = tmp_path / "mixtral", tmp_path / "f16.gguf", tmp_path / "imatrix.gguf"
    save_tiny_mixtral(folder)
    assert cli("convert", folder, gguf, "--outtype", "f16", "--quiet").code == 0
    (tmp_path / "t.txt").write_text(TEXT * 40)
    words = ("-f", tmp_path / "t.txt", "-c", "128", "--chunks", "8", "--quiet")
    assert cli("imatrix", "-m", folder, "-o", imatrix, *words).code == 0
    report = planned(cli, gguf, "--imatrix", imatrix)
    assert len(report["levels"]) == len(LEVELS)
    for row in report["levels"]:
        out = tmp_path / "out.gguf"
        assert cli("quantize", gguf, out, row["level"], "--imatrix", imatrix, "--quiet", "--force").code == 0
        assert out.stat().st_size == row["bytes"], row


@pytest.mark.slow
def test_smollm2_every_level(smollm2_f16: Path, tmp_path: Path, cli: Cli) -> None:
    """Each level of a real model, whose width makes most k-quants fall back: as written, to the byte."""
    imatrix = tmp_path / "imatrix.gguf"
    assert cli("imatrix", "-m", smollm2_f16, "-o", imatrix, "-c", "128", "--chunks", "2", "--quiet").code == 0
    report = planned(cli, smollm2_f16, "--imatrix", imatrix)
    assert len(report["levels"]) + len(report["impossible"]) == len(LEVELS)
    for row in report["levels"]:
        out = tmp_path / "out.gguf"
        done = cli("quantize", smollm2_f16, out, row["level"], "--imatrix", imatrix, "--quiet", "--force")
        assert done.code == 0, done.err
        assert out.stat().st_size == row["bytes"], row
        assert done.out == ""


@pytest.mark.parametrize(("option", "mtp"), [(None, "keep"), ("--no-mtp", "leave"), ("--mtp-only", "only")])
def test_layers_for_further_tokens_are_counted_as_they_are_written(
    cli: Cli, tmp_path: Path, option: str | None, mtp: str
) -> None:
    """From the folder, from its config.json alone, and as what convert writes."""
    proof = next(proof for proof in all_proofs() if proof.id == "glm4moe")
    save_proof(proof, tmp_path)
    options = [option] if option else []
    size = planned(cli, tmp_path, "Q8_0", *options)["levels"][0]["bytes"]
    config = tmp_path / "alone" / "config.json"
    config.parent.mkdir()
    shutil.copy(tmp_path / "config.json", config)
    alone, whole = planned(cli, config.parent, "Q8_0", *options), planned(cli, config.parent, "Q8_0")
    assert (alone["weights"] < whole["weights"]) == (mtp != "keep")
    assert cli("convert", tmp_path, tmp_path / "x.gguf", "--outtype", "Q8_0", *options).code == 0
    assert size == (tmp_path / "x.gguf").stat().st_size


def test_layers_for_further_tokens_of_a_gguf_file_are_in_it(cli: Cli, refused: Callable[..., str], gguf: Path) -> None:
    assert "--no-mtp: is for Hugging Face folders" in refused("plan", gguf, "--no-mtp")
    assert "exclude each other" in cli("plan", gguf, "--no-mtp", "--mtp-only").err
