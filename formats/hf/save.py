"""Write a Model as a Hugging Face checkpoint folder: the rules of its architecture applied backwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import tensor_from_array
from ..errors import FormatError, UnknownArchitecture, UnmatchedTensor, WeightError, located, name_list
from ..floats import from_f32, to_f32
from ..gguf.image_archs import is_image
from ..gguf.keys import GENERAL_ARCHITECTURE
from ..gguf.loadable import check_kinds
from ..gguf.vocab import tokenizer_of
from ..ir import Bytes, Model, Role, Tensor
from ..json_text import write_json
from ..progress import Progress, note, work
from ..qtypes import BY_NAME, F32, QType
from ..storage.folder import GrowingFolder
from .archs import ARCHS
from .config import RECORDED, config_for_class, config_json, derive_config, rope_row, with_defaults, with_recorded
from .files.generation import read_private, restore_generation
from .files.safetensors import chunks, write_safetensors
from .files.sentence_files import dense_folders, restore_files, without_dense
from .key_tensors import from_keys
from .load import BARE, ORIGINAL
from .mmproj_save import RestoredTower, processor_files, restore_towers, text_name, whole_config
from .settle import same_weights
from .tables import rope
from .tables.dimensions import ALWAYS, FURTHER, HEAD_DIM
from .tables.extras import TIED
from .tables.ops import Tensors
from .tables.rows import Constant, Key
from .tables.rules import Arch, Slot, further_number, without_head
from .tables.tower import TEXT

I64 = BY_NAME["I64"]
TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def write_hf(
    model: Model,
    folder: str | Path | GrowingFolder,
    *,
    towers: Model | None = None,
    dtype: str = "auto",
    max_shard_bytes: float = 5e9,
    progress: Progress | None = None,
) -> None:
    """Write a Hugging Face checkpoint: config.json, generation_config.json, safetensors and the tokenizer's files.

    Args:
        model: of a supported architecture, its tensors F32, F16 or BF16; ``as_float`` decodes quantized ones.
        folder: the checkpoint's folder, made if it does not exist. ``resumable_folder`` makes one that appears whole or
            not at all.
        towers: an mmproj file's model: the checkpoint is then of the class that sees or hears.
        dtype: ``F32``, ``F16`` or ``BF16`` to round every tensor to it; ``auto`` for the checkpoint's dtype where that
            loses nothing, and else the tensor's own. The checkpoint's dtype is the one recorded when it was converted,
            or that of most weights (llama.cpp keeps vectors in F32 whatever the checkpoint had).
        max_shard_bytes: bytes of data in one safetensors file, at most.
        progress: called with typed events; see ``formats/progress.py``.

    Raises:
        UnknownArchitecture: the architecture is not supported. Like the next two, found before anything is written.
        UnmatchedTensor: a tensor is missing, or belongs to no rule of the architecture.
        FormatError: a tensor is quantized, or the model cannot be expressed as a checkpoint.
        WeightError: a weight is too large for the requested dtype.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import read_hf, write_hf
        >>> from quantmill.formats.examples import tiny_llama
        >>> with TemporaryDirectory() as folder:
        ...     write_hf(tiny_llama(), Path(folder, "tiny"), dtype="BF16")
        ...     {tensor.qtype.name for tensor in read_hf(Path(folder, "tiny"))}
        {'BF16'}
    """
    fitting = {one for known in ARCHS if known.gguf == model.arch for one in known.classes}
    around = None if towers is None else restore_towers(towers, fitting)
    arch, name = arch_of_model(model, around[0] if around else "")
    if arch.one_way:
        raise FormatError(f"makes no checkpoint: {arch.one_way}", path=model.path, hint="keep the original")
    complete, config = restore_config(arch, name, model)
    slots = list(arch.slots(complete))
    blocks = [tensor.layer for tensor in model if tensor.layer is not None]
    if complete.get(FURTHER) and all(further_number(layer, complete) is not None for layer in blocks):
        problem = "holds layers for further tokens alone, which are no checkpoint"
        raise FormatError(problem, path=model.path, hint="convert the file of the model itself")
    tensors = _restore_tensors(arch, model, without_head(slots) if _is_bare(arch, name, model) else slots)
    common = _common_dtype(model) if dtype == "auto" else _float_type(dtype, model.path)
    tensors = _in_types(tensors, slots, _own_dtypes(model), common, exactly=dtype == "auto")
    if root := arch.classes[name].root:
        inner = ((tensor, tensor.name.removeprefix(arch.base)) for tensor in tensors)
        tensors = [replace(tensor, name=rest if rest == tensor.name else root + rest) for tensor, rest in inner]
    if model.get(BARE) or (arch.classes[name].bare and model.get("quantmill.hf.class") is None):
        tensors = [replace(tensor, name=tensor.name.removeprefix(arch.base)) for tensor in tensors]
    # transformers 4 knows torch_dtype only, transformers 5 reads it too.
    config["torch_dtype"] = TORCH_NAMES[common.name]
    files: dict[str, bytes] = {}
    if towers is not None and around is not None:
        config, tensors, files = _with_towers(towers, around, model, config, tensors, common, exactly=dtype == "auto")
    sentence = restore_files(model, arch)
    tensors, beside = without_dense(tensors, dense_folders(sentence))
    vocabulary = _tokenizer_files(model)  # the last that may be refused, and before the folder is made

    if isinstance(folder, GrowingFolder):
        path, title = folder.path, folder.target.name
    else:
        folder = path = Path(folder)
        title = path.name
    if arch.classes[name].wraps and towers is None:
        note(progress, f"{title}: written as {name}, without its towers, which transformers fills with random numbers")
    path.mkdir(exist_ok=True)
    for file, content in sentence.items():
        (path / file).parent.mkdir(exist_ok=True)
        write_json(path / file, content)
    for file in beside:
        (path / file).parent.mkdir(exist_ok=True)
    write_json(path / "config.json", config)
    if generation := restore_generation(model.metadata):
        write_json(path / "generation_config.json", generation)
    for file, data in files.items():
        (path / file).write_bytes(data)
    if vocabulary:
        from .tokenizer.write import write_files

        write_files(vocabulary, path)
    whole = [*tensors, *(tensor for own in beside.values() for tensor in own)]
    with work(progress, title, sum(tensor.nbytes for tensor in whole)) as done:
        write_safetensors(folder, tensors, max_shard_bytes=max_shard_bytes, beside=beside, done=done)


def _with_towers(
    mmproj: Model,
    around: tuple[str, tuple[RestoredTower, ...]],
    model: Model,
    config: dict[str, Any],
    tensors: list[Tensor],
    common: QType,
    *,
    exactly: bool,
) -> tuple[dict[str, Any], list[Tensor], dict[str, bytes]]:
    """config.json and the tensors of a text model with its towers, and the files of their processor."""
    name, towers = around
    whole = whole_config(mmproj, name, towers, config, Path(model.path))
    plain = TEXT not in config  # a class around the text model has its own names
    out = [replace(one, name=text_name(one.name, towers[0].tower)) if plain else one for one in tensors]
    for one in towers:
        own = _restore_tensors(one.tower, one.model, one.slots)
        common = (one.dtype or _common_dtype(one.model)) if exactly else common
        own = _in_types(own, one.slots, one.others, common, exactly=exactly)
        out += [replace(tensor, name=one.name_of(tensor.name)) for tensor in own]
    return whole, out, processor_files(mmproj, towers)


def _in_types(
    tensors: list[Tensor], slots: Sequence[Slot], own: Mapping[str, QType], common: QType, *, exactly: bool
) -> list[Tensor]:
    """The tensors in the checkpoint's types.

    Args:
        own: the types of tensors that differ from the common one, by name.
        exactly: keep a tensor as it is where its type would lose bits; else all are rounded to the common type.
    """
    tensors = [tensor if tensor.qtype.is_float else _in_torch(tensor, own.get(tensor.name)) for tensor in tensors]
    if not exactly:
        return [_cast(tensor, common) for tensor in tensors]
    computed = _computed_names(slots)
    return [
        (_cast if tensor.name in computed else _cast_exactly)(tensor, own.get(tensor.name, common))
        for tensor in tensors
    ]


def _tokenizer_files(model: Model) -> dict[str, bytes]:
    """The files of the model's tokenizer, name -> bytes; none without a tokenizer."""
    tokenizer = tokenizer_of(model)
    if tokenizer is None:
        return {}
    from .tokenizer.write import tokenizer_files

    with located(model.path):
        return tokenizer_files(tokenizer)


def arch_of_model(model: Model, beside: str = "") -> tuple[Arch, str]:
    """The architecture whose rules fit the model's tensors, and the class of its checkpoint, a key of ``Arch.classes``.

    Args:
        beside: the class around the model and its towers, if these are known.

    Raises:
        UnknownArchitecture: there is none of that name.
    """
    archs = [arch for arch in ARCHS if arch.gguf == model.arch]
    if not archs and is_image(model.arch):
        raise UnknownArchitecture("makes images, and runs no text", path=model.path, where=GENERAL_ARCHITECTURE)
    if not archs:
        known = ", ".join(sorted({arch.gguf for arch in ARCHS}))
        hint = f"known: {known}; see docs/adding-an-architecture.md"
        raise UnknownArchitecture(
            f"unknown architecture {model.arch!r}", path=model.path, where=GENERAL_ARCHITECTURE, hint=hint
        )
    name = model.get("quantmill.hf.class")
    for arch in archs:
        if isinstance(name, str) and name in arch.classes:
            return arch, name
    for arch in archs:
        if (around := arch.classes.get(beside)) is not None:
            return arch, around.text_of or beside
    unknown = [_unlike(arch, model) for arch in archs]
    arch = archs[unknown.index(min(unknown))]
    classifies = any(tensor.role is Role.CLS_OUT for tensor in model)
    classifiers = (name for name, cls in arch.classes.items() if classifies and cls.head)
    return arch, next(classifiers, next(iter(arch.classes)))


def _unlike(arch: Arch, model: Model) -> tuple[int, int]:
    """Count what tells a model from those of an architecture.

    Roles that these do not have; and hyper-parameters that one of the two lacks, or has otherwise.
    """
    roles = {tensor.role for tensor in model.tensors} - set(rope.FACTOR_ROLES)
    keys = {key.removeprefix(f"{arch.gguf}.") for key in model.metadata if key.startswith(f"{arch.gguf}.")}
    known = {getattr(row, "gguf", None) for row in arch.config}
    row = rope_row(arch)
    if row is not None and row.sections is not None:
        known.add("rope.dimension_sections")
    needed = {row.gguf for row in arch.config if isinstance(row, Key) and not row.optional and row.when is ALWAYS}
    constants = [(model.get(f"{arch.gguf}.{row.gguf}"), row.value) for row in arch.config if isinstance(row, Constant)]
    others = sum(1 for found, ours in constants if isinstance(found, (int, str)) and found != ours)
    biases = {tensor.role for tensor in model.tensors if tensor.name.endswith(".bias")}
    sure = {rule.roles[0]: rule.bias is ALWAYS for rule in arch.rules if rule.roles and rule.bias in (None, ALWAYS)}
    wrong = sum(1 for role, biased in sure.items() if role in roles and (role in biases) != biased)
    known_roles = {role for rule in arch.rules for role in rule.roles}
    return len(roles - known_roles), len(keys - known) + len(needed - keys) + others + wrong


def restore_config(arch: Arch, name: str, model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restore the config from the metadata and tensors, and from what was recorded when it was converted.

    Returns:
        the completed config under quantmill's names, as rules and ops need it; and config.json as the class writes it.
    """
    check_kinds(model.metadata, model.path)
    cls = arch.classes[name]
    derived = derive_config(arch, cls, model.metadata, model.tensors, model.path)
    recorded = read_private(model.metadata.get(RECORDED))
    config = with_recorded(derived, recorded, arch, cls, Path(model.path))
    if TIED in derived and not _is_bare(
        arch, name, model
    ):  # the tensors decide: a checkpoint may hold its embedding twice
        config[TIED] = derived[TIED] or (bool(recorded.get(TIED)) and _same_head(model))
    for row in arch.config:
        if isinstance(row, Key) and not row.optional and config.get(row.hf) is None:
            where = f"{arch.gguf}.{row.gguf}"
            raise FormatError("is missing", path=model.path, where=where, hint="set it with gguf-set-metadata")
    factors = next((tensor for tensor in model.tensors if tensor.role is Role.ROPE_FREQS), None)
    if factors is not None and config["rope_parameters"].get("rope_type") == "default":
        config["rope_parameters"] = _llama3(factors, config["rope_parameters"]["rope_theta"], model.path)
    if factors is not None and "full_attention" in config["rope_parameters"]:
        full = config["rope_parameters"]["full_attention"]
        turning = np.count_nonzero(factors.rows(0, 1).view("<f4") == 1)
        own = rope.dimensions(full, HEAD_DIM(config)) // 2
        if full["rope_type"] == "default" and "partial_rotary_factor" in full:  # ones follow, for layers that turn more
            full |= _llama3(factors, full["rope_theta"], model.path, own)
        elif full["rope_type"] == "default":
            full |= {"rope_type": "proportional", "partial_rotary_factor": turning / factors.width}
    written = config_for_class(config, recorded, arch, cls)
    complete = with_defaults(config, arch, cls)
    _check_factors(model, complete)
    return complete, config_json(name.partition("/")[0], cls, written)


def _check_factors(model: Model, config: Mapping[str, Any]) -> None:
    """Raise ``FormatError`` if the rope of a config does not give the factors of a file."""
    given = {tensor.name: tensor for tensor in model if tensor.role in rope.FACTOR_ROLES}
    made = {tensor.name: tensor for tensor in rope.factor_tensors(config)}
    for name in given.keys() | made.keys():
        ours, theirs = (_vector(found.get(name)) for found in (made, given))
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=1e-6, atol=0):
            problem = "the rope parameters in the metadata do not give these frequency factors"
            raise FormatError(problem, path=model.path, where=name, hint="convert from the original checkpoint instead")


def _vector(tensor: Tensor | None) -> NDArray[np.float32]:
    return (
        np.empty(0, np.float32) if tensor is None else to_f32(tensor.rows(0, tensor.n_rows), tensor.qtype).reshape(-1)
    )


def _is_bare(arch: Arch, name: str, model: Model) -> bool:
    """Whether the checkpoint has no head, by its class or by its names."""
    has_head = any(tensor.role is Role.OUTPUT for tensor in model)
    cls = arch.classes[name]
    return not has_head and (cls.bare or bool(cls.head) or bool(model.get(BARE)))


def _same_head(model: Model) -> bool:
    embedding, head = (
        next((t for t in model if t.name == f"{name}.weight"), None) for name in ("token_embd", "output")
    )
    return embedding is not None and head is not None and same_weights(embedding, head)


def _llama3(tensor: Tensor, theta: float, path: Path, own: int | None = None) -> dict[str, Any]:
    """``own``: how many of the factors count, if not all."""
    factors = tensor.rows(0, 1).view("<f4").reshape(-1)[:own] if tensor.qtype is F32 else None
    found = None if factors is None else rope.llama3_from_factors(factors, theta)
    if found is None:
        problem = "the frequency factors match no known llama3 scaling"
        raise FormatError(problem, path=path, where=tensor.name, hint="convert from the original checkpoint instead")
    return found


def _restore_tensors(arch: Arch, model: Model, slots: Sequence[Slot]) -> list[Tensor]:
    """The checkpoint's tensors under its own names, in the model's order."""
    given = {tensor.name: tensor for tensor in model.tensors if tensor.role not in rope.FACTOR_ROLES}
    whole = {name for slot in slots if slot.rule.whole for name in slot.targets}
    for tensor in given.values():
        if not tensor.qtype.is_float and tensor.name not in whole:
            problem = f"{tensor.qtype} must be decoded before a checkpoint is written"
            raise FormatError(problem, path=model.path, where=tensor.name)
    out: list[Tensor] = []
    missing: list[str] = []
    for slot in slots:
        if slot.rule.key:
            number = from_keys(slot, model.metadata)
            missing += [slot.rule.key] if number is None and slot.rule.key not in missing else []
            out += [] if number is None else [number]
            continue
        absent = [name for name in slot.targets if name not in given]
        if absent:
            missing += absent if slot.required or len(absent) < len(slot.targets) else []
            continue
        out += _restore(slot, tuple(given.pop(name) for name in slot.targets), model)
    for problem, names in ((f"no rule of {arch.name} matches", list(given)), ("missing", missing)):
        if names:
            raise UnmatchedTensor(f"{problem} {name_list(names)}", path=model.path)
    return out


def _restore(slot: Slot, made: Tensors, model: Model) -> Iterator[Tensor]:
    """Restore the checkpoint's tensors of a slot."""
    recorded = _recorded(slot, made, model)
    for name, tensor in zip(slot.sources, slot.to_hf(made), strict=True):
        if tensor.shape != slot.shape:
            problem = f"its shape is {list(tensor.shape)}, the metadata makes it {list(slot.shape)}"
            raise FormatError(problem, path=model.path, where=slot.targets[0], hint="the file is damaged")
        yield replace(recorded.get(name, tensor), name=name)


def _recorded(slot: Slot, made: Tensors, model: Model) -> dict[str, Tensor]:
    """The originals that were recorded with the tensors computed from them, unless these have been changed since."""
    found = {}
    for name, restored in zip(slot.sources, slot.to_hf(made), strict=True) if not slot.rule.exact else ():
        values = model.get(ORIGINAL + name)
        if isinstance(values, np.ndarray) and values.size <= prod(slot.shape) and values.size % slot.shape[-1] == 0:
            first = values.astype(np.float32).reshape(-1, slot.shape[-1])
            rest = to_f32(restored.rows(len(first), restored.n_rows), restored.qtype)
            original = tensor_from_array(name, np.concatenate([first, rest]).reshape(slot.shape))
            found[name] = replace(original, source=ORIGINAL + name)
    if len(found) < len(slot.sources) or not all(map(_same, slot.to_gguf(tuple(found.values())), made)):
        return {}
    return found


def _same(a: Tensor, b: Tensor) -> bool:
    ours, theirs = (to_f32(t.rows(0, t.n_rows), t.qtype) for t in (a, b))
    return np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def _computed_names(slots: Sequence[Slot]) -> set[str]:
    """Names of tensors with computed values, which are rounded to the checkpoint's type even if that loses bits."""
    return {name for slot in slots if not slot.rule.exact for name in slot.sources}


def _common_dtype(model: Model) -> QType:
    """The checkpoint's dtype: the recorded one, or that of most weights in matrices."""
    recorded = model.get("quantmill.hf.dtype")
    if isinstance(recorded, str) and recorded in TORCH_NAMES:
        return BY_NAME[recorded]
    weights: Counter[str] = Counter()
    for tensor in model.tensors:
        if len(tensor.shape) > 1:
            weights[tensor.qtype.name] += tensor.n_weights
    return BY_NAME[weights.most_common(1)[0][0]] if weights else F32


def _own_dtypes(model: Model) -> dict[str, QType]:
    """The recorded types that differ from the common one, by the checkpoint's names."""
    recorded = model.get("quantmill.hf.dtypes")
    lines = recorded if isinstance(recorded, tuple) else ()
    pairs = (line.split(" ", 1) for line in lines if isinstance(line, str))
    return {pair[1]: BY_NAME[pair[0]] for pair in pairs if len(pair) == 2 and pair[0] in (*TORCH_NAMES, "I32", "I64")}


def _in_torch(tensor: Tensor, own: QType | None) -> Tensor:
    """A tensor of whole numbers as it was in the checkpoint; else in I64, which torch takes for indices."""
    if tensor.qtype in (own, I64):
        return tensor

    def read(a: int, b: int) -> Bytes:
        numbers = np.ascontiguousarray(tensor.rows(a, b)).view("<i4").astype("<i8")
        return numbers.view(np.uint8).reshape(b - a, -1)

    return replace(tensor, qtype=I64, read=read)


def _float_type(name: str, path: Path) -> QType:
    if name.upper() not in TORCH_NAMES:
        raise FormatError(f"a checkpoint cannot be {name}", path=path, hint="one of auto, F32, F16, BF16")
    return BY_NAME[name.upper()]


def _cast_exactly(tensor: Tensor, qtype: QType) -> Tensor:
    """The tensor in ``qtype`` if that changes no weight, else as it is."""
    if tensor.qtype is qtype or not tensor.qtype.is_float:
        return tensor
    for rows in chunks(tensor):
        values = to_f32(rows, tensor.qtype)
        if not np.array_equal(to_f32(from_f32(values, qtype), qtype).view(np.uint32), values.view(np.uint32)):
            return tensor
    return _cast(tensor, qtype)


def _cast(tensor: Tensor, qtype: QType) -> Tensor:
    """The tensor rounded to ``qtype`` as its rows are read. A weight that becomes infinite is an error."""
    if tensor.qtype is qtype or not tensor.qtype.is_float:
        return tensor

    def read(a: int, b: int) -> Bytes:
        values = to_f32(tensor.rows(a, b), tensor.qtype)
        rows = from_f32(values, qtype)
        lost = np.isfinite(values) & ~np.isfinite(to_f32(rows, qtype))
        if lost.any():
            row, column = (int(i[0]) for i in np.nonzero(lost))
            problem = f"{values[row, column]} at [{a + row}, {column}] is too large for {qtype}"
            raise WeightError(problem, path=tensor.source, hint="write BF16 or F32")
        return rows

    return replace(tensor, qtype=qtype, read=read)
