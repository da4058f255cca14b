"""The model card: everything a stranger needs to choose a file and run it. Pure: facts in, Markdown out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...formats.storage.output import human_bytes
from ..library.releasing.levels import USES, method

RAM_OVERHEAD = 2.5e9  # what the published cards of this kind add to a file's size


@dataclass(frozen=True)
class File:
    """A row of the table. ``figures`` are those of ``evaluate``; empty when it was not measured."""

    name: str
    level: str
    n_bytes: int
    bpw: float
    types: tuple[str, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """What a card is made of.

    Args:
        name: the model's, as a title.
        base_model: where it came from: a repository's name if known, else the folder's.
        card: the front matter of the checkpoint's own card, whose license, languages and tags are handed on.
        files: the set, from small to large.
        provenance: label and value, in order.
        prompt: how a conversation looks to the model, or None.
        plot: the picture's file name, or None.
        context: trained context length, or None.
    """

    name: str
    base_model: str
    card: Mapping[str, Any]
    files: Sequence[File]
    provenance: Sequence[tuple[str, str]]
    prompt: str | None = None
    plot: str | None = None
    context: int | None = None
    quantized_by: str | None = None


def model_card(facts: Facts) -> str:
    """The text of README.md."""
    parts = [
        front_matter(facts),
        f"# {facts.name} in GGUF\n",
        f"Quantized files of {_code(facts.base_model)} for llama.cpp and the programs built on it.\n",
        _how_made(facts),
        _prompt(facts),
        _table(facts),
        _plot(facts),
        _methods(facts),
        _running(facts),
        "`SHA256SUMS` has each file's checksum: `sha256sum -c SHA256SUMS`. `manifest.json` has all that is needed to "
        "make the same bytes again: `quantmill reproduce manifest.json --model FOLDER`.\n",
    ]
    return "\n".join(part for part in parts if part)


def front_matter(facts: Facts) -> str:
    """YAML that model hubs read."""
    lines = ["---"]
    known: dict[str, Any] = {"base_model": facts.base_model}
    known |= {
        key: facts.card[key] for key in ("license", "license_name", "license_link", "language") if key in facts.card
    }
    tags = [str(tag) for tag in facts.card.get("tags") or [] if isinstance(tag, str)]
    known["tags"] = list(dict.fromkeys([*tags, "gguf", "quantized"]))
    known["pipeline_tag"] = facts.card.get("pipeline_tag", "text-generation")
    if facts.quantized_by:
        known["quantized_by"] = facts.quantized_by
    known["library_name"] = "gguf"
    for key, value in known.items():
        if isinstance(value, (list, tuple)):
            lines += [f"{key}:"] + [f"- {_yaml(item)}" for item in value]
        else:
            lines.append(f"{key}: {_yaml(value)}")
    return "\n".join([*lines, "---", ""])


def _how_made(facts: Facts) -> str:
    lines = ["## How these files were made\n"]
    lines += [f"- {label}: {value}" for label, value in facts.provenance]
    return "\n".join(lines) + "\n"


def _prompt(facts: Facts) -> str:
    if facts.prompt is None:
        return ""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", facts.prompt)), default=0))
    return f"## Prompt template\n\n{fence}\n{facts.prompt.rstrip()}\n{fence}\n"


def _table(facts: Facts) -> str:
    measured = any(file.figures for file in facts.files)
    heads = ["Name", "Method", "Bits", "Size", "Max RAM", *(["Perplexity", "KLD"] if measured else []), "Use case"]
    rows = [heads, ["---", "---", *["---:"] * (len(heads) - 3), "---"]]
    for file in facts.files:
        figures = []
        if measured:
            figures = [_figure(file.figures, "perplexity", ".3f"), _figure(file.figures, "kld_mean", ".5f")]
        rows.append(
            [
                f"[{file.name}](./{file.name})",
                file.level,
                f"{file.bpw:.2f}",
                human_bytes(file.n_bytes),
                human_bytes(int(file.n_bytes + RAM_OVERHEAD)),
                *figures,
                USES.get(file.level, ""),
            ]
        )
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    note = "Bits are per weight, over all tensors. Max RAM is without layers on a GPU and for short contexts."
    if measured:
        note += " KLD is the mean Kullback-Leibler divergence from the original's predictions: 0 would be the same."
    return f"## Provided files\n\n{table}\n\n{note}\n"


def _figure(figures: Mapping[str, Any], key: str, form: str) -> str:
    return f"{figures[key]:{form}}" if key in figures else ""


def _plot(facts: Facts) -> str:
    return f"![Size against divergence]({facts.plot})\n" if facts.plot else ""


def _methods(facts: Facts) -> str:
    types = dict.fromkeys(type for file in facts.files for type in file.types)
    lines = [
        "## Quantization methods\n",
        "A level mixes types: tensors that matter more get more bits. The types used here:\n",
    ]
    return "\n".join(lines + [f"- {method(type)}" for type in types]) + "\n"


def _running(facts: Facts) -> str:
    levels = [file.level for file in facts.files]
    pick = facts.files[levels.index("Q4_K_M") if "Q4_K_M" in levels else len(levels) // 2].name
    context = min(facts.context or 4096, 4096)
    chat = facts.prompt is not None
    python = (
        'print(llm.create_chat_completion([{"role": "user", "content": "Hello"}])["choices"][0]["message"]["content"])'
        if chat
        else 'print(llm("Once upon a time", max_tokens=64)["choices"][0]["text"])'
    )
    return f"""## How to run

llama.cpp:

```shell
llama-cli -m {pick} -c {context} {"-cnv" if chat else '-p "Once upon a time"'}
llama-server -m {pick} -c {context} --port 8080
```

llama-cpp-python:

```python
from llama_cpp import Llama

llm = Llama("{pick}", n_ctx={context})
{python}
```

ollama:

```shell
echo "FROM ./{pick}" > Modelfile
ollama create {re.sub("[^a-z0-9._-]+", "-", facts.name.lower()).strip("-")} -f Modelfile
```

transformers (decodes the weights to full size):

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".", gguf_file="{pick}")
tokenizer = AutoTokenizer.from_pretrained(".", gguf_file="{pick}")
```
"""


def _code(text: str) -> str:
    return f"`{text}`" if "`" not in text else text


def _yaml(value: Any) -> str:
    """A scalar, in quotes unless it is plainly a word."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", text) and text.lower() not in (
        "true",
        "false",
        "yes",
        "no",
        "null",
        "on",
        "off",
    ):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
