"""Commands that take models from a hub, which runs on this machine, and what they read of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from oracles.hub import Hub, running_hub, wait_until
from oracles.mistral_folders import CASES, save
from quantmill import (
    Note,
    ReadOptions,
    ReleaseOptions,
    convert,
    describe,
    local_path,
    plan,
    push,
    read_gguf,
    read_hf,
    release,
    tiny_llama,
    write_gguf,
    write_hf,
)
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


def test_mistrals_own_format_by_name(hub: Hub, tmp_path: Path) -> None:
    folder = save(next(case for case in CASES if case.id == "dense-v3"), tmp_path / "source" / "mistral")
    hub.add("org/mistral", folder)
    convert("org/mistral", "from-hub.gguf", "F16")
    convert(folder, "from-folder.gguf", "F16", read=ReadOptions(model_name="Mistral"))
    ours, here = read_gguf(Path("from-hub.gguf")), read_gguf(Path("from-folder.gguf"))
    assert [bytes(t.rows(0, t.n_rows)) for t in ours] == [bytes(t.rows(0, t.n_rows)) for t in here]
    assert ours.get("tokenizer.ggml.tokens") == here.get("tokenizer.ggml.tokens")
    assert plan("org/mistral", ["Q8_0"]).model.arch == "llama"


def test_an_adapter_of_a_base_on_the_hub(hub: Hub, checkpoint: Path, tmp_path: Path, cli: Callable[..., Done]) -> None:
    """Its configuration is fetched, and no weights."""
    width = json.loads((checkpoint / "config.json").read_text())["hidden_size"]
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    up = next(t for t in read_hf(checkpoint) if t.name == "blk.0.ffn_up.weight")
    pair = {name.format("A"): np.ones((4, width), np.float32), name.format("B"): np.ones((up.n_rows, 4), np.float32)}
    (tmp_path / "lora").mkdir()
    save_file(pair, tmp_path / "lora" / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["up_proj"], "base_model_name_or_path": "?"}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(said))
    assert cli("convert", tmp_path / "lora", tmp_path / "hub.gguf", "--base", "org/tiny").code == 0
    assert cli("convert", tmp_path / "lora", tmp_path / "folder.gguf", "--base", checkpoint).code == 0
    assert (tmp_path / "hub.gguf").read_bytes() == (tmp_path / "folder.gguf").read_bytes()
    assert sum(hub.sent.values()) < sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")) / 2
    assert "or its name on the hub" in cli("convert", tmp_path / "lora", tmp_path / "o.gguf").err


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


def test_a_check_reads_headers_and_vocabulary(hub: Hub, cli: Callable[..., Done]) -> None:
    done = cli("archs", "--check", "org/tiny", "--json")
    assert done.code == 0, done
    found = json.loads(done.out)
    assert (found["name"], found["converts"], found["weights"]) == ("llama", True, True)
    assert found["tokenizer"]
    assert not any(path.endswith("pytorch_model.bin") for _, path in hub.requests)


def test_a_plan_takes_less_than_a_hundredth(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "source" / "wide"
    folder.parent.mkdir()
    write_hf(tiny_llama(layers=2, width=1024), folder, max_shard_bytes=20_000_000)
    hub.add("org/wide", folder)
    seen: list[object] = []
    plan("org/wide", ["Q4_K_M"], progress=seen.append)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert sum(hub.sent.values()) < weights / 100
    print(next(event.text for event in seen if isinstance(event, Note) and "read of" in event.text))


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
    """A killed run leaves what came, and the next one fetches the rest alone, and ends in the same bytes."""
    hub, env = served
    half = 150_000
    held = threading.Event()

    parts = tmp_path / "home" / "hub" / "models--org--tiny" / "blobs"

    def wait(method: str, path: str) -> None:
        """Nothing more until the kill, once a file is half there."""
        if path.startswith("storage/") and any(part.stat().st_size >= half for part in parts.glob(".*.part")):
            held.wait(60)

    hub.cut_after, hub.faults = lambda path: half if len(path) == 64 else None, wait
    env = {**os.environ, **env, "HF_HOME": str(tmp_path / "home")}
    code = "from quantmill.tools.main import run_convert; run_convert()"
    argv = [sys.executable, "-c", code, "org/tiny", str(tmp_path / "out.gguf"), "--outtype", "Q4_K_M"]
    hub.requests.clear()
    process = subprocess.Popen(argv, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: any(path.stat().st_size >= half for path in parts.glob(".*.part")), seconds=60)
    process.kill()
    process.wait()
    (left,) = parts.glob(".*.part")
    assert left.stat().st_size == half
    held.set()
    hub.cut_after, hub.faults = lambda path: None, lambda method, path: None
    hub.ranges.clear()
    assert not (tmp_path / "out.gguf").exists()
    subprocess.run(argv, env=env, cwd=tmp_path, check=True, capture_output=True)
    assert (left.name.strip(".").partition(".")[0], f"bytes={half}-") in hub.ranges
    assert not left.exists()
    env["HF_HOME"] = str(tmp_path / "other")
    subprocess.run([*argv[:4], str(tmp_path / "wanted.gguf"), *argv[5:]], env=env, check=True, capture_output=True)
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "wanted.gguf").read_bytes()


@pytest.fixture
def made(hub: Hub, checkpoint: Path, tmp_path: Path) -> Path:
    options = ReleaseOptions(levels=["Q8_0", "Q4_0"], imatrix=None)
    release(checkpoint, tmp_path / "made", options)
    return tmp_path / "made"


def hashes(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if not name.startswith(".")}


def of_folder(folder: Path) -> dict[str, str]:
    return hashes({path.name: path.read_bytes() for path in folder.iterdir()})


def test_a_release_is_pushed_as_it_is_made(hub: Hub, checkpoint: Path, made: Path) -> None:
    options = ReleaseOptions(levels=["Q8_0", "Q4_0"], imatrix=None)
    release(checkpoint, "pushed", options, push="someone/tiny-GGUF-1")
    repo = hub.repos["someone/tiny-GGUF-1"]
    assert repo.private
    assert hashes(repo.files) == of_folder(Path("pushed"))
    manifest = json.loads(repo.files["manifest.json"])
    there = hashes(repo.files)
    assert {name: facts["sha256"] for name, facts in manifest["files"].items()}.items() <= there.items()
    order = [next(iter({*after} - {*before})) for before, after in itertools.pairwise(repo.commits.values())]
    assert order[-3:] == ["SHA256SUMS", "manifest.json", "README.md"]  # after what they speak of


def test_push_uploads_what_is_not_there(hub: Hub, made: Path, cli: Callable[..., Done]) -> None:
    name = "someone/tiny-GGUF-2"
    done = cli("push", made, name, "--dry-run")
    assert done.code == 0, done
    assert done.out.startswith(f"{name} would be made, private; would upload: tiny.Q")
    assert name not in hub.repos
    assert push(made, name).made
    repo = hub.repos[name]
    n = len(repo.commits)
    again = push(made, f"hf://{name}")
    assert (again.uploaded, again.made, len(repo.commits)) == ((), False, n)
    hub.add(name, {**repo.files, "README.md": b"of another hand", "notes.txt": b"theirs"})
    (made / "tiny.Q8_0.gguf").touch()
    seen: list[object] = []
    again = push(made, name, progress=seen.append)
    assert (again.uploaded, again.others) == (("README.md",), ("notes.txt",))
    assert repo.files["notes.txt"] == b"theirs"
    assert any("1 other files stay as they are" in event.text for event in seen if isinstance(event, Note))


def test_checkpoints_go_to_repositories_of_their_own(hub: Hub, checkpoint: Path, cli: Callable[..., Done]) -> None:
    options = ReleaseOptions(levels=["Q8_0"], imatrix=None, compress=["fp8"])
    release(checkpoint, "both-GGUF", options, push="someone/both-GGUF")
    assert hashes(hub.repos["someone/both-GGUF"].files) == of_folder(Path("both-GGUF"))
    beside = hub.repos["someone/both-FP8-dynamic"]
    assert beside.private
    assert hashes(beside.files) == of_folder(Path("both-FP8-dynamic"))
    n = len(beside.commits)
    done = cli("push", "both-GGUF", "someone/both-GGUF", "--json")
    assert json.loads(done.out)["beside"][0] | {"kept": []} == {
        "repository": "someone/both-FP8-dynamic", "made": False, "uploaded": [], "kept": [], "others": [],
    }  # fmt: skip
    assert len(beside.commits) == n
    Path("both-FP8-dynamic", "config.json").write_text("{}")
    with pytest.raises(FormatError, match=r"both-FP8-dynamic.config.json: is not the file that manifest.json lists"):
        push("both-GGUF", "someone/both-GGUF")


def test_a_push_through_faults(hub: Hub, made: Path) -> None:
    asked: list[str] = []

    def once(method: str, path: str) -> tuple[int, dict[str, str], bytes] | None:
        asked.append(f"{method} {path}")
        if method == "GET" or asked.count(asked[-1]) > 1:
            return None
        if method == "PUT":
            raise ConnectionError
        return 503, {}, b""

    hub.faults = once
    push(made, "someone/tiny-GGUF-3")
    assert hashes(hub.repos["someone/tiny-GGUF-3"].files) == of_folder(made)


def test_pushes_that_cannot_be(
    hub: Hub, made: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert refused("push", tmp_path, "me/x").endswith("holds no finished release (quantmill release makes one)")
    assert "'x' is no repository's name (give org/name" in refused("push", made, "x")
    path = made / "tiny.Q4_0.gguf"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "is not the file that manifest.json lists (make it again)" in refused("push", made, "me/x")
    path.write_bytes(whole)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the hub refuses access (401) (hf auth login, or set HF_TOKEN" in refused("push", made, "me/x")
    line = refused("release", made, tmp_path / "no", "--public")
    assert "--public" in line


def until_killed(process: subprocess.Popen[bytes], when: Callable[[], bool]) -> None:
    """Kill a program at some moment, unless it ends before."""
    wait_until(lambda: when() or process.poll() is not None, 60)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_release_killed_while_it_is_pushed(
    served: tuple[Hub, dict[str, str]], checkpoint: Path, tmp_path: Path
) -> None:
    """Killed ten times, each a little later than the last: the end is the same."""
    hub, env = served
    env = {**os.environ, **env, "HF_HOME": str(tmp_path / "home")}
    name, folder = "someone/tiny-GGUF-killed", tmp_path / "made"
    code = "from quantmill.tools.main import run; run()"
    argv = [sys.executable, "-c", code, "release", str(checkpoint), str(folder), "--levels", "Q8_0,Q4_0,Q4_K_M,Q6_K"]
    argv += ["--imatrix", "none", "--push", name, "--quiet"]
    for kills in range(1, 11):
        hub.requests.clear()
        hub.faults = lambda method, path: time.sleep(0.05)  # so that there is a moment to be killed in
        process = subprocess.Popen(argv, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until_killed(process, lambda n=4 * kills: len(hub.requests) >= n)  # type: ignore[misc]
    hub.faults = lambda method, path: None
    if not (folder / "manifest.json").exists() or (folder / ".release.json").exists():
        subprocess.run(argv, env=env, cwd=tmp_path, check=True, capture_output=True)
    push_again = [sys.executable, "-c", code, "push", str(folder), name, "--quiet"]
    subprocess.run(push_again, env=env, cwd=tmp_path, check=True, capture_output=True)
    assert hashes(hub.repos[name].files) == of_folder(folder)
