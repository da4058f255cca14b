"""A hub on this machine, and settings that make the real client talk to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from oracles.hub import Hub, running_hub
from quantmill.formats.hub import faults


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as running:
        use(running, tmp_path / "cache", monkeypatch)
        yield running


def use(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process's client talk to a hub. Its settings are read when it is first imported."""
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": True,
        "DOWNLOAD_CHUNK_SIZE": 10_000,  # what is written at once, from where a cut download goes on; 10 MB by default
    }.items():  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    monkeypatch.setattr(faults, "WAITS", (0.01,) * 4)
