"""Commands that take models from a hub, which runs on this machine, and what they read of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oracles.hub import Hub, running_hub
from quantmill import Note, convert, describe, local_path, plan, tiny_llama, write_gguf, write_hf
from quantmill.formats.errors import FormatError
from quantmill.formats.ir import Model

from .conftest import Done


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in several shards, with what repositories hold beside it."""
    folder = tmp_path_factory.mktemp("source") / "tiny"
    write_hf(tiny_llama(), folder, max_shard_bytes=400_000)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    return folder


@pytest.fixture(scope="module")
def served(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, dict[str, str]]]:
    """A hub with that checkpoint, and the environment of programs that use it."""
    with running_hub() as hub:
        files = {str(path.relative_to(checkpoint)): path.read_bytes() for path in checkpoint.iterdir()}
        hub.add(
            "org/tiny", {**files, "pytorch_model.bin": b"x" * 500_000, "original/consolidated.00.pth": b"y" * 200_000}
        )
        gguf = tmp_path_factory.mktemp("gguf") / "tiny-Q8_0.gguf"
        convert(checkpoint, gguf, "Q8_0")
        hub.add("org/tiny-GGUF", {"tiny-Q8_0.gguf": gguf.read_bytes(), "README.md": b"# Tiny"})
        yield hub, {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_good"}


@pytest.fixture
def hub(served: tuple[Hub, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from formats.hub.conftest import use

    found = served[0]
    use(found, tmp_path / "cache", monkeypatch)
    monkeypatch.chdir(tmp_path)
    found.requests.clear()
    found.sent.clear()
    yield found
    found.faults, found.cut_after = lambda method, path: None, lambda path: None


def test_convert_by_name(hub: Hub) -> None:
    seen: list[object] = []
    convert("org/tiny", "from-hub.gguf", "Q4_K_M", progress=seen.append)
    convert(local_path("org/tiny"), "from-cache.gguf", "Q4_K_M")
    assert Path("from-hub.gguf").read_bytes() == Path("from-cache.gguf").read_bytes()
    asked = {path.rpartition("/")[2] for _, path in hub.requests}
    assert not {"pytorch_model.bin", "consolidated.00.pth"} & asked
    assert any("commit" in event.text for event in seen if isinstance(event, Note))


def test_the_usual_name_of_the_output(hub: Hub, tmp_path: Path) -> None:
    made = convert("org/tiny", level="Q8_0")
    assert made.paths[0] == Path("tiny.Q8_0.gguf")  # in the current folder, not in the cache


def test_plan_reads_headers_alone(hub: Hub, checkpoint: Path) -> None:
    seen: list[object] = []
    table = plan("org/tiny", ["Q4_K_M"], progress=seen.append)
    assert [(t.name, t.shape) for t in table.model] == [(t.name, t.shape) for t in plan(checkpoint).model]
    weights = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    assert sum(hub.sent.values()) < weights / 3  # of a model this small; see the slow test
    assert any("read of" in event.text for event in seen if isinstance(event, Note))
    assert not any(path.endswith("tokenizer.json") for _, path in hub.requests)
    with pytest.raises(FormatError, match=r"no config.json, but tiny-Q8_0.gguf .give hf://org/tiny-GGUF/tiny-Q8_0"):
        plan("org/tiny-GGUF")


def test_inspect_a_file_by_ranges(hub: Hub) -> None:
    found = describe("hf://org/tiny-GGUF/tiny-Q8_0.gguf")
    whole = local_path("hf://org/tiny-GGUF/tiny-Q8_0.gguf")
    assert [*found.headers[0].metadata] == [*describe(whole).headers[0].metadata]
    assert found.types == describe(whole).types
    with pytest.raises(FormatError, match=r"hf://org/tiny-GGUF/x.gguf: no file x.gguf \(there is tiny-Q8_0.gguf\)"):
        describe("hf://org/tiny-GGUF/x.gguf")


def test_on_the_command_line(hub: Hub, cli: Callable[..., Done]) -> None:
    file = "hf://org/tiny-GGUF/tiny-Q8_0.gguf"
    done = cli("inspect", file, "--json", "--no-tensors")
    assert done.code == 0, done
    assert json.loads(done.out)["path"].endswith("tiny-Q8_0.gguf")
    done = cli("quantize", file, "x.gguf", "Q4_0", "--allow-requantize")
    assert done.code == 0, done
    assert Path("x.gguf").exists()
    done = cli("plan", "org/none")
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("plan: hf://org/none: no such repository, or a private one")


def test_split_files_come_whole(hub: Hub, tmp_path: Path) -> None:
    from quantmill import split

    model: Model = tiny_llama()
    write_gguf("big.gguf", model)
    split("big.gguf", "big", max_tensors=8)
    parts = sorted(Path().glob("big-0*.gguf"))
    hub.add("org/split", {f"Q8_0/{path.name}": path.read_bytes() for path in parts})
    found = describe(f"hf://org/split/Q8_0/{parts[1].name}")
    assert len(found.headers) == len(parts) > 1
    assert local_path(f"hf://org/split/Q8_0/{parts[0].name}").parent.joinpath(parts[-1].name).is_file()


@pytest.mark.slow
def test_killed_while_it_downloads(served: tuple[Hub, dict[str, str]], checkpoint: Path, tmp_path: Path) -> None:
    """A killed run leaves what is complete, and the next one ends in the same bytes."""
    hub, env = served
    env = {**os.environ, **env, "HF_HOME": str(tmp_path / "home")}
    code = "from quantmill.tools.main import run_convert; run_convert()"
    argv = [sys.executable, "-c", code, "org/tiny", str(tmp_path / "out.gguf"), "--outtype", "Q4_K_M"]
    hub.requests.clear()
    process = subprocess.Popen(argv, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    from oracles.hub import wait_until

    wait_until(lambda: any(path.startswith("storage/") for _, path in hub.requests))
    process.kill()
    process.wait()
    assert not (tmp_path / "out.gguf").exists()
    subprocess.run(argv, env=env, cwd=tmp_path, check=True, capture_output=True)
    snapshot = next((tmp_path / "home").rglob("config.json")).parent
    convert(snapshot, tmp_path / "wanted.gguf", "Q4_K_M")
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "wanted.gguf").read_bytes()
    shutil.rmtree(tmp_path / "home")
