"""docs/llama-cpp-options.md has every option of llama.cpp's programs, and names none that is not there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from quantmill.tools.main import COMMANDS, load_command

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((Path(__file__).parent / "goldens" / "llama_cpp_options.json").read_text())
PAGE = (ROOT / "docs" / "llama-cpp-options.md").read_text(encoding="utf-8")
_LONG = re.compile(r"--[A-Za-z][\w-]*")


def rows(program: str) -> Iterator[tuple[str, str]]:
    """The two columns of a program's table."""
    (section,) = [part for part in PAGE.split("\n## ") if part.startswith(f"{program}\n")]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `"):
            assert len(cells) == 2, line
            yield cells[0], cells[1]


@pytest.mark.parametrize("program", GOLDEN)
def test_every_option_of_theirs(program: str) -> None:
    named = {option for theirs, _ in rows(program) for option in _LONG.findall(theirs)}
    groups = GOLDEN[program]["options"]
    assert not [names for names in groups if named.isdisjoint(names)]
    assert not named - {name for names in groups for name in names}
    assert all(ours for _, ours in rows(program))


def test_no_program_is_left_out() -> None:
    assert set(re.findall(r"^## (\S+)", PAGE, re.MULTILINE)) == set(GOLDEN)


def test_every_option_of_ours_is_there() -> None:
    named = re.findall(r"`(quantmill|[a-z-]+) (--[a-z][a-z0-9-]*)", PAGE)
    assert len(named) > 70
    for command, option in named:
        if command != "quantmill":
            params = load_command(command).params
            known = {name for param in params if isinstance(param, click.Option) for name in param.opts}
            assert option in known | {"--help", "--debug"}, f"{command} {option}"
    assert {command for command, _ in named} <= {"quantmill", *COMMANDS}
