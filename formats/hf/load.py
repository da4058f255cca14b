"""Read a Hugging Face checkpoint folder into a Model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, UnmatchedTensor, located, name_list
from ..floats import from_f32, to_f32
from ..gguf.keys import typed
from ..gguf.vocab import tokenizer_to_metadata
from ..ir import Model, Role, Tensor, Tokenizer, Value
from ..storage.source import Elsewhere
from .classes import read_config
from .config import RECORDED, complete_config, config_residue, derive_config, rope_row, token_ids
from .factors import place_factors
from .files.card import general
from .files.generation import FILE, generation_residue, read_generation, suppressed
from .files.links import check_links
from .files.pooling import pooling_type, say_rank
from .files.safetensors import StoredTensor
from .files.sentence_files import dense_weights, kept_files, read_dense
from .files.weight_files import PARAMS
from .files.weights import Stored, read_weights
from .key_tensors import as_keys
from .mistral_params import config_path, read_params
from .names import Named, by_our_names, without_wrappers
from .packed import decode_packed
from .seen import chosen, config_of, expected_further
from .settle import Found, Say, extra_of, ignore, known_names, say_bare, say_biases, settle_copies
from .tables import rope
from .tables.further import Mtp, with_further
from .tables.ops import Tensors, Transpose
from .tables.packed_tensors import UnpackedTensor, transposed
from .tables.rows import metadata_key
from .tables.rules import Arch, HFClass, Slot, with_gguf_names, without_head
from .tower_classes import read_outer, towers_of

ORIGINAL = "quantmill.hf.original."  # + the rules' name of a tensor
BARE = "quantmill.hf.bare"  # true if the checkpoint's names lack the base model's name


def read_hf(
    folder: str | Path,
    *,
    pre: str | None = None,
    drop_extra_tokens: bool = False,
    follow_links: bool = False,
    mtp: Mtp = "keep",
    mistral_format: bool = False,
    mistral_templates: bool = True,
    say: Say | None = None,
    elsewhere: Elsewhere | None = None,
) -> Model:
    """Read a Hugging Face checkpoint, or one in Mistral's own format. Weights stay on disk until rows are asked for.

    Args:
        folder: with config.json, the weights (safetensors or ``pytorch_model.bin``, one file or shards) and the
            tokenizer's files. Without a tokenizer the model gets the vocabulary ``no_vocab``, which llama.cpp loads.
        pre: llama.cpp's name of the pre-tokenizer, such as ``qwen2``, instead of the one that is found.
        drop_extra_tokens: leave out tokens beyond the embedding's rows instead of refusing them.
        follow_links: read files whose links lead out of the folder, instead of refusing them.
        mtp: what becomes of layers that predict further tokens: ``keep`` them where llama.cpp does, ``leave`` them out,
            or read them ``only``, with what they share with the model: embedding, last norm and head.
        mistral_format: read Mistral's own format, params.json and ``consolidated*.safetensors``, where Hugging Face's
            is there, too; alone it is found without.
        mistral_templates: whether a tokenizer in that format without a chat template gets llama.cpp's of its version.
        say: called with a line about what is assumed, chosen or left out, and about what the weights of a quantized
            checkpoint (GPTQ, AWQ, FP8...) become.
        elsewhere: those of the folder's files that do not lie on this machine, such as shards that are still arriving.

    Returns:
        the model with GGUF's names, metadata and order, its tensors in the checkpoint's types. What no standard key can
        hold is stored under ``quantmill.hf.*``, so that ``write_hf`` gives back the same checkpoint.

    Raises:
        UnknownArchitecture: the model class is not supported.
        UnmatchedTensor: a tensor is missing, or belongs to no rule of the architecture.
        TokenizerError: the tokenizer cannot be converted faithfully.
        FormatError: a file is damaged, or contradicts another.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import read_hf, write_hf
        >>> from quantmill.formats.examples import tiny_llama
        >>> with TemporaryDirectory() as folder:
        ...     write_hf(tiny_llama(), Path(folder, "tiny"))
        ...     model = read_hf(Path(folder, "tiny"))
        ...     model.arch, model.from_checkpoint, model.tensors[0].qtype.name
        ('llama', True, 'F16')
    """
    folder = Path(folder)
    check_links(folder, follow=follow_links)
    away = () if elsewhere is None else elsewhere.names
    path = config_path(folder, mistral_format=mistral_format, say=say, elsewhere=away)

    def weights(slots: Sequence[Slot], config: Mapping[str, Any]) -> Mapping[str, Stored]:
        return checkpoint_weights(path, config, say, follow_links=follow_links, elsewhere=elsewhere)

    return assemble(
        path,
        weights,
        pre,
        drop_extra_tokens=drop_extra_tokens,
        mtp=mtp,
        mistral_templates=mistral_templates,
        say=say,
    )


def checkpoint_weights(
    path: Path,
    config: Mapping[str, Any],
    say: Say | None = None,
    *,
    follow_links: bool = False,
    elsewhere: Elsewhere | None = None,
) -> Mapping[str, Stored]:
    """The checkpoint's tensors by name, those of sentence-transformers' dense modules among them.

    Args:
        path: the file that describes it, from ``config_path``.
        config: completed.
        say, follow_links, elsewhere: as for ``read_hf``.
    """
    folder, own = path.parent, path.name == PARAMS
    dense = dense_weights(folder, config, say, follow_links=follow_links)
    found = read_weights(folder, say, consolidated=own, follow_links=follow_links, elsewhere=elsewhere)
    return {**dense, **found}


def assemble(
    path: Path,
    find_weights: Callable[[Sequence[Slot], Mapping[str, Any]], Mapping[str, Stored]],
    pre: str | None = None,
    *,
    drop_extra_tokens: bool = False,
    readable: bool = True,
    mtp: Mtp = "keep",
    mistral_templates: bool = True,
    say: Say | None = None,
) -> Model:
    """Build the model of a config.json and the weights found for it. Other arguments and errors as for ``read_hf``.

    Args:
        path: the config.json, or Mistral's params.json.
        find_weights: returns the checkpoint's tensors by name, given the architecture's and the completed config.
        readable: False if the weights have only shapes.
    """
    from .tokenizer.read import read_tokenizer

    folder = path.parent
    say = say or ignore
    own = path.name == PARAMS
    raw, arch, name = read_params(path, say) if own else read_config(path, say)
    cls = arch.classes[name]
    if arch.by_converter:
        say(f"{folder}: proven by llama.cpp's own converter alone, not by logits: {arch.by_converter}")
    raw |= read_dense(folder, arch)
    with located(path):
        config = complete_config(raw, arch, cls, path)
        expected = with_further(config, arch, expected_further(arch, config, mtp))
        slots = list(arch.slots(expected))
        found = find_weights(without_head(slots) if cls.bare and not arch.always_bare else slots, expected)
        found = _unwrapped(arch, expected, slots, found, folder, say)
        config = config_of(arch, config, found)
        slots = list(arch.slots(config))
        named = _named(arch, cls, config, slots, found, raw, path, say)
        bare = cls.bare or named.bare
        stored = settle_copies(arch, config, named.tensors, folder, say, bare=bare)
        config, slots, stored = chosen(arch, config, stored, mtp, folder, say)
        if bare:
            slots = _maybe_without_head(arch, slots, stored, folder, say)
        say_biases(slots, stored, folder, say)
        if wide := sum(one.dtype == "F64" for one in stored.values() if not isinstance(one, Tensor)):
            say(f"{folder}: {wide} tensors of F64 are rounded to F32")
        tensors, kept = read_tensors(arch, config, slots, stored, folder, readable)
        tensors = place_factors(arch.gguf, tensors, lambda line: say(f"{folder}: {line}"))
    tokenizer = read_tokenizer(
        folder,
        vocab_size=config["vocab_size"],
        model_ids=token_ids(raw),
        pre=pre,
        drop_extra_tokens=drop_extra_tokens,
        own=own,
        named_templates=mistral_templates,
        say=say,
    )
    generation = read_generation(folder / FILE)

    metadata = {"general.architecture": typed("general.architecture", arch.gguf)}
    metadata["general.type"] = typed("general.type", "model")
    with located(folder / FILE):  # where all but texts come from
        metadata |= {key: typed(key, value) for key, value in general(folder, raw, generation, tensors)}
    theirs = {ours: name for name, ours in cls.names.items()}
    for row in arch.config:
        hf = getattr(row, "hf", "") or ""
        with located(path, theirs.get(hf, hf) or None):
            for suffix, value in row.to_gguf(config):
                key = metadata_key(arch.gguf, suffix)
                metadata[key] = typed(key, value)
    if (pooling := pooling_type(folder, arch, say, bare=bare)) is not None:
        metadata[f"{arch.gguf}.pooling_type"] = typed(f"{arch.gguf}.pooling_type", pooling)
    if cls.head:
        say_rank(folder, arch, metadata.get(f"{arch.gguf}.pooling_type"), say)
    if tokenizer is None:  # llama.cpp counts tokens there when there are none
        metadata.setdefault(f"{arch.gguf}.vocab_size", typed(f"{arch.gguf}.vocab_size", config["vocab_size"]))
    metadata |= kept.keys | _vocabulary(tokenizer)
    with located(path):
        written = cls.text_of or cls.without_head or name
        if not own:
            metadata |= _private(arch, written, config, metadata, tensors, kept, path)
    if named.bare or cls.without_head:
        metadata[BARE] = typed(BARE, True)
    if tokenizer is not None:
        metadata |= suppressed(generation, len(tokenizer.tokens), folder / FILE)
    metadata |= generation_residue(generation, metadata)
    metadata |= kept_files(folder, tokenizer, say)
    return Model(arch.gguf, metadata, tensors, folder, from_checkpoint=True, from_fp8=frozenset(kept.from_fp8))


def _unwrapped(
    arch: Arch,
    config: Mapping[str, Any],
    slots: Sequence[Slot],
    found: Mapping[str, Stored],
    folder: Path,
    say: Say,
) -> dict[str, Stored]:
    """The checkpoint's tensors without the names of wrappers."""

    def is_extra(name: str) -> bool:
        return extra_of(arch, config, name) is not None

    return without_wrappers(found, arch, known_names(arch, slots), is_extra, folder, say)


def _named(
    arch: Arch,
    cls: HFClass,
    config: Mapping[str, Any],
    slots: Sequence[Slot],
    found: Mapping[str, Stored],
    raw: Mapping[str, Any],
    path: Path,
    say: Say,
) -> Named:
    """The checkpoint's tensors, decoded if they are packed, under the rules' names, without the extras."""
    folder = path.parent
    known = known_names(arch, slots)
    required = {name for name, _ in required_shapes(slots)}
    required |= {name.removeprefix(arch.base) for name in required}
    unread = {name for name in found if extra_of(arch, config, name) is not None}
    stored = decode_packed(found, raw, folder, required=required, unread=unread, say=say)
    named = by_our_names(stored, arch, cls, known, folder, say)
    extras = Found(writable=_writable(path))
    tensors = {
        name: weights
        for name, weights in named.tensors.items()
        if name in known or not extras.take(arch, config, name, weights)
    }
    for line in extras.lines(folder):
        say(line)
    return Named(tensors, named.bare)


def _writable(path: Path) -> Callable[[str], bool]:
    """Whether a tensor of a name is one of the towers that a config.json has."""
    try:
        towers = towers_of(read_outer(path), path)[1]
    except FormatError:
        towers = ()
    return lambda name: any(tower.has(name) for tower in towers)


def _maybe_without_head(
    arch: Arch, slots: list[Slot], stored: Mapping[str, Stored], folder: Path, say: Say
) -> list[Slot]:
    """The tensors of a bare model: without a head if it has none.

    Raises:
        UnmatchedTensor: llama.cpp cannot do without one.
    """
    heads = [name for slot in slots if slot.required and Role.OUTPUT in slot.rule.roles for name in slot.sources]
    if all(name in stored for name in heads):
        return slots
    if arch.needs_head:
        problem = f"a bare model, without {name_list(heads)}, which llama.cpp's {arch.gguf} needs"
        raise UnmatchedTensor(problem, path=folder, hint="save it with its head, as a causal language model")
    say_bare(folder, heads, say)
    return without_head(slots)


def _vocabulary(tokenizer: Tokenizer | None) -> dict[str, Value]:
    if tokenizer is None:
        return {"tokenizer.ggml.model": typed("tokenizer.ggml.model", "no_vocab")}
    return tokenizer_to_metadata(tokenizer)


@dataclass
class Kept:
    """What ``write_hf`` needs to know of the checkpoint's tensors, by their names in the checkpoint.

    Args:
        dtypes: their types.
        keys: the metadata that holds those for which GGUF has no tensor.
        originals: float32 values that the inverse of an op does not restore exactly.
        from_fp8: GGUF's names of what is made of FP8 weights.
    """

    dtypes: dict[str, str] = field(default_factory=dict)
    keys: dict[str, Value] = field(default_factory=dict)
    originals: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    from_fp8: set[str] = field(default_factory=set)


def _private(
    arch: Arch,
    name: str,
    config: Mapping[str, Any],
    metadata: Mapping[str, Value],
    tensors: tuple[Tensor, ...],
    kept: Kept,
    path: Path,
) -> dict[str, Value]:
    """The ``quantmill.hf.*`` keys: what ``write_hf`` needs and no standard key holds."""
    common = Counter(kept.dtypes.values()).most_common(1)[0][0]
    others = [f"{dtype} {tensor}" for tensor, dtype in kept.dtypes.items() if dtype != common]
    cls = arch.classes[name]
    rest = config_residue(config, derive_config(arch, cls, metadata, tensors, path), cls)
    facts: dict[str, Any] = {"quantmill.hf.class": name, "quantmill.hf.dtype": common}
    if others:
        facts["quantmill.hf.dtypes"] = others
    if rest:
        facts[RECORDED] = json.dumps(rest, ensure_ascii=False, sort_keys=True)
    facts |= {ORIGINAL + name: values for name, values in kept.originals.items()}
    return {key: typed(key, value) for key, value in facts.items()}


def required_shapes(slots: Sequence[Slot]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name and shape of every tensor that a checkpoint must have, by the architecture's rules."""
    for slot in slots:
        if slot.required:
            yield from ((name, slot.shape) for name in slot.sources)


def read_tensors(
    arch: Arch,
    config: Mapping[str, Any],
    slots: Sequence[Slot],
    stored: Mapping[str, Stored],
    folder: Path,
    readable: bool,
) -> tuple[tuple[Tensor, ...], Kept]:
    """The model's tensors, in the order in which the checkpoint completes them."""
    slot_of = {name: slot for slot in slots for name in slot.sources}
    found: dict[tuple[str, ...], dict[str, Tensor]] = {}
    tensors: list[Tensor] = list(rope.factor_tensors(config) if rope_row(arch) else ())
    kept = Kept()
    numbers: dict[tuple[int, str], tuple[Slot, Tensor]] = {}
    unmatched = []
    for name, weights in stored.items():
        slot = slot_of.get(name)
        if slot is None:
            unmatched.append(name)
            continue
        parts = found.setdefault(slot.sources, {})
        parts[name] = _checked(slot, name, weights, folder)
        kept.dtypes[name] = _dtype(weights, parts[name])
        if slot.rule.key:
            numbers[slot.layer or 0, slot.rule.key] = slot, parts[name]
        elif len(parts) == len(slot.sources):
            sources = tuple(parts[one] for one in slot.sources)
            made = slot.to_gguf(sources)
            tensors += with_gguf_names(slot, made)
            if any(isinstance(one, UnpackedTensor) and one.fp8 for one in sources):
                kept.from_fp8.update(slot.targets)
            if readable and not slot.rule.exact and not arch.one_way:
                kept.originals |= _lost(slot, sources, made)
    if unmatched:
        problem = f"no rule of {arch.name} matches {name_list(unmatched)}"
        raise UnmatchedTensor(problem, path=folder, hint=_hint(unmatched))
    wanted = [slot for slot in slots if slot.required or slot.sources in found]
    missing = [name for slot in wanted for name in slot.sources if name not in found.get(slot.sources, ())]
    if missing:
        problem = f"missing {name_list(missing)}"
        raise UnmatchedTensor(problem, path=folder, hint="is config.json of the same model? Is a shard missing?")
    kept.keys |= as_keys([numbers[at] for at in sorted(numbers)], readable=readable)
    return tuple(tensors), kept


def _dtype(weights: Stored, read: Tensor) -> str:
    """The type that the way back gives a tensor."""
    if isinstance(weights, UnpackedTensor):
        return weights.stands_for
    return weights.dtype if isinstance(weights, StoredTensor) and not read.qtype.is_float else read.qtype.name


def _hint(unmatched: Sequence[str]) -> str:
    if any(".lora_" in name or ".base_layer." in name for name in unmatched):
        return "an adapter is in it: merge it, with merge_and_unload(), and save again"
    return "is config.json of the same model? Is it an adapter?"


def _checked(slot: Slot, name: str, stored: Stored, folder: Path) -> Tensor:
    if isinstance(stored, UnpackedTensor) and any(isinstance(op, Transpose) for op in slot.rule.ops[:1]):
        stored = transposed(stored)
    if stored.shape != slot.shape:
        problem = f"its shape is {list(stored.shape)}, the config makes it {list(slot.shape)}"
        raise FormatError(problem, path=folder, where=name, hint="is config.json of the same model?")
    if isinstance(stored, Tensor):
        return stored
    if slot.rule.whole:
        return stored.long_numbers() if slot.rule.key else stored.whole_numbers()
    return stored.tensor()


def _lost(slot: Slot, sources: Tensors, made: Tensors) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The sources that the inverse ops do not restore bit for bit: their rows up to the last that differs."""
    for name, source, back in zip(slot.sources, sources, slot.to_hf(made), strict=True):
        values = to_f32(source.rows(0, source.n_rows), source.qtype)
        restored = to_f32(from_f32(to_f32(back.rows(0, back.n_rows), back.qtype), source.qtype), source.qtype)
        if (lost := (values.view(np.uint32) != restored.view(np.uint32)).any(axis=-1)).any():
            yield name, values[: np.flatnonzero(lost)[-1] + 1].reshape(-1)
