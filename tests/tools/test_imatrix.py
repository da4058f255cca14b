"""The command as a user meets it: files, merging, resuming after a kill, and one line for each mistake."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

from oracles.tiny import TEXT, save_tiny_llama
from quantmill.formats.imatrix_file import read_imatrix
from quantmill.tools.imatrix import command

GOLDENS = Path(__file__).parent.parent / "imatrix" / "goldens"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"), layers=6)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 12)
    return path


def run(*args: object) -> Any:
    return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)


def cli(*args: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """The real console script, for exit codes and what reaches stderr."""
    code = "from quantmill.tools.main import run_imatrix; run_imatrix()"
    words = [sys.executable, "-c", code, *[str(arg) for arg in args]]
    return subprocess.run(words, capture_output=True, text=True, check=False, **kwargs)


def test_gguf_and_dat(tiny: Path, text: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "a.dat", "a.bin"):
        done = run("-m", tiny, "-f", text, "-c", 64, "--chunks", 4, "-o", tmp_path / name, "--process-output")
        assert done.exit_code == 0, done.output
    assert "perplexity" in done.output
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert reader.get_field("imatrix.chunk_count").contents() == 4
    assert reader.get_field("imatrix.datasets").contents() == [str(text)]
    new, old = read_imatrix(tmp_path / "a.gguf"), read_imatrix(tmp_path / "a.dat")
    assert len(new.entries) == 6 * 7 + 1
    assert "output.weight" in new.entries
    assert (old.legacy, old.chunk_count) == (True, 4)
    for tensor, vector in new.vectors().items():
        np.testing.assert_allclose(old.vectors()[tensor], vector, rtol=1e-6)
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "a.gguf").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.dat", "a.gguf"]  # no state left


def test_two_half_runs_merged_are_one_whole(tiny: Path, text: Path, tmp_path: Path) -> None:
    common = ("-m", tiny, "-f", text, "-c", 32, "--no-ppl", "--quiet", "-b", 3)
    a, b, whole, merged, chained = (tmp_path / f"{name}.gguf" for name in ("a", "b", "whole", "merged", "chained"))
    assert run(*common, "--chunks", 6, "-o", whole).exit_code == 0
    assert run(*common, "--chunks", 3, "-o", a).exit_code == 0
    assert run(*common, "--chunks", 3, "--from-chunk", 3, "-o", b).exit_code == 0
    assert run("--in-file", a, "--in-file", b, "-o", merged, "--quiet").exit_code == 0
    assert run(*common, "--chunks", 3, "--from-chunk", 3, "--in-file", a, "-o", chained).exit_code == 0
    expected = read_imatrix(whole)
    for path in (merged, chained):
        found = read_imatrix(path)
        assert (found.chunk_count, found.chunk_size, list(found.entries)) == (6, 32, list(expected.entries))
        for name, entry in expected.entries.items():
            assert np.array_equal(found.entries[name].counts, entry.counts)
            np.testing.assert_allclose(found.entries[name].sums, entry.sums, rtol=1e-6)


def test_resumed_after_kill_is_the_same_bytes(tiny: Path, text: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.gguf", tmp_path / "killed.gguf"
    common = ("-m", tiny, "-f", text, "-c", 64, "--chunks", 6, "--save-every", 1, "--no-ppl")
    assert run(*common, "-o", whole).exit_code == 0
    code = (
        "import sys, time; from quantmill.imatrix import runner\n"
        "step = runner.Runner.advance\n"
        "def slow(self, *args):\n"
        "    if self.layer == 3: print('waiting', flush=True); time.sleep(600)\n"
        "    step(self, *args)\n"
        "runner.Runner.advance = slow\n"
        "from quantmill.tools.main import run_imatrix; run_imatrix()\n"
    )
    words = [sys.executable, "-c", code, *[str(arg) for arg in common], "-o", str(killed)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert not killed.exists()
    state = Path(f"{killed}.state")
    assert state.is_dir()
    shutil.copytree(state, saved := tmp_path / "saved")
    done = run(*common, "-o", killed)
    assert "going on at layer 4" in done.output
    assert killed.read_bytes() == whole.read_bytes()
    assert not state.exists()
    for words, said in (
        (("-c", 32), "an unfinished run with another text, context size is discarded"),
        (("--restart",), None),
    ):
        killed.unlink()
        shutil.copytree(saved, state)
        done = run(*common, "-o", killed, *words)
        assert done.exit_code == 0
        assert "going on" not in done.output
        assert said is None or said in done.output
    killed.unlink()
    shutil.copytree(saved, state)
    file = state / "layer-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    done = run(*common, "-o", killed)
    assert "damaged, so the unfinished run is discarded" in done.output
    assert killed.read_bytes() == whole.read_bytes()


def test_preflight_and_default_text(tmp_path: Path) -> None:
    wide = save_tiny_llama(tmp_path / "wide", layers=2, hidden=256)
    done = run("-m", wide, "-c", 64, "--chunks", 1, "-o", tmp_path / "x.gguf", "--for", "iq2_xs")
    assert done.exit_code == 0, done.output
    assert "IQ2_XS: 10 tensors need importance, 6 more use it" in done.output
    assert read_imatrix(tmp_path / "x.gguf").datasets == ("calibration.txt",)


def test_statistics() -> None:
    done = run("--in-file", GOLDENS / "smollm2-1layer-3x128.gguf", "--show-statistics")
    lines = done.output.splitlines()
    assert lines[0].split()[:3] == ["layer", "tensor", "sum(act²)"]
    assert len(lines) == 1 + 7 + 3
    assert [line.split()[1] for line in lines[1:8]] == sorted(
        ["attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up"]
    )


def test_mistakes_are_one_line(tiny: Path, text: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("too short")
    taken = tmp_path / "taken.gguf"
    taken.write_bytes(b"")
    cut = tmp_path / "cut.dat"
    cut.write_bytes((GOLDENS / "smollm2-1layer-3x128.dat").read_bytes()[:5000])
    other = GOLDENS / "smollm2-1layer-3x128.gguf"
    alien = tmp_path / "alien"
    alien.mkdir()
    (alien / "config.json").write_text('{"architectures": ["GloomForCausalLM"], "model_type": "gloom"}')
    out = tmp_path / "out.gguf"
    for words, expected in (
        (("-m", tiny, "-f", short, "-o", out), "short.txt: the text has"),
        (("-m", tiny, "-f", text, "-o", taken), "taken.gguf: exists already"),
        (("-m", alien, "-f", text, "-o", out), "unknown model class 'GloomForCausalLM'"),
        (("-m", tiny, "-f", text, "-c", "32", "--in-file", other, "-o", out), "it belongs to another model"),
        (("--in-file", cut, "-o", out), "cut.dat: byte"),
        (("-m", tmp_path / "none.gguf", "-o", out), "no such file or folder"),
        (("-m", tiny, "-f", text, "-c", "32", "--device", "cuda:77", "-o", out), "no device 'cuda:77' here"),
    ):
        done = cli(*words)
        assert done.returncode == 2, done.stderr
        assert expected in done.stderr
        lines = [line for line in done.stderr.splitlines() if "chunks of" not in line]
        assert len(lines) == 1, done.stderr
        assert not out.exists()


def test_nothing_to_do() -> None:
    done = run("-o", "x.gguf")
    assert done.exit_code == 2
    assert "give a model with -m" in done.output
