"""The public API: every docstring has an example that runs, and a user's script type-checks."""

from __future__ import annotations

import ast
import doctest
import inspect
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import quantmill

ROOT = Path(__file__).parent.parent
ROOMS = ("formats", "quantize", "imatrix", "tools")
SCRIPT = Path(__file__).parent / "data" / "user_script.py"
NAMES = [name for name in quantmill.__all__ if not name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_in_each_docstring_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thing = getattr(quantmill, name)
    if thing is quantmill.Event:
        return  # a union, whose members have examples
    text = inspect.getdoc(thing) or ""
    examples = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    if inspect.isclass(thing) and issubclass(thing, Exception) and thing is not quantmill.QuantmillError:
        assert text  # one example is enough for all errors
        return
    assert examples.examples, f"{name} has no example"
    assert not any(doctest.SKIP in example.options for example in examples.examples), f"{name}'s example does not run"
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=said.append)
    assert not result.failed, "".join(said)


def test_the_users_script_uses_every_name() -> None:
    used = {
        node.attr if isinstance(node, ast.Attribute) else node.name
        for node in ast.walk(ast.parse(SCRIPT.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Attribute, ast.alias))
    }
    assert not set(NAMES) - used


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has what a wheel installs, beside what this one has."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    package = site / "quantmill"
    for room in ROOMS:
        shutil.copytree(ROOT / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "py.typed"):
        shutil.copy(ROOT / name, package / name)
    return folder / "bin" / "python"


@pytest.mark.slow  # mypy reads the whole package and NumPy
def test_a_users_script_type_checks(installed: Path) -> None:
    """A slow test says the same of the wheel itself."""
    check_types(SCRIPT, installed)


@pytest.mark.slow
def test_a_wrong_script_does_not_type_check(installed: Path, tmp_path: Path) -> None:
    """Types are seen at all: else everything would pass."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import quantmill\nquantmill.convert('a', 'b', 4)\nquantmill.convert('a', 'b', imatrx='c')\n")
    with pytest.raises(
        AssertionError, match=r'"convert" has incompatible type "int"(.|\n)*Unexpected keyword argument'
    ):
        check_types(wrong, installed)


def check_types(script: Path, python: Path) -> None:
    """As a user would: the package is installed, and mypy is told to be strict."""
    copy = python.parent / script.name  # away from our own sources, which mypy would take for the package
    shutil.copy(script, copy)
    cache = ROOT / ".mypy_cache" / "user"
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(cache)]
    run([*mypy, "--python-executable", str(python), str(copy)], python.parent, {"PYTHONPATH": ""})


@pytest.mark.slow
def test_wheel_and_sdist_hold_everything(tmp_path: Path) -> None:
    """A wheel made of the sdist, installed alone, gives all commands, files and types."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run([*pip, "install", "--target", str(tmp_path / "build"), "build"], tmp_path)
    builder = {"PYTHONPATH": str(tmp_path / "build")}
    run([sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(ROOT)], tmp_path, builder)
    assert len(list((tmp_path / "dist").glob("quantmill-*.tar.gz"))) == 1
    (wheel,) = (tmp_path / "dist").glob("quantmill-*.whl")
    site = tmp_path / "site"
    run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], tmp_path)
    ours = {path.relative_to(ROOT) for room in ROOMS for path in tracked(room)}
    theirs = {path.relative_to(site / "quantmill") for path in (site / "quantmill").rglob("*") if path.is_file()}
    assert ours <= theirs
    commands = {"convert", "quantize", "imatrix", "gguf-set-metadata", "quantmill"}
    assert {path.name for path in (site / "bin").iterdir()} == commands
    for command in sorted(commands):
        run([sys.executable, str(site / "bin" / command), "--help"], tmp_path, {"PYTHONPATH": str(site)})
    venv.create(tmp_path / "env", with_pip=False)
    (found,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (found / "ours.pth").write_text(f"{site}\n{sysconfig.get_path('purelib')}\n")
    check_types(SCRIPT, tmp_path / "env" / "bin" / "python")


def tracked(room: str) -> list[Path]:
    """The files of a room that are the package's: not compiled ones."""
    return [path for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def run(words: list[str], folder: Path, more: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **(more or {})}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
