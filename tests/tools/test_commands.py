"""What every command owes its user."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from quantmill.formats.errors import SourceError
from quantmill.tools.main import COMMANDS, load_command

GOLDENS = Path(__file__).parents[1] / "imatrix" / "goldens"
# Commands that print no table: one line of what was done, or files.
NO_TABLE = {"gguf-set-metadata", "merge", "merge-lora"}
# Those that also stand alone, by pyproject's [project.scripts].
ALONE = {"convert", "quantize", "imatrix", "gguf-set-metadata"}


def options(command: click.Command) -> dict[str, click.Option]:
    return {name: p for p in command.params if isinstance(p, click.Option) for name in p.opts}


def help_of(name: str) -> str:
    command = load_command(name)
    return command.get_help(click.Context(command, info_name=name, **command.context_settings))


@pytest.mark.parametrize("name", COMMANDS)
def test_options_that_all_have(name: str) -> None:
    found = options(load_command(name))
    assert {"--debug", "--quiet"} <= set(found)
    assert ("--json" in found) == (name not in NO_TABLE)
    assert {"-h", "--help"} <= set(help_of(name).split("Options:")[1].replace(",", " ").split())
    bare = [option for option, p in found.items() if not p.help and not p.hidden and option not in _PLAIN]
    assert not bare, "options without a word of help"


_PLAIN = {"-m", "-o", "--output", "-c", "--ctx-size"}  # named as llama.cpp's, and shown with their defaults


def examples(name: str) -> list[list[str]]:
    """The words of each example in a command's help."""
    lines = help_of(name).split("Options:")[0].splitlines()
    start = next((i for i, line in enumerate(lines) if line.strip().startswith("Example: ")), None)
    assert start is not None, f"{name} --help shows no example"
    found = [lines[start].strip().removeprefix("Example: ")]
    for line in lines[start + 1 :]:
        if not line.startswith(" " * 10) or not line.strip():
            break
        found.append(line.strip())
    return [shlex.split(line.partition(" > ")[0]) for line in found]


@pytest.mark.parametrize("name", COMMANDS)
def test_its_examples_are_right(name: str) -> None:
    """Each begins with a command that exists, and names only options and values that it takes."""
    command = load_command(name)
    shown = examples(name)
    assert shown
    for words in shown:
        assert words[: 1 if name in ALONE else 2] == ([name] if name in ALONE else ["quantmill", name]), words
        given = words[1 if name in ALONE else 2 :]
        assert not [w for w in given if w.startswith("--") and w.split("=")[0] not in options(command)], words
        assert parsed(command, name, given) in (None, "does not exist"), words


def parsed(command: click.Command, name: str, words: list[str]) -> str | None:
    """What click says against the words, if anything; the files of an example are not here."""
    try:
        command.make_context(name, words)
    except click.BadParameter as error:
        return "does not exist" if "does not exist" in error.message else error.message
    except SourceError as error:  # a file that is read as the option is
        return "does not exist" if "No such file" in error.problem else error.problem
    return None


def test_the_umbrella_lists_them_all() -> None:
    done = subprocess.run([sys.executable, "-c", _RUN, "--help"], capture_output=True, text=True, check=True)
    for name, (_, line) in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert line.split(",")[0].split(":")[0] in " ".join(done.stdout.split())
    assert "_QUANTMILL_COMPLETE=bash_source" in done.stdout


_RUN = "import sys; sys.argv[0] = 'quantmill'; from quantmill.tools.main import run; run()"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("quantmill spl", ["plain,split"]),
        ("quantmill split --max-", ["plain,--max-size", "plain,--max-tensors"]),
        ("quantmill quantize --book 20", ["plain,2023-12"]),
        ("quantmill quantize m.gguf q4_k", ["plain,Q4_K_S", "plain,Q4_K_M", "file,q4_k"]),
        ("quantmill hash mod", ["file,mod"]),
    ],
)
def test_completion(words: str, offered: list[str]) -> None:
    """As the shell's own function asks, which `--help` tells how to get."""
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "_QUANTMILL_COMPLETE": "bash_complete"}
    done = subprocess.run([sys.executable, "-c", _RUN], env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.stdout.split() == offered


def test_statistics_of_an_imatrix_as_json(cli: Callable) -> None:
    path = GOLDENS / "smollm2-1layer-3x128.gguf"
    shown = cli("imatrix", "--in-file", path, "--show-statistics").out.splitlines()
    report = json.loads(cli("imatrix", "--in-file", path, "--show-statistics", "--json").out)
    assert [row["tensor"] for row in report["tensors"]] == [line.split()[1] for line in shown[1:8]]
    assert f"{report['tensors'][0]['total']:.4f}" == shown[1].split()[2]
    assert len(report["layers"]) == 1
    assert "goes with --show-statistics" in cli("imatrix", "--json", "--in-file", path).err


def test_setting_a_key_quietly(cli: Callable, tmp_path: Path) -> None:
    from oracles.split_samples import write_split_source
    from quantmill.formats.gguf.reader import read_gguf

    path = write_split_source(tmp_path / "m.gguf")
    done = cli("gguf-set-metadata", path, "general.name", "quiet", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert read_gguf(path).get("general.name") == "quiet"
