"""Many machines: three workers of Ray, one of them killed while it works, write the bytes of one machine."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.kills import command, hear_interrupts
from oracles.tiny import TEXT, save_tiny_llama
from quantmill.formats.errors import OutputError, PlanError, QuantmillError, WeightError
from quantmill.formats.hf.load import read_hf
from quantmill.formats.ir import Bytes, Model, Tensor
from quantmill.formats.progress import Event, Note, RowsDone
from quantmill.quantize.chunks import Job, chunks_of, tasks_of
from quantmill.quantize.distribute import SECONDS, _Pieces, _RemoteFile
from quantmill.quantize.execute import execute
from quantmill.quantize.plan import PlanOptions, make_plan
from quantmill.tools.api.ray_pool import RayPool, connected

Read = Callable[[Tensor, int, int], Bytes]


@pytest.fixture(scope="module", autouse=True)
def _by_value(ray_of_three: None) -> None:
    """Workers cannot import this file: what it defines goes to them as it is."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def pool() -> Iterator[RayPool]:
    with connected("local") as found:
        yield found


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"), layers=3, hidden=256)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 12)
    return path


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The exit code of a command, and what reached stderr."""
    from quantmill.tools.main import load_command, main

    def run(*words: object) -> tuple[int, str]:
        name = str(words[0])
        monkeypatch.setattr(sys, "argv", [*map(str, words)])
        with pytest.raises(SystemExit) as end:
            main(load_command(name), name)
        assert isinstance(end.value.code, int)
        return end.value.code, capsys.readouterr().err

    return run


def read_by(model: Model, name: str, read: Read) -> Model:
    """The model, one tensor of which is read by a function of ours."""

    def changed(tensor: Tensor) -> Tensor:
        return replace(tensor, read=lambda a, b: read(tensor, a, b))

    return replace(model, tensors=tuple(changed(t) if t.name == name else t for t in model))


def deadly(flag: Path, times: int = 1) -> Read:
    """Kills its process, so many times in all, and reads."""

    def read(tensor: Tensor, a: int, b: int) -> Bytes:
        for i in range(times):
            try:
                os.close(os.open(f"{flag}.{i}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        return tensor.read(a, b)

    return read


def spoilt(tensor: Tensor, a: int, b: int) -> Bytes:
    """The last weight of each row is NaN."""
    rows = np.array(tensor.read(a, b)).view(np.float32)
    rows[:, -1] = np.nan
    return rows.view(np.uint8)


def deaths(flag: Path) -> int:
    return len(list(flag.parent.glob(f"{flag.name}.*")))


def made(model: Model, path: Path, **options: Any) -> str:
    """The digest of the file, quantized with importance: vectors that workers read from shared memory."""
    rng = np.random.default_rng(0)
    vectors = {t.name: rng.random(t.width).astype(np.float32) for t in model if len(t.shape) > 1}
    plan = make_plan(model, "IQ3_XXS", PlanOptions(importance=vectors))
    execute(plan, path, chunk_weights=4096, **options)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows_done(events: list[Event]) -> int:
    """In bytes of the source."""
    return sum(event.nbytes for event in events if isinstance(event, RowsDone))


def test_one_of_three_is_killed(checkpoint: Path, tmp_path: Path, pool: RayPool) -> None:
    assert pool.n_workers == 3
    model = read_hf(checkpoint)
    one = made(model, tmp_path / "one.gguf")
    seen: list[Event] = []
    said: list[str] = []
    deadly_model = read_by(model, "blk.1.ffn_up.weight", deadly(tmp_path / "dead"))
    assert made(deadly_model, tmp_path / "three.gguf", pool=replace(pool, say=said.append), progress=seen.append) == one
    assert said == ["a worker is lost; its work goes to another"]
    assert deaths(tmp_path / "dead") == 1
    assert rows_done(seen) == sum(tensor.nbytes for tensor in model)
    assert {path.name for path in tmp_path.iterdir()} == {"one.gguf", "three.gguf", "dead.0"}


@pytest.mark.slow
def test_what_kills_everybody_is_an_error(checkpoint: Path, tmp_path: Path, pool: RayPool) -> None:
    model = read_by(read_hf(checkpoint), "blk.1.ffn_up.weight", deadly(tmp_path / "dead", 100))
    with pytest.raises(QuantmillError, match="--cluster: a piece of the work failed 3 times"):
        made(model, tmp_path / "o.gguf", pool=pool)
    assert not (tmp_path / "o.gguf").exists()


def test_the_first_error_of_the_queue(checkpoint: Path, tmp_path: Path, pool: RayPool) -> None:
    model = read_hf(checkpoint)
    for layer in (2, 1):
        model = read_by(model, f"blk.{layer}.ffn_up.weight", spoilt)
    told = set()
    for options in ({}, {"pool": pool}):
        with pytest.raises(WeightError, match=r"layers\.1\.mlp\.up_proj\.weight: weight \[0, 255\] is nan") as error:
            made(model, tmp_path / "o.gguf", **options)
        told.add(str(error.value))
    assert len(told) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("then", ["cluster", pytest.param("alone", marks=pytest.mark.slow)])
def test_interrupted(checkpoint: Path, tmp_path: Path, pool: RayPool, then: str) -> None:
    model = read_hf(checkpoint)
    one = made(model, tmp_path / "one.gguf")
    (tmp_path / "new").mkdir()
    done: list[Event] = []

    def stop(event: Event) -> None:
        done.append(event)
        if isinstance(event, RowsDone) and rows_done(done) > 800_000:
            raise KeyboardInterrupt

    path = tmp_path / "new" / "o.gguf"
    with pytest.raises(KeyboardInterrupt):
        made(model, path, pool=pool, progress=stop)
    assert sorted(file.name for file in path.parent.iterdir()) == [".o.gguf.journal", ".o.gguf.part"]
    events: list[Event] = []
    assert made(model, path, progress=events.append, **({"pool": pool} if then == "cluster" else {})) == one
    said = [event.text for event in events if isinstance(event, Note)]
    assert [line.split(": ")[1][:8] for line in said] == ["going on"]
    assert [file.name for file in path.parent.iterdir()] == ["o.gguf"]


def test_other_storage_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"12345")
    about = (tmp_path / "part").stat()
    ours = _RemoteFile(Path("o.gguf"), tmp_path / "part", about.st_ino, about.st_size, set())  # type: ignore[arg-type]
    ours.open().sync()
    for other in (replace(ours, inode=1), replace(ours, size=6), replace(ours, part=tmp_path / "none")):
        with pytest.raises(OutputError, match=r"o.gguf: worker on .* does not see .*\(--cluster wants .*storage"):
            other.open()


def test_a_source_that_is_another_there(checkpoint: Path, tmp_path: Path) -> None:
    """Pickled, changed, and opened again, as on a machine that has another file of the name."""
    import pickle
    import shutil

    folder = shutil.copytree(checkpoint, tmp_path / "m")
    from quantmill.formats.storage.source import SourceFile

    path = folder / "model.safetensors"
    sent = pickle.dumps(SourceFile(path))
    assert pickle.loads(sent).size == path.stat().st_size
    os.utime(path, (1, 1))
    with pytest.raises(QuantmillError, match=r"the file is another one on .*same files"):
        pickle.loads(sent)
    path.unlink()
    with pytest.raises(QuantmillError, match=r"model.safetensors: on .*: cannot be read.*same files"):
        pickle.loads(sent)


def test_pieces_take_seconds(checkpoint: Path) -> None:
    """Every chunk once and in order, whatever the pieces; pieces grow to the seconds wanted, and shrink to the end."""
    job = Job(make_plan(read_hf(checkpoint), "IQ4_XS"), Path("o"))
    tasks = tasks_of([job])
    chunks = list(chunks_of(tasks, 512))
    pool = RayPool(n_workers=2, threads=1)
    pieces = _Pieces(tasks, iter(chunks), pool)
    sizes, seen = [], []
    for piece in pieces:
        sizes.append(len(piece))
        seen += piece
        pieces.learn(piece, [SECONDS / 100] * len(piece))
    assert seen == chunks
    assert {95 < size < 105 for size in sizes[1 : len(sizes) // 2]} == {True}
    assert sizes[-1] == 1


@pytest.mark.parametrize("slow", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_the_order_of_errors(pool: RayPool, slow: int) -> None:
    """The first in the order of the pieces, though a later one may come sooner; nothing more is begun."""

    def start() -> Callable[[int], int]:
        def work(piece: int) -> int:
            time.sleep(0.5 if piece == slow else 0.01)
            if piece in (3, 4):
                raise QuantmillError(f"piece {piece}")
            return piece * piece

        return work

    done: dict[int, int] = {}
    taken = iter(range(1000))
    with pytest.raises(QuantmillError, match="piece 3"):
        replace(pool, n_workers=2).run(start, taken, done.__setitem__)
    assert {0: 0, 1: 1, 2: 4}.items() <= done.items()
    assert next(taken) < 100


@pytest.mark.slow
def test_a_disk_that_is_well_again(tmp_path: Path, pool: RayPool) -> None:
    def start() -> Callable[[int], int]:
        def work(piece: int) -> int:
            if piece == 2 and not (tmp_path / "tried").exists():
                (tmp_path / "tried").touch()
                raise OSError(116, "Stale file handle")
            return piece

        return work

    done: list[int] = []
    pool.run(start, range(5), lambda piece, result: done.append(result))
    assert sorted(done) == [0, 1, 2, 3, 4]
    assert (tmp_path / "tried").exists()


def test_another_version_is_refused(pool: RayPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantmill.tools.api.ray_pool.version", lambda: "0.0 (other)")
    with pytest.raises(QuantmillError, match=r"has quantmill .*, we are 0.0 \(other\) \(install the same on every"):
        replace(pool, n_workers=1).run(lambda: lambda piece: piece, range(3), lambda piece, result: None)


@pytest.mark.slow
def test_imatrix_by_two_one_killed(
    checkpoint: Path, text: Path, tmp_path: Path, cli: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["imatrix", "-m", checkpoint, "-f", text, "-c", 64, "-b", 3, "--process-output", "--save-every", 1]
    code, alone = cli(*words, "-o", tmp_path / "one.gguf")
    assert code == 0, alone
    from quantmill.tools.api.running import read_model

    def read(path: Path, **more: Any) -> Model:
        return read_by(read_model(path, **more), "blk.2.ffn_up.weight", deadly(tmp_path / "dead"))

    monkeypatch.setattr("quantmill.tools.api.running.read_model", read)
    code, together = cli(*words, "-o", tmp_path / "two.gguf", "--cluster", "local", "--workers", 2)
    assert code == 0, together
    assert deaths(tmp_path / "dead") == 1
    assert (tmp_path / "two.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()
    assert perplexity(together) == perplexity(alone)
    assert {path.name for path in tmp_path.iterdir()} == {"one.gguf", "two.gguf", "dead.0"}


def perplexity(text: str) -> list[str]:
    found = [line for line in text.splitlines() if line.startswith("perplexity ")]
    assert found, text
    return found


@pytest.mark.slow
def test_commands(
    checkpoint: Path, text: Path, tmp_path: Path, cli: Callable[..., tuple[int, str]], capsys: Any
) -> None:
    """convert in one pass, quantize with importance, release: their files are those of one machine."""
    cluster = ["--cluster", "local"]
    files = {}
    for way, more in (("alone", []), ("cluster", cluster)):
        folder = tmp_path / way
        folder.mkdir()
        f16 = folder / "f16.gguf"
        for words in (
            ["convert", checkpoint, folder / "a.gguf", "--outtype", "Q5_K_M"],
            ["convert", checkpoint, f16, "--outtype", "f16"],
            ["quantize", f16, folder / "b.gguf", "Q4_0", "--gguf-version", 3, "--big-endian"],
            ["release", checkpoint, folder / "set", "--imatrix", "none", "--levels", "Q4_K_M,Q8_0", "--quiet"],
        ):
            code, told = cli(*words, *more)
            assert code == 0, told
        found = list(folder.rglob("*.gguf"))
        files[way] = {str(path.relative_to(folder)): path.read_bytes() for path in found}
    assert len(files["alone"]) == 5
    assert files["cluster"] == files["alone"]


LOCAL = ("--cluster", "local")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["quantize", "{f16}", "{out}", "Q4_0", *LOCAL, "--threads", "2"],
            "--threads: is for one machine",
        ),
        (["quantize", "{f16}", "{out}", "Q4_0", "--workers", "2"], "--workers: is for --cluster"),
        (
            ["convert", "{f16}", "{out}", "--cluster", "local"],
            "--cluster: has no effect: without a level the tensors are copied as they are",
        ),
        (
            ["convert", "{f16}", "{folder}", "--cluster", "local"],
            "--cluster: has no effect: a Hugging Face folder holds floats",
        ),
        (
            ["imatrix", "-m", "{f16}", "-o", "{out}", "-c", "64", *LOCAL, "--device", "meta"],
            "--device: cannot be combined with --cluster",
        ),
    ],
)
def test_refused(
    checkpoint: Path, tmp_path: Path, cli: Callable[..., tuple[int, str]], words: list[str], problem: str
) -> None:
    f16 = tmp_path / "f16.gguf"
    execute(make_plan(read_hf(checkpoint), "F16"), f16)
    names = {"f16": f16, "out": tmp_path / "o.gguf", "folder": tmp_path / "folder"}
    code, told = cli(*(word.format(**names) for word in words))
    assert (code, told.count("\n")) == (2, 1)
    assert problem in told
    assert list(tmp_path.iterdir()) == [f16]


def test_nobody_there() -> None:
    from quantmill.tools.api.ray_pool import start_ray

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = "127.0.0.1:{1}".format(*taken.getsockname())
        for name in (address, f"ray://{address}"):
            with pytest.raises(QuantmillError, match=f"--cluster: no Ray cluster at {name}: .*refused"):
                start_ray(name)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(PlanError, match=r"--cluster: needs Ray \(pip install quantmill\[cluster\]\)"),
        connected("local"),
    ):
        pass


def lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_ctrl_c_of_the_real_command(smollm2_f16: Path, tmp_path: Path) -> None:
    """A Ray of its own, interrupted as a terminal does it: the whole process group. Nothing of it stays alive."""
    out = tmp_path / "o.gguf"
    words = command("quantize", str(smollm2_f16), str(out), "IQ3_S", *LOCAL, "--workers", "1")
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear_interrupts
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / ".o.gguf.journal").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 130, told
    assert told.splitlines()[-1] == "quantize: interrupted" or "quantmill: interrupted" in told
    assert ".o.gguf.part; the same command goes on" in told
    deadline = time.monotonic() + 10
    while lives(process.pid):  # the last of Ray's own processes
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "going on where an earlier run stopped" in again.stderr
    alone = tmp_path / "alone.gguf"
    subprocess.run(command("quantize", str(smollm2_f16), str(alone), "IQ3_S"), check=True)
    assert alone.read_bytes() == out.read_bytes()
