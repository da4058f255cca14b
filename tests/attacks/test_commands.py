"""The commands that only look at a file, on metadata of the wrong types: a line and 2, or an answer."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from attacks.many import whole_files
from quantmill.formats.errors import QuantmillError
from quantmill.tools.main import load_command


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arguments", [("inspect",), ("plan", "Q4_K_M"), ("verify", "--strict", "--quiet")], ids=str)
def test_strange_metadata(arguments: tuple[str, ...], tmp_path: Path) -> None:
    name, *options = arguments
    command, runner, random = load_command(name), CliRunner(), Random(3)
    path = tmp_path / "x.gguf"
    refused = 0
    for _ in range(50):
        for data in whole_files("gguf", random):
            path.write_bytes(data)
            try:
                refused += runner.invoke(command, [str(path), *options], catch_exceptions=False).exit_code != 0
            except QuantmillError:
                refused += 1
    assert name == "inspect" or refused > 10  # inspect shows whatever there is
