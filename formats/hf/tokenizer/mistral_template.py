"""The chat template of a tokenizer in Mistral's own format, which says only its version.

Where the folder has no chat_template.jinja, llama.cpp's converter writes the name of a template that is built into
llama.cpp, or, for later versions, a text of its own folder models/templates. The names are written here too; the texts
are llama.cpp's, and a line says where they are.
"""

from __future__ import annotations

from .files.folder import TokenizerFolder
from .files.ranks import read_tekken
from .files.sentencepiece_model import VERSIONED

# (version, whether the vocabulary is tekken.json) -> the name of llama.cpp's template.
_NAMED = {
    ("v1", False): "mistral-v1",
    ("v1", True): "mistral-v1",
    ("v3", False): "mistral-v3",
    ("v3", True): "mistral-v3-tekken",
    ("v7", False): "mistral-v7",
    ("v7", True): "mistral-v7-tekken",
}
_TEXTS = {"v11": "Mistral-Small-3.2-24B-Instruct-2506.jinja", "v13": "unsloth-mistral-Devstral-Small-2507.jinja"}


def named_template(folder: TokenizerFolder, *, wanted: bool) -> tuple[dict[str, str], list[str]]:
    """The template as ``Tokenizer.chat_templates`` has it, and a line about it; both empty where the folder has one.

    Args:
        folder: in Mistral's own format.
        wanted: whether the name of one of llama.cpp's is taken.
    """
    if folder.chat_templates:
        return {}, []
    if not wanted:
        return {}, ["no chat template is written: conversations are mistral-common's"]
    version, is_tekken = _version(folder)
    if name := _NAMED.get((version or "", is_tekken)):
        return {"default": name}, [f"its tokenizer is of version {version}: the chat template is llama.cpp's {name}"]
    text = f", such as {_TEXTS[version]} of llama.cpp's models/templates" if version in _TEXTS else ""
    how = f"gguf-set-metadata --chat-template FILE adds one{text}"
    return {}, [f"no chat template: no chat_template.jinja, and its tokenizer is of version {version}; {how}"]


def _version(folder: TokenizerFolder) -> tuple[str | None, bool]:
    if folder.has("tekken.json"):
        return read_tekken(folder.path / "tekken.json").version, True
    path = folder.sentencepiece_path
    match = None if path is None else VERSIONED.fullmatch(path.name)
    return (match[1] or "v1") if match else None, False
