"""The front matter of a release's card: the YAML that model hubs read, merged with that of the original's card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ....formats.errors import PlanError, visible

_TAKEN_OVER = ("license", "license_name", "license_link", "language")  # from the original's card
_OF_OTHER = ("license_name", "license_link")  # what the hub wants of a license that it does not know
_LICENSE = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code")


@dataclass(frozen=True)
class FrontMatter:
    """What decides the front matter.

    Args:
        base_model: the original's repository, or its name.
        card: the front matter of the original's card.
        task: the hub's pipeline tag of such models.
        quantized_by: who made the release, or None.
        language, license: what the publisher says, in place of what the original's card says.
        tags: those of the release, behind the original's.
        program: what its files are for, as the hub calls it.
    """

    base_model: str
    card: Mapping[str, object]
    task: str = "text-generation"
    quantized_by: str | None = None
    language: Sequence[str] = ()
    license: str | None = None
    tags: Sequence[str] = ("gguf", "quantized")
    program: str = "gguf"

    def entries(self) -> dict[str, object]:
        """The keys and their values, in order."""
        card = self.card
        known: dict[str, object] = {"base_model": self.base_model, "base_model_relation": "quantized"}
        known |= {key: card[key] for key in _TAKEN_OVER if key in card}
        if self.license is not None:
            known["license"] = self.license
            if self.license != "other":
                known = {key: value for key, value in known.items() if key not in _OF_OTHER}
        if self.language:
            known["language"] = list(self.language)
        tags = card.get("tags")
        tags = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list | tuple) else []
        known["tags"] = list(dict.fromkeys([*tags, *self.tags]))
        known["pipeline_tag"] = card.get("pipeline_tag", self.task)
        if self.quantized_by:
            known["quantized_by"] = self.quantized_by
        known["library_name"] = self.program
        return {key: _entry(value) for key, value in known.items()}

    def conflicts(self) -> tuple[str, ...]:
        """Where the original's card says something else, or says more: a text for each key."""
        ours, told = self.entries(), []
        for key, theirs in self.card.items():
            if key == "tags" or ours.get(key) == _entry(theirs):
                continue
            if key not in ours:
                told.append(f"{key} is left out")
            elif not isinstance(theirs, list | dict | tuple) and not isinstance(ours[key], list):
                told.append(f"{key} {theirs} becomes {ours[key]}")
            else:
                told.append(f"{key} is replaced")
        return tuple(told)


def front_matter(facts: FrontMatter) -> str:
    """Write the YAML with its ``---`` lines. Texts with control characters stand in quotes.

    Example:
        >>> print(front_matter(FrontMatter("somebody/Tiny", {"license": "mit", "tags": ["chat"]})))
        ---
        base_model: somebody/Tiny
        base_model_relation: quantized
        license: mit
        tags:
        - chat
        - gguf
        - quantized
        pipeline_tag: text-generation
        library_name: gguf
        ---
        <BLANKLINE>
    """
    import yaml  # type: ignore[import-untyped, unused-ignore]

    entries = facts.entries()
    texts = [text for entry in entries.values() for text in (entry if isinstance(entry, list) else [entry])]
    odd = any(isinstance(text, str) and text != visible(text) for text in texts)
    text: str = yaml.safe_dump(
        entries, sort_keys=False, allow_unicode=not odd, default_flow_style=False, width=10_000,
        default_style='"' if odd else None,
    )  # fmt: skip
    return f"---\n{text}---\n"


def check_identifiers(license: str | None, language: Sequence[str]) -> None:
    """Check that a license and languages look like the hub's identifiers.

    Raises:
        PlanError: one does not.

    Example:
        >>> check_identifiers("apache-2.0", ["en", "zh-Hant"])
    """
    if license is not None and not _LICENSE.fullmatch(license):
        hint = "such as apache-2.0, mit, llama3.1; or other"
        raise PlanError(f"{license!r} is no identifier of the hub's", where="--license", hint=hint)
    for code in language:
        if not _LANGUAGE.fullmatch(code):
            hint = "ISO 639, such as en, de, zh; or multilingual"
            raise PlanError(f"{code!r} is no code of a language", where="--language", hint=hint)


def _entry(value: object) -> object:
    """A flag, a text, or a list of them; dates and numbers of a stranger's card become texts."""
    if isinstance(value, list | tuple):
        return [item if isinstance(item, bool) else str(item) for item in value]
    return value if isinstance(value, bool) else str(value)
