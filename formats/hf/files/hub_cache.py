"""The Hugging Face cache, as ``huggingface_hub`` lays it out.

``models--org--name`` holds ``snapshots/REVISION``, whose files are links to ``blobs/HASH``, and ``refs/main``, the
revision's text. A checkpoint's folder is a snapshot, or a folder inside of one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_PREFIX = "models--"
_SNAPSHOT = re.compile(r"(?:.*[/\\])?models--([^/\\]+)[/\\]snapshots[/\\][^/\\]+[/\\]?")
_MAX_REVISION = 100  # characters; a commit's hash has 40


def id_of_snapshot(path: str) -> str | None:
    """The id of the model whose snapshot a path is, by the path's text alone; None for any other path.

    Example:
        >>> from quantmill.formats.hf.files.hub_cache import id_of_snapshot
        >>> id_of_snapshot("/home/me/.cache/huggingface/hub/models--org--Tiny-1B/snapshots/0123abcd")
        'org/Tiny-1B'
        >>> id_of_snapshot("models/Tiny-1B") is None
        True
    """
    match = _SNAPSHOT.fullmatch(path)
    return match[1].replace("--", "/", 1) if match else None


def checkpoint_id(path: Path) -> str:
    """The model's id where the path is a snapshot in the cache, whose own name is a hash; else the path's name.

    Example:
        >>> from pathlib import Path
        >>> from quantmill.formats.hf.files.hub_cache import checkpoint_id
        >>> checkpoint_id(Path("hub/models--org--Tiny-1B/snapshots/0123abcd")), checkpoint_id(Path("models/Tiny-1B"))
        ('org/Tiny-1B', 'Tiny-1B')
    """
    real = path.resolve()
    return id_of_snapshot(str(real)) or real.name


def checkpoint_name(path: Path) -> str:
    """As ``checkpoint_id``, without the organization."""
    return checkpoint_id(path).rpartition("/")[2]


def snapshot_of(cache: Path, model_id: str, commit: str) -> Path:
    """The folder of a model's snapshot.

    Example:
        >>> from pathlib import Path
        >>> from quantmill.formats.hf.files.hub_cache import snapshot_of
        >>> snapshot_of(Path("hub"), "org/Tiny-1B", "0123abcd").as_posix()
        'hub/models--org--Tiny-1B/snapshots/0123abcd'
    """
    return cache / (_PREFIX + model_id.replace("/", "--")) / "snapshots" / commit


def blob_of(snapshot: Path, hash: str) -> Path:
    """Where the content of a snapshot's file lies, called by its hash."""
    return snapshot.parent.parent / "blobs" / hash


def link_blob(blob: Path, file: Path) -> None:
    """Let a snapshot's file be a link to its content; where there are no links, the content itself."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    try:
        file.symlink_to(os.path.relpath(blob, file.parent))
    except OSError:
        blob.replace(file)


def is_blobs(folder: Path) -> bool:
    """Whether a path is that of a cache's folder of blobs, which may itself be a link to another disk."""
    return folder.name == "blobs" and (folder.parent / "snapshots").is_dir()


def newest_snapshot(folder: Path) -> Path | None:
    """The snapshot that ``refs/main`` of a model's folder in the cache names; None for other folders."""
    try:
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()[:_MAX_REVISION]
        snapshot = folder / "snapshots" / revision
        return snapshot if revision and "/" not in revision and snapshot.is_dir() else None
    except (OSError, ValueError):
        return None
