"""A release of a real model that is pushed while it is made: killed again and again, it ends in the same repository."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from oracles.hub import Hub, running_hub, wait_until
from oracles.kills import KILLS, command

LEVELS = "Q4_K_M,Q5_K_M,Q8_0"


def hashes(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if not name.startswith(".")}


def of_folder(folder: Path) -> dict[str, str]:
    return hashes({path.name: path.read_bytes() for path in folder.iterdir()})


def progress(folder: Path, hub: Hub) -> int:
    """Bytes that are written, finished or not, and bytes that the hub has."""
    written = 0
    for path in folder.glob("*") if folder.is_dir() else ():
        try:
            written += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue  # it has another name by now
    parts = sum(len(data) for parts in list(hub.parts.values()) for data in list(parts.values()))
    return written + parts + sum(map(len, list(hub.objects.values())))


@pytest.mark.slow
def test_of_a_real_model(smollm2_hf: Path, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    """Ten kills spread over what is written and uploaded, each taken up by the next run."""
    env = os.environ | {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_good", "HF_HOME": str(tmp_path / "home")}
    kills = max(10, KILLS)

    def argv(name: str) -> list[str]:
        words = ["release", str(smollm2_hf), name, "--levels", LEVELS, "--imatrix", "none", "--evaluate"]
        return command(*words, "--chunks", "2", "--push", f"someone/{name}", "--threads", "1")

    def run(hub: Hub, name: str) -> subprocess.CompletedProcess[str]:
        settings = env | {"HF_ENDPOINT": hub.url}
        return subprocess.run(argv(name), env=settings, cwd=tmp_path, capture_output=True, text=True, check=True)

    with running_hub() as hub:
        run(hub, "whole")
        wanted, total = hashes(hub.repos["someone/whole"].files), progress(tmp_path / "whole", hub)
        manifest = json.loads(hub.repos["someone/whole"].files["manifest.json"])
    assert wanted == of_folder(tmp_path / "whole")
    assert {name: facts["sha256"] for name, facts in manifest["files"].items()}.items() <= wanted.items()
    assert all(facts["bytes"] > 100_000_000 for facts in manifest["files"].values())
    taken_up = 0
    with running_hub() as hub:
        folder, settings = tmp_path / "killed", env | {"HF_ENDPOINT": hub.url}
        for number in range(1, kills + 1):
            errors = tmp_path / "errors"
            with errors.open("w") as file:
                process = subprocess.Popen(argv("killed"), env=settings, cwd=tmp_path, stderr=file,
                                           stdout=subprocess.DEVNULL)  # fmt: skip
                due = total * number // (kills + 1)
                wait_until(lambda: progress(folder, hub) >= due or process.poll() is not None, 600)  # noqa: B023
                assert process.poll() is None, errors.read_text()
                process.kill()
                process.wait()
            taken_up += "going on" in errors.read_text()
        last = run(hub, "killed")
        there = hub.repos["someone/killed"].files
    assert "going on" in last.stderr
    found = hashes(there)
    assert found == of_folder(folder)
    models = {name: sha for name, sha in wanted.items() if name.endswith(".gguf")}
    assert models.items() <= found.items()
    assert set(found) == set(wanted)
    again = json.loads(there["manifest.json"])
    assert again["files"] == manifest["files"]
    assert again["evaluation"] == manifest["evaluation"]
    record_property("counts", f"killed {kills} times, taken up {taken_up + 1} times: the same {len(found)} files")
    print(f"{len(found)} files, {sum(map(len, there.values())) / 1e6:.0f} MB in the repository; killed {kills} times, "
          f"taken up {taken_up + 1} times")  # fmt: skip
