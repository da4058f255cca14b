"""The command lines of llama-quantize give llama-quantize's bytes: goldens/commands.json.gz."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from oracles.quantize_samples import CASES, SOURCES, Case, Golden, shards_of, summary, write_samples, write_source
from quantmill.tools.quantize import command

GOLDENS: dict[str, Golden] = {
    golden["command"]: golden
    for golden in json.loads(gzip.decompress((Path(__file__).parent / "goldens" / "commands.json.gz").read_bytes()))[
        "cases"
    ]
}


def command_line(case: Case) -> str:
    return " ".join(case.words("out.gguf"))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder)
    return folder


def quantized(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Golden:
    """Run the case's command line with our own program, in the folder of the samples, and look at its files."""
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(command, [*case.our_words("out.gguf"), "--gguf-version", "3"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    files = shards_of(folder / "out.gguf")
    made = summary(case, files)
    for file in files:
        file.unlink()
    return made


def alike(case: Case, made: Golden, part: str) -> list[str]:
    """The lines of a part without those that are listed as different."""
    if part == "keys":
        return [line for line in made["keys"] if line.split(" ")[0] not in case.differs]
    lines = [f"{name} {type}" for type, names in made["tensors"].items() for name in names.split()]
    return sorted(line for line in lines if line.split(":")[0] not in case.differs)


def compare(case: Case, made: Golden) -> None:
    golden = GOLDENS[command_line(case)]
    for part in ("tensors", "keys"):
        ours, theirs = (alike(case, one, part) for one in (made, golden))
        assert ours == theirs
    assert (made["files"] == golden["files"]) is not bool(case.differs)


@pytest.mark.parametrize("case", [case for case in CASES if case.source not in SOURCES], ids=command_line)
def test_same_bytes(case: Case, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(case, quantized(case, samples, monkeypatch))


@pytest.mark.parametrize("name", SOURCES)
def test_layers_for_further_tokens_and_towers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source(name, tmp_path)
    for case in (case for case in CASES if case.source == name):
        compare(case, quantized(case, tmp_path, monkeypatch))


def test_every_golden_is_compared() -> None:
    assert {command_line(case) for case in CASES} == set(GOLDENS)
