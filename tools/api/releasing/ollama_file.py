"""The Modelfile of a release."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ....formats.errors import FormatError
from ....formats.hf.files.links import check_link
from ....formats.progress import Progress, note
from ..chat_templates import ChatTemplate
from ..ollama.modelfile import Modelfile, holds, modelfile, sampling_parameters, translate
from .card import Facts, picked
from .chat import chat_of

if TYPE_CHECKING:
    from ....formats.ir import Model

MODELFILE = "Modelfile"
_CONTEXT = 4096  # tokens at most: what a longer context takes of memory is the user's choice
_LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "COPYING")
_MAX_LICENSE = 1 << 18


def write_modelfile(folder: Path, source: Path, model: Model, facts: Facts, progress: Progress | None) -> bool:
    """Write the Modelfile of a release; without one file that Ollama can take there is none, which is said.

    Args:
        folder: the release's.
        source: the checkpoint, whose license is quoted if the publisher named no other.
        model: the model.
        facts: those of the card.
        progress: told what differs from the model's own template.
    """
    whole = [file for file in facts.files if file.shards == 1]
    if not whole:
        note(progress, "no Modelfile: every model is in shards, and Ollama takes one file", important=True)
        return False
    chat = chat_of(model)
    template = None
    if chat.template:
        template = translate(ChatTemplate(chat.template, chat.tokens), drop_bos=chat.adds_bos)
        for remark in template.remarks:
            note(progress, f"{MODELFILE}: {remark}")
    content = Modelfile(
        files=[picked(whole).name, *(file.name for file in facts.mmproj[:1])],
        template=template,
        stops=chat.ends,
        parameters={"num_ctx": min(facts.context or _CONTEXT, _CONTEXT), **sampling_parameters(model)},
        license=_license(source, facts),
    )
    (folder / MODELFILE).write_text(modelfile(content), encoding="utf-8")
    return True


def _license(source: Path, facts: Facts) -> str | None:
    """The text of the license beside the checkpoint, else its identifier."""
    known = facts.front.entries().get("license")
    if facts.front.license is None:
        for path in (source / name for name in _LICENSES):
            if path.is_file() and _may_be_read(path) and path.stat().st_size <= _MAX_LICENSE:
                text = path.read_bytes().decode("utf-8", "replace").strip()
                if text and holds(text):
                    return text
    name = ", ".join(map(str, known)) if isinstance(known, list) else known
    return str(name) if name and holds(str(name)) else None


def _may_be_read(path: Path) -> bool:
    """Whether a file is the checkpoint's own, and no link to another place of this machine."""
    try:
        check_link(path, path.parent)
    except FormatError:
        return False
    return True
