"""``imatrix --second-moments`` as a user meets it: the report, budgets, killed runs, merging, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.tiny import TEXT, save_tiny_llama
from quantmill.formats.imatrix_file import Imatrix, read_imatrix
from quantmill.formats.moments_file import Moments


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Feed-forward inputs of 512 columns: two blocks of 256, or one."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"), layers=3, hidden=256)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 6)
    return path


@pytest.fixture
def gather(cli: Callable[..., Any], model: Path, text: Path, tmp_path: Path) -> Callable[..., Path]:
    """A run of the tiny model with second moments; gives the file."""

    def run(name: str, *more: object) -> Path:
        common = ("-m", model, "-f", text, "-c", 32, "-b", 1, "--no-ppl", "--second-moments",
                  "--moments-width", 512)  # fmt: skip
        done = cli("imatrix", *common, "-o", tmp_path / name, *more)
        assert done.code == 0, done.err
        return tmp_path / name

    return run


def moments_of(path: Path) -> tuple[Imatrix, Moments]:
    imatrix = read_imatrix(path)
    assert imatrix.moments is not None
    return imatrix, imatrix.moments


# of the layers: q/k/v and gate/up 256 columns, attn_output 64, ffn_down 512
WHOLE = 3 * 4 * (2 * 256 * 257 // 2 + 64 * 65 // 2 + 512 * 513 // 2)
AT_256 = 3 * 4 * (4 * 256 * 257 // 2 + 64 * 65 // 2)


def test_sizes_are_told_and_kept(
    gather: Callable[..., Path], cli: Callable[..., Any], model: Path, text: Path, tmp_path: Path
) -> None:
    words = ("-m", model, "-f", text, "-c", 32, "--chunks", 1, "--no-ppl", "-o", tmp_path / "whole.gguf")
    done = cli("imatrix", *words, "--second-moments", "--moments-width", 1024)
    line = f"second moments: {WHOLE / 1e6:.1f} MB, 12 distinct inputs, whole; less than a second beside the run\n"
    assert line in done.err
    whole, moments = moments_of(tmp_path / "whole.gguf")
    assert (moments.block_width, moments.nbytes) == (512, WHOLE)
    narrow = gather("narrow.gguf", "--chunks", 1, "--moments-size", WHOLE - 1)
    assert moments_of(narrow)[1].block_width == 256
    assert moments_of(narrow)[1].nbytes == AT_256
    assert [len(block) for block in moments_of(narrow)[1].blocks("blk.2.ffn_down.weight")] == [256, 256]
    plain = cli("imatrix", *words[:-1], tmp_path / "plain.gguf")
    assert plain.code == 0
    for name, entry in read_imatrix(tmp_path / "plain.gguf").entries.items():
        assert np.array_equal(whole.entries[name].sums, entry.sums)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["narrow.gguf", "plain.gguf", "whole.gguf"]


def test_the_width_is_that_of_refining_unless_another_is_named(
    gather: Callable[..., Path], cli: Callable[..., Any], model: Path, text: Path, tmp_path: Path
) -> None:
    words = ("imatrix", "-m", model, "-f", text, "-c", 32, "-b", 1, "--chunks", 1, "--no-ppl")
    done = cli(*words, "--second-moments", "-o", tmp_path / "default.gguf")
    assert f"{AT_256 / 1e6:.1f} MB, 12 distinct inputs, in diagonal blocks of 256 columns; less than" in done.err
    default = moments_of(tmp_path / "default.gguf")[1]
    assert (default.block_width, default.nbytes) == (256, AT_256)
    whole = gather("whole.gguf", "--chunks", 1)
    for name in default.inputs:
        for number, block in enumerate(default.blocks(name)):
            part = slice(256 * number, 256 * number + len(block))
            wide = moments_of(whole)[1].blocks(name)[0][part, part]
            np.testing.assert_allclose(block, wide, rtol=1e-4, atol=1e-4 * float(np.abs(wide).max()))
    more = (*words, "--from-chunk", 1, "--in-file", whole, "-o", tmp_path / "more.gguf")
    assert cli(*more, "--second-moments").code == 0
    assert moments_of(tmp_path / "more.gguf")[1].block_width == 512
    assert (
        "--moments-width: 300 is not a multiple of 256" in cli(*words, "--second-moments", "--moments-width", 300).err
    )
    assert "--second-moments is not given" in cli(*words, "--moments-width", 512).err


def test_the_output_matrix_too(gather: Callable[..., Path]) -> None:
    _, moments = moments_of(gather("x.gguf", "--chunks", 2, "--process-output", "--save-every", 0))
    assert moments.count("output.weight") == moments.count("blk.0.attn_q.weight") == 64
    assert moments.width("output.weight") == 256


def test_killed_runs_end_in_the_same_bytes(gather: Callable[..., Path], model: Path, text: Path) -> None:
    whole = gather("whole.gguf", "--chunks", 3, "--save-every", 1)
    killed = whole.with_name("killed.gguf")
    code = (
        "import sys, time; from quantmill.imatrix import runner\n"
        "step = runner.Runner.advance\n"
        "def slow(self, *args):\n"
        "    if self.layer == 2: print('waiting', flush=True); time.sleep(600)\n"
        "    step(self, *args)\n"
        "runner.Runner.advance = slow\n"
        "from quantmill.tools.main import run_imatrix; run_imatrix()\n"
    )
    words = ("-m", model, "-f", text, "-c", 32, "-b", 1, "--chunks", 3, "--no-ppl", "--second-moments", "--save-every",
             1, "-o", killed)  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    state = Path(f"{killed}.state")
    assert {"moments-00001.bin", "moments-00002.bin", "journal"} <= {path.name for path in state.iterdir()}
    shutil.copytree(state, saved := killed.with_name("saved"))
    changed = {path.name: path.stat().st_mtime_ns for path in state.glob("moments-*")}
    assert gather("killed.gguf", "--chunks", 3, "--save-every", 1).read_bytes() == whole.read_bytes()
    assert not state.exists()
    assert len(changed) == 2
    shutil.copytree(saved, state)
    (state / "moments-00002.bin").write_bytes(b"x")  # damaged: the run begins anew
    assert gather("killed.gguf", "--chunks", 3, "--force").read_bytes() == whole.read_bytes()
    shutil.copytree(saved, state)
    narrow = gather("killed.gguf", "--chunks", 3, "--force", "--moments-size", WHOLE - 1)  # another width: likewise
    assert moments_of(narrow)[1].block_width == 256


def test_two_halves_merged_are_the_whole(gather: Callable[..., Path], cli: Callable[..., Any], tmp_path: Path) -> None:
    whole = gather("whole.gguf", "--chunks", 4)
    a, b = gather("a.gguf", "--chunks", 2), gather("b.gguf", "--chunks", 2, "--from-chunk", 2)
    merged = tmp_path / "merged.gguf"
    assert cli("imatrix", "--in-file", a, "--in-file", b, "-o", merged, "--quiet").code == 0
    chained = gather("chained.gguf", "--chunks", 2, "--from-chunk", 2, "--in-file", a)
    imatrix, expected = moments_of(whole)
    for path in (merged, chained):
        found_imatrix, found = moments_of(path)
        assert (found.block_width, found.inputs) == (expected.block_width, expected.inputs)
        assert list(found_imatrix.entries) == list(imatrix.entries)
        for holder in expected.holders:
            assert found.count(holder) == expected.count(holder) == 4 * 32
            want = expected.packed(holder)
            np.testing.assert_allclose(found.packed(holder), want, atol=1e-6 * np.abs(want).max())


def test_other_commands_take_such_a_file(gather: Callable[..., Path], cli: Callable[..., Any], tmp_path: Path) -> None:
    file = gather("x.gguf", "--chunks", 1)
    for words in (("inspect", file), ("verify", file), ("diff", file, file), ("imatrix", "--in-file", file,
                  "--show-statistics")):  # fmt: skip
        done = cli(*words)
        assert done.code == 0, (words, done)
    done = cli("imatrix", "--in-file", file, "-o", tmp_path / "x.dat")
    assert done.code == 0
    assert "a .dat file cannot hold second moments: they are left out" in done.err
    assert read_imatrix(tmp_path / "x.dat").moments is None


def test_what_is_refused(
    gather: Callable[..., Path], refused: Callable[..., str], cli: Callable[..., Any], model: Path, text: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    file = gather("x.gguf", "--chunks", 1)
    narrow = gather("narrow.gguf", "--chunks", 1, "--moments-size", WHOLE - 1)
    run = ("-m", model, "-f", text, "-c", 32, "--chunks", 1, "--no-ppl", "--quiet")
    plain, out = tmp_path / "plain.gguf", tmp_path / "out.gguf"
    assert cli("imatrix", *run, "-o", plain).code == 0
    many = "--second-moments"
    for words, said in (
        ((*run, many, "-o", tmp_path / "out.dat"), "--second-moments: a .dat file cannot hold second moments"),
        ((*run, many, "-o", out, "--output-format", "dat"), "a .dat file cannot hold second moments"),
        ((*run, many, "-o", out, "--cluster", "local"), "--second-moments: cannot be combined with --cluster"),
        ((*run, many, "-o", out, "--moments-size", "1MB"), f"blocks of 256 columns (--moments-size {AT_256})"),
        ((*run, many, "-o", out, "--in-file", plain), "plain.gguf: has no second moments"),
        ((*run, many, "-o", out, "--in-file", narrow, "--moments-width", 512), "narrow.gguf: second moments in "),
        ((*run, "-o", out, "--in-file", file), "x.gguf: has second moments, unlike what it is merged with"),
        (("--in-file", file, "--in-file", plain, "-o", out), "plain.gguf: has no second moments"),
        (("--in-file", plain, "--in-file", file, "-o", out), "x.gguf: has second moments, unlike"),
        (("--in-file", plain, many, "-o", out), "plain.gguf: has no second moments"),
        (("--in-file", file, "--in-file", narrow, "-o", out), "narrow.gguf: second moments in blocks of 256"),
    ):  # fmt: skip
        assert said in refused("imatrix", *words), words
