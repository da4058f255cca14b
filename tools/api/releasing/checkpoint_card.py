"""The card of a checkpoint that belongs to a release: the README.md of its own repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ....formats.storage.output import human_bytes
from .front_matter import FrontMatter, front_matter
from .markdown import code, literal, plain, word

if TYPE_CHECKING:
    from .manifest import CheckpointFacts, Manifest

_TAGS = {"gptq": ("gptq",), "awq": ("awq",), "compress": ("compressed-tensors",)}
_MEASURED = (
    "KLD is the mean Kullback-Leibler divergence from the original's predictions, in nats. Weights were decoded to F32 "
    "for it, and activations were left as they are."
)


def checkpoint_card(name: str, facts: CheckpointFacts, title: str, front: FrontMatter, manifest: Manifest) -> str:
    """Write the text of README.md.

    Args:
        name: the checkpoint's, such as ``GPTQ-Int4``.
        facts: how it was made.
        title: the model's name.
        front: the front matter of the release's own card.
        manifest: of the release.
    """
    own = facts.checkpoint
    tags = (*_TAGS[own.method], "quantized")
    own_front = front_matter(replace(front, tags=tags, program="transformers"))
    how = f"quantmill {manifest.versions['quantmill']}, {_words(facts)}"
    lines = [f"- Program: {how}"]
    if facts.text is not None:
        chunks = f"the first {facts.chunks} chunks" if facts.chunks else "all chunks"
        text = f"{code(facts.text.name)} (SHA-256 `{facts.text.sha256}`)"
        lines.append(f"- Calibrated on: {text}, {chunks} of {facts.n_ctx} tokens")
    lines.append(f"- Size: {human_bytes(sum(about.nbytes for about in facts.files.values()))}")
    figures = {} if manifest.evaluation is None else manifest.evaluation.levels.get(name, {})
    if figures:
        measured = f"perplexity {figures['perplexity']:.4f}, mean KLD {figures['kld_mean']:.5f}. {_MEASURED}"
        lines.append(f"- Measured: {measured}")
    folder = word(facts.folder)
    parts = [
        own_front,
        f"# {plain(title)} in {name}\n",
        f"A quantized checkpoint of {code(front.base_model)} for vLLM and transformers.\n",
        "## How it was made\n",
        "\n".join(lines) + "\n",
        "## How to run\n",
        f"```shell\nvllm serve {folder}\n```\n",
        "```python\nfrom transformers import AutoModelForCausalLM\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({literal(facts.folder)})\n```\n",
    ]
    return "\n".join(parts)


def _words(facts: CheckpointFacts) -> str:
    own = facts.checkpoint
    size = "" if own.group_size is None else f", groups of {own.group_size}"
    if own.method == "gptq":
        return f"GPTQ in {own.bits} bits{size}"
    return f"AWQ in 4 bits{size}" if own.method == "awq" else f"compressed-tensors {code(own.scheme)}{size}"


@dataclass(frozen=True)
class CheckpointRow:
    """A checkpoint in the tables of a release's own card.

    Args:
        name: its folder's.
        level: what it is, such as ``GPTQ-Int4``.
        n_bytes: of its weights.
        bpw: bits per weight; None: what is counted as a weight differs between formats.
        figures: what was measured of it.
    """

    name: str
    level: str
    n_bytes: int
    bpw: float | None
    figures: Mapping[str, float]


def checkpoint_rows(manifest: Manifest) -> list[CheckpointRow]:
    """The checkpoints as rows of the release's own tables."""
    levels = {} if manifest.evaluation is None else manifest.evaluation.levels
    rows = []
    for name, facts in manifest.checkpoints.items():
        nbytes = sum(about.nbytes for file, about in facts.files.items() if file.endswith(".safetensors"))
        rows.append(CheckpointRow(facts.folder, name, nbytes, None, levels.get(name, {})))
    return rows
