"""The model card of a release: the README.md of its repository, as a pure function from facts to Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ....formats.errors import visible
from ....formats.storage.output import human_bytes
from .checkpoint_card import CheckpointRow
from .front_matter import FrontMatter, front_matter
from .levels import USES, method
from .markdown import code, fenced, link, literal, plain, word
from .measured import measured_table
from .published import PublishedFile

RAM_OVERHEAD = 2.5e9  # bytes that published cards of this kind add to a file's size
# Of the original's text: the ends of lines, and characters without width that are part of emoji and of scripts.
_KEPT = "\n\t\xa0\u200b\u200c\u200d\u3000\ufe0f"


@dataclass(frozen=True)
class File:
    """A row of the card's table.

    Args:
        name: the file's name.
        level: the level it was quantized to.
        n_bytes: its size.
        bpw: bits per weight, over all tensors.
        types: the types in it, the most frequent first.
        figures: what was measured of it, by the names of ``evaluate --json``; empty if nothing was.
        shards: how many files it is; ``name`` is the first.
        about: its use, where the level does not say it.
        refined: whether it is refined.
        plain: the same file without refining, which was measured and is not in the release; or None.
    """

    name: str
    level: str
    n_bytes: int
    bpw: float
    types: tuple[str, ...]
    figures: Mapping[str, float] = field(default_factory=dict)
    shards: int = 1
    about: str = ""
    refined: bool = False
    plain: File | None = None

    @property
    def method(self) -> str:
        """How it was made, in a word or two."""
        return f"{self.level}, refined" if self.refined else self.level


@dataclass(frozen=True)
class Facts:
    """What a card is made of.

    Args:
        name: the model's name, the title.
        front: the front matter.
        files: the release's files, from small to large.
        provenance: labels and values of how they were made, in order.
        prompt: the text of a conversation as the model expects it, or None.
        plot: the picture's file name, or None.
        context: the context length that the model was trained for, or None.
        mmproj: the files of the model's towers, the best first; none for a model of text.
        sees, hears: whether the towers are of images, of sound.
        others: files of other sets, for the table of what was measured.
        others_table: the name of the file that lists them.
        original: the text of the original's model card, without its front matter.
        checkpoints: those for transformers and vLLM that belong to the release.
        modelfile: whether there is one for Ollama.
        image: whether the model makes images or videos.
        image_class: the class of diffusers that loads such a model's files, or empty.
    """

    name: str
    front: FrontMatter
    files: Sequence[File]
    provenance: Sequence[tuple[str, str]]
    prompt: str | None = None
    plot: str | None = None
    context: int | None = None
    mmproj: Sequence[File] = ()
    sees: bool = False
    hears: bool = False
    others: Sequence[PublishedFile] = ()
    others_table: str | None = None
    original: str = ""
    checkpoints: Sequence[CheckpointRow] = ()
    modelfile: bool = False
    image: bool = False
    image_class: str = ""


def model_card(facts: Facts) -> str:
    """Write the text of README.md.

    Example:
        >>> file = File("Tiny.Q8_0.gguf", "Q8_0", 1_100_000_000, 8.5, ("Q8_0",))
        >>> text = model_card(Facts("Tiny", FrontMatter("somebody/Tiny", {"license": "mit"}), [file], []))
        >>> [line for line in text.splitlines() if line.startswith("| [")]  # doctest: +NORMALIZE_WHITESPACE
        ["| [Tiny.Q8_0.gguf](./Tiny.Q8_0.gguf) | Q8_0 | 8.50 | 1.1 GB | 3.6 GB |
        almost the original's quality; larger than most uses need |"]
    """
    parts = [
        front_matter(facts.front),
        f"# {plain(facts.name)} in GGUF\n",
        f"Quantized files of {code(facts.front.base_model)} for {_programs(facts)}.\n",
        _how_made(facts),
        _prompt(facts),
        _table(facts),
        measured_table([*with_plain(facts.files), *facts.checkpoints], facts.others, facts.others_table),
        _plot(facts),
        _methods(facts),
        _painting(facts) if facts.image else _running(facts),
        _towers(facts),
        _checkpoints(facts),
        "`SHA256SUMS` lists each file's checksum: `sha256sum -c SHA256SUMS`. `manifest.json` records what is needed to "
        "make the same bytes again: `quantmill reproduce manifest.json --model FOLDER`.\n",
        _original(facts),
    ]
    return "\n".join(part for part in parts if part)


def _how_made(facts: Facts) -> str:
    lines = ["## How these files were made\n"]
    lines += [f"- {label}: {value}" for label, value in facts.provenance]
    return "\n".join(lines) + "\n"


def _prompt(facts: Facts) -> str:
    if facts.prompt is None:
        return ""
    return f"## Prompt template\n\n{fenced(facts.prompt)}\n"


def _table(facts: Facts) -> str:
    heads = ["Name", "Method", "Bits", "Size", "Max RAM", "Use case"]
    rows = [heads, ["---", "---", *["---:"] * (len(heads) - 3), "---"]]
    for file in facts.files:
        rows.append(
            [
                link(file.name) + (f" and {file.shards - 1} more shards" if file.shards > 1 else ""),
                file.method,
                f"{file.bpw:.2f}",
                human_bytes(file.n_bytes),
                human_bytes(int(file.n_bytes + RAM_OVERHEAD)),
                file.about or USES.get(file.level, ""),
            ]
        )
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    note = "Bits are per weight, over all tensors. Max RAM is without layers on a GPU and for short contexts."
    return f"## Provided files\n\n{table}\n\n{note}\n"


def with_plain(files: Sequence[File]) -> list[File]:
    """Files as the tables of what was measured have them: each refined one before the same file without refining."""
    pairs = [(replace(file, level=file.method), file.plain) for file in files]
    return [one for pair in pairs for one in pair if one is not None]


def _plot(facts: Facts) -> str:
    return f"![Size against KL divergence]({facts.plot})\n" if facts.plot else ""


def _methods(facts: Facts) -> str:
    types = dict.fromkeys(type for file in facts.files for type in file.types)
    lines = [
        "## Quantization methods\n",
        "A level mixes types: tensors that matter more get more bits. These files use the following types:\n",
    ]
    return "\n".join(lines + [f"- {method(type)}" for type in types]) + "\n"


def _original(facts: Facts) -> str:
    if not facts.original:
        return ""
    name = plain(facts.front.base_model)
    return f"---\n\n# The original's model card: {name}\n\n{visible(facts.original, keep=_KEPT)}\n"


def _checkpoints(facts: Facts) -> str:
    if not facts.checkpoints:
        return ""
    lines = ["## Other formats\n", "Checkpoints for vLLM and transformers, each in a repository of its own:\n"]
    lines += [f"- {code(one.name)}: {one.level}, {human_bytes(one.n_bytes)}" for one in facts.checkpoints]
    return "\n".join(lines) + "\n"


def picked(files: Sequence[File]) -> File:
    """The file in the commands.

    Example:
        >>> picked([File(f"a.{level}.gguf", level, 1, 8.0, ()) for level in ("Q3_K_M", "Q4_K_M", "Q8_0")]).level
        'Q4_K_M'
    """
    levels = [file.level for file in files]
    return files[levels.index("Q4_K_M") if "Q4_K_M" in levels else len(levels) // 2]


def _towers(facts: Facts) -> str:
    if not facts.mmproj:
        return ""
    what = " and ".join(["images"] * facts.sees + ["sound"] * facts.hears)
    rows = ["| Name | Method | Bits | Size |", "| --- | --- | ---: | ---: |"]
    rows += [
        f"| {link(file.name)} | {file.level} | {file.bpw:.2f} | {human_bytes(file.n_bytes)} |" for file in facts.mmproj
    ]
    table = "\n".join(rows)
    both = f"-m {word(picked(facts.files).name)} --mmproj {word(facts.mmproj[0].name)}"
    runs = [f'llama-mtmd-cli {both} --image picture.jpg -p "Describe this image."'] * facts.sees
    runs += [f'llama-mtmd-cli {both} --audio speech.wav -p "Write down what is said."'] * facts.hears
    commands = "\n".join([*runs, f"llama-server {both} --port 8080"])
    return f"""## {what.capitalize()}

llama.cpp takes {what} in through an mmproj file beside any of the files above; F16 is the safe
choice, Q8_0 is smaller:

{table}

```shell
{commands}
```
"""


def _programs(facts: Facts) -> str:
    if not facts.image:
        return "llama.cpp and the programs built on it"
    return "ComfyUI with ComfyUI-GGUF" + (", and for diffusers" if facts.image_class else "")


def _painting(facts: Facts) -> str:
    """How to use the files of a model that makes images or videos."""
    pick = picked(facts.files).name
    text = f"""## How to use these files

ComfyUI, with [ComfyUI-GGUF](https://github.com/city96/ComfyUI-GGUF): put {code(pick)} into
`models/diffusion_models`, and load it with the node *Unet Loader (GGUF)*. Text encoders and the VAE are those of the
original.
"""
    if not facts.image_class:
        return text
    return f"""{text}
diffusers:

```python
import torch
from diffusers import {facts.image_class}, GGUFQuantizationConfig

transformer = {facts.image_class}.from_single_file(
    {literal(pick)},
    quantization_config=GGUFQuantizationConfig(compute_dtype=torch.bfloat16),
    torch_dtype=torch.bfloat16,
)
```
"""


def _running(facts: Facts) -> str:
    pick = picked(facts.files).name
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
llama-cli -m {word(pick)} -c {context} {"-cnv" if chat else '-p "Once upon a time"'}
llama-server -m {word(pick)} -c {context} --port 8080
```

llama-cpp-python:

```python
from llama_cpp import Llama

llm = Llama({literal(pick)}, n_ctx={context})
{python}
```

ollama:

```shell
{_ollama(facts)}
```

transformers (decodes the weights to full precision):

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".", gguf_file={literal(pick)})
tokenizer = AutoTokenizer.from_pretrained(".", gguf_file={literal(pick)})
```
"""


def _ollama(facts: Facts) -> str:
    name = re.sub("[^a-z0-9._-]+", "-", facts.name.lower()).strip("-")
    create = f"ollama create {name} -f Modelfile"
    return create if facts.modelfile else f"echo {word(f'FROM ./{picked(facts.files).name}')} > Modelfile\n{create}"
