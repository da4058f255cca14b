"""The name of a model that lies in the Hugging Face cache, where its folder's name is a hash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantmill.formats.errors import FormatError
from quantmill.formats.hf.adapters.read import read_lora
from quantmill.formats.hf.files.hub_cache import checkpoint_id, checkpoint_name, id_of_snapshot, newest_snapshot
from quantmill.formats.hf.load import read_hf
from quantmill.formats.ir import Model
from quantmill.tools.api.models import output_path, source_kind

REV = "0123456789abcdef0123456789abcdef01234567"
HOME = "/home/me/.cache/huggingface/hub/models--org--Base-7B/snapshots"


@pytest.fixture
def snapshot(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint("gqa"), tmp_path / "hub" / "models--some-org--Tiny-1B-Chat" / "snapshots" / REV)


def named(model: Model) -> dict[str, Any]:
    keys = ("name", "organization", "basename", "finetune", "size_label")
    return {key: model.get(f"general.{key}") for key in keys}


TINY = {
    "name": "Tiny 1B Chat",
    "organization": "Some Org",
    "basename": "Tiny",
    "finetune": "1b-Chat",  # it has 74 thousand weights, so that 1B is no size: as gguf-py has it
    "size_label": "74K",
}


def test_a_snapshot_s_name_is_the_model_s(snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its path, with a slash at its end, from inside, and through a link."""
    (tmp_path / "mine").symlink_to(snapshot)
    assert named(read_hf(snapshot)) == TINY
    assert named(read_hf(f"{snapshot}/")) == TINY
    assert named(read_hf(tmp_path / "mine")) == TINY
    monkeypatch.chdir(snapshot)
    assert named(read_hf(".")) == TINY


def test_a_name_without_an_organization(snapshot: Path) -> None:
    snapshot.parents[1].rename(snapshot.parents[2] / "models--tiny")
    found = named(read_hf(snapshot.parents[2] / "models--tiny" / "snapshots" / REV))
    assert (found["name"], found["organization"]) == ("Tiny", None)


def test_the_card_and_name_or_path_come_first(snapshot: Path) -> None:
    config = json.loads((snapshot / "config.json").read_text())
    (snapshot / "config.json").write_text(json.dumps(config | {"_name_or_path": "other/Config-Name"}))
    assert named(read_hf(snapshot))["name"] == "Config Name"
    (snapshot / "README.md").write_text("---\nmodel_name: Card Name\n---\n")
    assert named(read_hf(snapshot))["name"] == "Card Name"


@pytest.mark.parametrize("base", [f"{HOME}/{REV}", f"{HOME}/{REV}/", "org/Base-7B"])
def test_a_base_model_in_somebody_s_cache(snapshot: Path, base: str) -> None:
    """As PEFT and trainers write it into cards: no path of anybody's machine is published."""
    (snapshot / "README.md").write_text(f"---\nbase_model: {base}\n---\n")
    model = read_hf(snapshot)
    found = [model.get(f"general.base_model.0.{key}") for key in ("name", "organization", "repo_url")]
    assert found == ["Base 7B", "Org", "https://huggingface.co/org/Base-7B"]


def test_an_adapter_of_a_base_in_the_cache(snapshot: Path, tmp_path: Path) -> None:
    """The adapter's own name and its base's; the base's snapshot is there, or its id is all that is left."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    adapter = tmp_path / "hub" / "models--me--Tiny-LoRA" / "snapshots" / REV
    get_peft_model(LlamaForCausalLM.from_pretrained(snapshot), LoraConfig(target_modules=["q_proj"])).save_pretrained(
        adapter
    )
    model = read_lora(adapter)
    assert model.get("general.name") == "Tiny-LoRA"
    found = [model.get(f"general.base_model.0.{key}") for key in ("name", "organization", "repo_url")]
    assert found == ["Tiny 1B Chat", "Some Org", "https://huggingface.co/some-org/Tiny-1B-Chat"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{HOME}/{REV}", "org/Base-7B"),
        (rf"C:\Users\me\.cache\huggingface\hub\models--org--Base-7B\snapshots\{REV}", "org/Base-7B"),
        (f"models--gpt2/snapshots/{REV}/", "gpt2"),
        (f"{HOME}/{REV}/sub", None),
        (HOME, None),
        ("datasets--org--set/snapshots/1", None),
        ("models/Tiny", None),
        ("org/Base-7B", None),
        ("", None),
    ],
)
def test_paths_of_snapshots(path: str, expected: str | None) -> None:
    assert id_of_snapshot(path) == expected


def test_names_of_other_folders(tmp_path: Path) -> None:
    """A folder inside of a snapshot has a name of its own."""
    assert checkpoint_id(tmp_path / "Tiny-1B") == "Tiny-1B"
    assert checkpoint_name(tmp_path / "models--o--n" / "snapshots" / REV / "sub") == "sub"


def test_outputs_are_named_after_the_model(snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot's are for the current folder: nothing is written among the snapshots."""
    assert output_path(snapshot, "Q4_K_M") == Path("Tiny-1B-Chat.Q4_K_M.gguf")
    (tmp_path / "mine").symlink_to(snapshot)
    assert output_path(tmp_path / "mine", "Q4_K_M") == tmp_path / "mine.Q4_K_M.gguf"
    monkeypatch.chdir(snapshot)
    assert output_path(Path("."), "Q4_K_M") == Path("Tiny-1B-Chat.Q4_K_M.gguf")
    plain = tmp_path / "plain-bf16"
    (plain / "sub").mkdir(parents=True)
    monkeypatch.chdir(plain)
    assert output_path(Path("."), "Q8_0") == tmp_path / "plain.Q8_0.gguf"
    monkeypatch.chdir(plain / "sub")
    assert output_path(Path(".."), "Q8_0") == tmp_path / "plain.Q8_0.gguf"


def test_a_model_s_folder_in_the_cache_names_the_snapshot(snapshot: Path) -> None:
    """``refs/main`` says which; it is a stranger's text only where the cache is a stranger's."""
    folder = snapshot.parents[1]
    with pytest.raises(FormatError, match="give a Hugging Face checkpoint's folder"):
        source_kind(folder)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(REV)
    assert newest_snapshot(folder) == snapshot
    with pytest.raises(FormatError, match=rf"no config.json in this folder \(give .*/snapshots/{REV}\)"):
        source_kind(folder)
    (folder / "refs" / "main").write_text("../../../..")
    assert newest_snapshot(folder) is None
