"""What is a name on the hub, and what a path of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantmill.formats.errors import FormatError, PlanError
from quantmill.formats.hub.address import HubAddress, check_repository, find_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("org/name", HubAddress("org/name")),
        ("org/name@v1.0", HubAddress("org/name", "v1.0")),
        ("org/name@refs/pr/3", HubAddress("org/name", "refs/pr/3")),
        ("hf://org/name", HubAddress("org/name")),
        ("hf:/org/name", HubAddress("org/name")),  # as pathlib joins the slashes
        ("hf://org/name@main/sub/x-Q4_K_M.gguf", HubAddress("org/name", "main", "sub/x-Q4_K_M.gguf")),
        ("hf://org/name@refs/pr/3/x.gguf", HubAddress("org/name", "refs/pr/3", "x.gguf")),
    ],
)
def test_addresses(text: str, address: HubAddress) -> None:
    assert find_address(text) == address
    assert find_address(str(address)) == address
    assert find_address(Path(text)) == address


@pytest.mark.parametrize("text", ["model.gguf", "a/b/c", "/org/name", "./name", "org/name.gguf", "org/config.json", ""])
def test_paths_are_no_addresses(text: str) -> None:
    assert find_address(text) is None


def test_what_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_address("models/name") is None  # a mistyped name in a folder that is there
    assert find_address("hf://models/name") == HubAddress("models/name")


@pytest.mark.parametrize("text", ["hf://name", "hf://", "hf://org/", "hf://-org/name", "hf://org/name@"])
def test_other_texts_after_hf_are_refused(text: str) -> None:
    with pytest.raises(FormatError, match=r"is no address on the hub \(hf://org/name, "):
        find_address(text)


def test_a_repository_to_write_to() -> None:
    assert check_repository("hf://me/x-GGUF") == check_repository("me/x-GGUF") == "me/x-GGUF"
    with pytest.raises(PlanError, match="is no repository's name"):
        check_repository("x-GGUF")
