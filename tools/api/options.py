"""The options of the library's functions, grouped by meaning."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ...formats.ggml.reader import GGMLSettings
    from ...formats.hf.tables.further import Mtp

StrPath = str | os.PathLike[str]
Kind = Literal["hf", "gguf", "ggml", "safetensors"]
SourceKind = Literal["hf", "gguf", "ggml", "lora", "diffusion"]


@dataclass(frozen=True)
class ReadOptions:
    """How a model is read. What its files say need not be given.

    Args:
        kind: ``hf`` for a Hugging Face folder, ``lora`` for a LoRA adapter's, ``gguf`` or ``ggml`` for a file,
            ``diffusion`` for a model that makes images or videos; None to look at what the path holds.
        pre: llama.cpp's name of the pre-tokenizer, for a checkpoint whose pre-tokenizer is not recognized.
        ggml: what a GGML file does not store; None to infer or assume it.
        lora_base: the folder of the model that a LoRA adapter was trained on, or its name on the hub, of which only the
            configuration is fetched; None for the one that the adapter names.
        drop_extra_tokens: leave out a checkpoint's tokens beyond the embedding's rows, with a note, instead of refusing
            them.
        follow_links: read files of a checkpoint or an adapter whose links lead out of the folder, instead of refusing
            them.
        mtp: what becomes of a checkpoint's layers that predict further tokens (multi-token prediction): ``keep`` them
            where llama.cpp does, ``leave`` them out, or read them ``only``, with embedding, last norm and head.
        model_name: the model's name in the file (``general.name``), instead of the one that is found.
        metadata: a JSON file of facts about the model, by their keys, such as ``general.author``; they replace those
            that are found.
        stream: keep at most two shards of a checkpoint on the hub on this machine's disk, beside the output, and none
            in the hub's cache.
        vocab_only: leave out all tensors: what is left is the vocabulary and the model's numbers. The weights of a
            checkpoint need not be there.
        mistral_format: read what a folder holds in Mistral's own format, params.json and ``consolidated*.safetensors``,
            where a Hugging Face checkpoint is there, too. Alone it is found without.
        mistral_templates: whether a tokenizer in that format without a chat template gets the name of llama.cpp's own
            for its version.

    Example:
        >>> from quantmill import ReadOptions
        >>> ReadOptions(pre="llama-bpe").pre
        'llama-bpe'
    """

    kind: SourceKind | None = None
    pre: str | None = None
    ggml: GGMLSettings | None = None
    lora_base: Path | None = None
    drop_extra_tokens: bool = False
    follow_links: bool = False
    mtp: Mtp = "keep"
    model_name: str | None = None
    metadata: Path | None = None
    stream: bool = False
    vocab_only: bool = False
    mistral_format: bool = False
    mistral_templates: bool = True


@dataclass(frozen=True)
class MmprojOptions:
    """The towers of a model that sees or hears, which lie in a file of their own: an mmproj file.

    Args:
        file: the mmproj file. From a checkpoint it is written; None for the usual name beside the text model. Where a
            checkpoint is written, it is read.
        level: the level of a file that is written: a float type, Q8_0, or a lower one that llama.cpp runs.
        only: write the towers alone, without the text model.
        image_mean, image_std: of each colour, for a checkpoint without preprocessor_config.json.

    Example:
        >>> from quantmill import MmprojOptions
        >>> MmprojOptions(level="Q8_0").level
        'Q8_0'
    """

    file: Path | None = None
    level: str = "F16"
    only: bool = False
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class WriteOptions:
    """How files are written.

    Args:
        threads: how many threads compute; None for one for each CPU.
        gguf_version: the version of GGUF files, 2 or 3.
        big_endian: write GGUF files for big-endian machines; needs version 3.
        force: replace the output if it exists.
        restart: begin anew where an unfinished run could be resumed.

    Example:
        >>> from quantmill import WriteOptions
        >>> WriteOptions(force=True).gguf_version
        2
    """

    threads: int | None = None
    gguf_version: int = 2
    big_endian: bool = False
    force: bool = False
    restart: bool = False


@dataclass(frozen=True)
class SplitOptions:
    """How the output is split into shards while it is written. Give one of ``keep``, ``max_size`` and ``max_tensors``.

    Args:
        keep: write as many shards as the source has, with the tensors of each.
        max_size: the most bytes of tensors in a shard; a larger tensor has a shard of its own.
        max_tensors: the most tensors in a shard.
        empty_first: let the first shard hold metadata only; not with ``keep``.
        partial: write only what is missing of the set. A shard that is there must have the header and the size of the
            one that would be written; its weights are not compared.

    Example:
        >>> from quantmill import SplitOptions
        >>> SplitOptions(max_size=50_000_000_000).partial
        False
    """

    keep: bool = False
    max_size: int | None = None
    max_tensors: int | None = None
    empty_first: bool = False
    partial: bool = False

    @property
    def splits(self) -> bool:
        """Whether there are to be shards."""
        return self.keep or self.max_size is not None or self.max_tensors is not None


@dataclass(frozen=True)
class SizeTarget:
    """A size to choose each tensor's type for, instead of a level. Give ``nbytes`` or ``bpw``.

    Args:
        nbytes: the most bytes that the file may have.
        bpw: the most bits per weight over all tensors.
        sensitivity_text: a text to measure on how much the model's predictions change when a tensor errs; its first few
            thousand tokens are used. None for one that ships with the package.
        typical_sensitivity: assume what is typical of such tensors, instead of running the model.

    Example:
        >>> from quantmill import SizeTarget
        >>> SizeTarget(nbytes=4_500_000_000).bpw is None
        True
    """

    nbytes: int | None = None
    bpw: float | None = None
    sensitivity_text: Path | None = None
    typical_sensitivity: bool = False
