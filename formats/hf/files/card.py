"""The ``general.*`` keys: facts about the model from a checkpoint's folder, as llama.cpp's converter collects them.

Sources in order: the README's front matter, ``_name_or_path``, the folder's name; then generation_config's sampling. A
snapshot in the Hugging Face cache, whose own name is a hash, has the model's id for a name.
Follows gguf-py's metadata.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...ir import Tensor
from .hub_cache import checkpoint_id, checkpoint_name, id_of_snapshot

# general.* key -> the front matter's names for it, the first present wins.
_CARD = {
    "name": ("name", "model_name"),
    "author": ("author", "model_author", "model_creator"),
    "version": ("version", "model_version"),
    "organization": ("organization", "model_organization"),
    "finetune": ("finetune", "model_finetune"),
    "basename": ("basename", "model_basename", "model_type"),
    "description": ("description", "model_description"),
    "size_label": ("size_label", "model_size_label"),
    "license": ("license",),
    "license.name": ("license_name",),
    "license.link": ("license_link",),
    "source.url": ("url", "model_url"),
    "source.doi": ("doi", "model_doi"),
    "source.uuid": ("uuid", "model_uuid"),
    "source.repo_url": ("repo_url", "model_repo_url"),
}
_SOURCES = (  # front matter keys that name other repositories
    ("base_model", ("base_model", "base_models", "base_model_sources")),
    ("dataset", ("datasets", "dataset", "dataset_sources")),
)
SAMPLING = {  # general.sampling.* -> generation_config key
    "sequence": "sequence",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "temp": "temperature",
    "penalty_last_n": "penalty_last_n",
    "penalty_repeat": "repetition_penalty",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}


def general(
    folder: Path, config: Mapping[str, Any], generation: Mapping[str, Any], tensors: Sequence[Tensor]
) -> Iterator[tuple[str, Any]]:
    """The ``general.*`` keys with plain values, in the converter's order, without architecture and file type.

    Args:
        folder: the checkpoint.
        config: config.json as it stands (``_name_or_path``).
        generation: generation_config.json as it stands.
        tensors: of the whole model in GGUF's form, for the size label.
    """
    n_weights = sum(tensor.n_weights for tensor in tensors)
    card = front_matter(folder / "README.md")
    facts: dict[str, Any] = {
        key: next((card[name] for name in names if name in card), None) for key, names in _CARD.items()
    }
    origin = config.get("_name_or_path")
    ids = [origin] if isinstance(origin, str) and origin.count("/") <= 1 else []
    for one in (*ids, checkpoint_id(folder)):
        for key, value in name_parts(one, n_weights).items():
            facts[key] = value if facts[key] is None else facts[key]
    facts["name"] = facts["name"] or checkpoint_name(folder)
    facts["size_label"] = facts["size_label"] or model_size(tensors)
    if isinstance(facts["license"], list):
        facts["license"] = ",".join(str(one) for one in facts["license"])

    for key, hf in SAMPLING.items():
        setting = generation.get("penalty_repeat") if key == "penalty_repeat" else None
        setting = generation.get(hf) if setting is None else setting
        if setting is not None:
            yield f"general.sampling.{key}", setting
    order = ("name", "author", "version", "organization", "finetune", "basename", "description", "size_label")
    for key in (*order, *(key for key in _CARD if key not in order)):
        if facts[key] is not None:
            yield f"general.{key}", str(facts[key])
    for kind, names in _SOURCES:
        yield from _sources(kind, next((card[name] for name in names if name in card), None), n_weights)
    for key, pair in (("tags", ("tags", "pipeline_tag")), ("languages", ("languages", "language"))):
        items = [str(item) for name in pair for item in _listed(card.get(name))]
        if items:
            yield f"general.{key}", items


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def _sources(kind: str, value: Any, n_weights: int) -> Iterator[tuple[str, Any]]:
    items = [item for item in _listed(value) if isinstance(item, (str, dict))]
    if items:
        yield f"general.{kind}.count", len(items)
    for i, item in enumerate(items):
        fields = _source(item, n_weights) if isinstance(item, str) else item
        order = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")
        yield from ((f"general.{kind}.{i}.{key}", str(fields[key])) for key in order if key in fields)


def _source(text: str, n_weights: int) -> dict[str, str]:
    """Describe a base model or dataset given by its Hugging Face id, its URL or its snapshot in somebody's cache."""
    fields = {}
    text = id_of_snapshot(text) or text
    if re.match(r"(https?|ssh)://", text):
        fields["repo_url"] = text
        match = re.match(r"https?://huggingface.co/([^/]+/[^/]+)$", text)
        if match is None:
            return fields
        text = match[1]
    parts = name_parts(text, n_weights)
    fields |= {key: parts[key] for key in ("name", "version") if key in parts}
    if "organization" in parts:
        fields["organization"] = parts["organization"]
        fields.setdefault("repo_url", f"https://huggingface.co/{text}")
    return fields


def front_matter(path: Path) -> dict[str, Any]:
    """Read the YAML between the first two ``---`` lines of a model card; {} if there is none.

    Raises:
        FormatError: it is not YAML, or holds what no text can: half of a surrogate pair, or lists in lists without end.
    """
    body, _ = _parts(path)
    if not body:
        return {}
    # "no" means Norwegian here, not False; and published cards contain tabs. gguf-py replaces both in this way.
    text = ("\n".join(body) + "\n").replace("- no\n", '- "no"\n').replace("\t", "  ")
    import yaml  # type: ignore[import-untyped, unused-ignore]

    try:
        data = yaml.safe_load(text)
    # PyYAML's constructors trust their text: !!int "", !!bool x and !!timestamp x end in errors of Python's.
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, TypeError, AttributeError, OverflowError):
        raise FormatError("the front matter is not YAML", path=path, hint=_REMEDY) from None
    if not isinstance(data, dict):
        return {}
    for key, value in data.items():
        if key != _RESULTS and (problem := _no_text(value)):
            raise FormatError(problem, path=path, where=str(key), hint=_REMEDY)
    return data


def card_body(path: Path) -> str:
    """What follows the front matter of a model card; empty if there is no card."""
    return "\n".join(_parts(path)[1]).strip()


def _parts(path: Path) -> tuple[list[str], list[str]]:
    """The lines of a model card's front matter, without its marks, and those of the text below it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return [], []  # the model is complete without a model card
    if not lines or lines[0] != "---":
        return [], lines
    end = lines.index("---", 1) if "---" in lines[1:] else len(lines)
    return lines[1:end], lines[end + 1 :]


_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_INT = 10**1000  # Python writes numbers of up to 4300 digits
_REMEDY = "correct or remove the README"
_RESULTS = "model-index"  # of evaluations, by the thousand; nothing reads them
_MAX_VALUES = 10_000  # of one key, those of an anchor wherever it is named; published cards have some hundreds


def _no_text(value: Any) -> str | None:
    """Why a value cannot be written as a text, if it cannot."""
    left = [value]
    for _ in range(_MAX_VALUES):
        if not left:
            return None
        if len(left) > _MAX_VALUES:
            break
        one = left.pop()
        if isinstance(one, (list, tuple, set)):
            left += one
        elif isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, str) and not one.isascii() and _SURROGATE.search(one):
            return "half of a surrogate pair, which is not a character"
        elif isinstance(one, int) and abs(one) >= _MAX_INT:
            return "a number of thousands of digits"
    return f"more than {_MAX_VALUES} values"


def model_size(tensors: Sequence[Tensor]) -> str:
    """The size label of a model: that of one with one expert only, after the number of experts: ``8x7B``."""
    experts = [tensor for tensor in tensors if "_exps." in tensor.name and len(tensor.shape) == 3 and tensor.shape[0]]
    if not experts:
        return size_label(sum(tensor.n_weights for tensor in tensors))
    beside = sum(tensor.n_weights - tensor.n_weights // tensor.shape[0] for tensor in experts)
    count = sum(tensor.shape[0] for tensor in experts) // len(experts)
    return f"{count}x{size_label(sum(tensor.n_weights for tensor in tensors) - beside)}"


def size_label(n_weights: int) -> str:
    """The number of weights for people, with at least two digits: ``135M``, ``1.1B``."""
    units = ((1e12, 1e-12, "T"), (1e9, 1e-9, "B"), (1e6, 1e-6, "M"), (0, 1e-3, "K"))
    unit, suffix = next((unit, suffix) for limit, unit, suffix in units if n_weights > limit or limit == 0)
    scaled = n_weights * unit
    digits = max(2 - len(str(round(scaled)).lstrip("0")), 0)
    return f"{scaled:.{digits}f}{suffix}"


def _title(text: str) -> str:
    words = text.strip().replace("-", " ").split()
    return " ".join(w.title() if w.islower() and not re.match(r"^(v\d+(?:\.\d+)*|\d.*)$", w) else w for w in words)


_SIZE = re.compile(r"(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)", re.IGNORECASE)


def name_parts(model_id: str, n_weights: int = 0) -> dict[str, str]:
    """Split a model's id, such as ``org/Base-7B-Instruct-v0.2``, into name, organization, basename, size_label, ..."""
    if " " in model_id:
        return {"name": _title(model_id)}  # a sentence, not an id
    organization, _, full = model_id.rpartition("/")
    found = {"name": _title(full)} if full else {}
    if organization and not organization.startswith("."):
        found["organization"] = _title(organization)
    words = [word for word in full.split("-") if word]
    kinds: list[set[str]] = []
    for i, word in enumerate(words):
        words[i], kind = _annotate(word, i == 0, n_weights)
        kinds.append({kind} if kind else set())
    sizes = [i for i, kind in enumerate(kinds) if "size_label" in kind]
    if any(c.isdecimal() for i in sizes for c in words[i]):  # beside "7B", "small" is not a size
        for i in sizes:
            if words[i].isalpha():
                kinds[i].clear()
    _find_basename(words, kinds)

    def joined(kind: str, *without: str) -> str:
        return "-".join(w for w, k in zip(words, kinds, strict=True) if kind in k and not k.intersection(without))

    label = "-".join(dict.fromkeys(w for w, k in zip(words, kinds, strict=True) if "size_label" in k))
    parts = {"finetune": joined("finetune"), "version": joined("version", "basename"), "size_label": label}
    if any(parts.values()):  # else the first word need not be a base name
        parts["basename"] = joined("basename")
    return found | {key: value for key, value in parts.items() if value}


def _annotate(word: str, first: bool, n_weights: int) -> tuple[str, str]:
    """A word of a model's id in its normal form, and its kind; an empty kind if the word alone does not tell."""
    if re.fullmatch(r"(v|iter)?\d+([.]\d+)*", word, re.IGNORECASE):
        return word, "version"
    if re.fullmatch(r"i?q\d(_\w)*|b?fp?(16|32)", word, re.IGNORECASE):
        return word.upper(), "type"
    if not first and _SIZE.fullmatch(word):
        return _size_word(word.replace("_", "."), n_weights)
    if not first and re.fullmatch(r"chat|instruct|vision|lora", word, re.IGNORECASE):
        return word, "finetune"
    return word, ""


def _size_word(word: str, n_weights: int) -> tuple[str, str]:
    if word[-1].isdecimal():  # bloom-7b1
        word = word[:-2] + "." + word[-1] + word[-2]
    if len(word) > 1 and word[-2].isdecimal() and word[-1] in "kmbt":
        word = word[:-1] + word[-1].upper()
    try:
        labelled = float(word[:-1]) * 1000 ** " KMBT".find(word[-1])
    except ValueError:
        return word, "size_label"
    if n_weights and abs(labelled - n_weights) > 7 * n_weights // 8:  # likely a context length: "32k"
        return word[:-1] + word[-1].lower(), "finetune"
    return word, "size_label"


def _find_basename(words: list[str], kinds: list[set[str]]) -> None:
    """Mark the base name: the first words up to one of another kind, without trailing versions."""
    at_start = True
    for word, kind in zip(words, kinds, strict=True):
        if at_start and ((not kind and word[0].isalpha()) or "version" in kind):
            kind.add("basename")
        else:
            at_start = False
            if not kind:
                kind.add("finetune")
    for kind in reversed(kinds):
        if "basename" not in kind or len(kind) == 1:
            break
        kind.remove("basename")
