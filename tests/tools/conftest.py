"""Running commands as a shell would, without the cost of a process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from oracles.gptq import Client
from oracles.make_gptq_client import is_made, make
from oracles.tiny import TEXT, save_tiny_llama


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """``cli("quantize", path, "Q4_K_M")`` runs a command with its errors handled as at a shell's prompt."""
    from quantmill.tools.main import load_command, main

    def run(name: str, *args: object) -> Done:
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(load_command(name), name)
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Done(end.value.code, out, err)

    return run


@pytest.fixture
def refused(cli: Callable[..., Done], tmp_path: Path) -> Callable[..., str]:
    """``refused("quantize", ...)`` expects exit code 2 and one line on stderr, and that no file was left or changed."""

    def run(name: str, *args: object) -> str:
        before = snapshot(tmp_path)
        done = cli(name, *args)
        assert done.code == 2, done
        assert done.out == ""
        assert snapshot(tmp_path) == before
        lines = [line for line in done.err.splitlines() if line.strip()]
        assert len(lines) == 1, done.err
        assert lines[0].startswith(f"{name}: ")
        return lines[0]

    return run


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """GPTQModel in an environment of its own. CI makes it; a developer who has not is told how to."""
    if os.environ.get("CI"):
        make()
    elif not is_made():
        pytest.skip("GPTQ's client is not there: python tests/oracles/make_gptq_client.py")
    with Client() as running:
        yield running


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two blocks, 256 wide, that knows some English words."""
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "Tiny", layers=2, hidden=256)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of a few thousand tokens."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 12)
    return path
