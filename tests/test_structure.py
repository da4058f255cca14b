"""The shape of the house: imports go one way, files stay small, heavy libraries load late."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# room -> the rooms it may import from, besides itself
ALLOWED = {
    "formats": set(),
    "quantize": {"formats"},
    "imatrix": {"formats"},
    "tools": {"formats", "quantize", "imatrix"},
}
MAX_LINES = 500


def modules(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert found, room
    return found


def imported_rooms(path: Path) -> set[str]:
    """The rooms of the package a module imports from, at any depth of its code."""
    here = path.relative_to(ROOT).parts[:-1]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = here[: len(here) - node.level + 1]
                full = (*base, *(node.module or "").split("."))
                rooms |= {full[0]} if full[0] else {alias.name for alias in node.names}
            elif (node.module or "").startswith("quantmill."):
                rooms.add((node.module or "").split(".")[1])
    return rooms & set(ALLOWED)


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_go_one_way(room: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): extra
        for path in modules(room)
        if (extra := imported_rooms(path) - ALLOWED[room] - {room})
    }
    assert not wrong


@pytest.mark.parametrize("room", ALLOWED)
def test_files_stay_small(room: str) -> None:
    long = {str(p.relative_to(ROOT)): n for p in modules(room) if (n := len(p.read_text().splitlines())) > MAX_LINES}
    assert not long


def test_packages_are_all_listed() -> None:
    """A forgotten line in pyproject.toml would leave a folder out of the wheel."""
    if sys.version_info < (3, 11):
        tomllib = pytest.importorskip("tomli")
    else:
        import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    rooms = {"quantmill"}
    for room in ALLOWED:
        rooms |= {
            ".".join(("quantmill", *p.parent.relative_to(ROOT).parts)) for p in (ROOT / room).rglob("__init__.py")
        }
    assert listed == rooms


@pytest.mark.parametrize("argument", ["--help", "quantize --help", "convert --help"])
def test_help_imports_nothing_heavy(argument: str) -> None:
    code = (
        "import sys; sys.argv = ['quantmill', *sys.argv[1:]]\n"
        "from quantmill.tools.main import run\n"
        "try:\n    run()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'numba', 'transformers', 'tokenizers', 'sentencepiece'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *argument.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout
