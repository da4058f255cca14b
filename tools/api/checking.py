"""Whether a checkpoint converts, before any weight is read, or even downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...formats.errors import FormatError
from ...formats.storage.endings import ending
from .hub import described_folder
from .options import ReadOptions, StrPath

if TYPE_CHECKING:
    from ...formats.hf.tables.rules import Arch
    from ...formats.ir import Model

_DEFAULT_READ = ReadOptions()


@dataclass(frozen=True)
class CheckedCheckpoint:
    """What becomes of a checkpoint.

    Args:
        path: its config.json.
        name: the architecture's name here.
        gguf: its name in GGUF, ``general.architecture``.
        hf_class: the model class that its config.json names.
        proof: what proves that llama.cpp runs the same model, as in ``architectures``.
        by_converter: why it is llama.cpp's converter's file, and not logits; or empty.
        one_way: why a file gives no checkpoint back; or empty.
        back: the class of the checkpoint that it gives back: that of the text model, for some around one.
        weights: whether there are weights, whose names, shapes and types were compared with what is wanted.
        tokenizer: ``tokenizer.ggml.model`` and ``.pre``; None without a tokenizer's files.
        said: the lines that a conversion says: what is assumed, and what is left out.
        towers: the towers that ``--mmproj`` writes.
        no_towers: why it writes none, although the class sees or hears; or empty.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import check_checkpoint, tiny_llama, write_hf
        >>> with TemporaryDirectory() as folder:
        ...     write_hf(tiny_llama(), Path(folder, "tiny"))
        ...     found = check_checkpoint(Path(folder, "tiny"))
        ...     found.hf_class, found.back, found.weights
        ('LlamaForCausalLM', 'LlamaForCausalLM', True)
    """

    path: Path
    name: str
    gguf: str
    hf_class: str
    proof: Literal["logits", "converter"]
    by_converter: str
    one_way: str
    back: str
    weights: bool
    tokenizer: str | None
    said: tuple[str, ...]
    towers: tuple[str, ...] = ()
    no_towers: str = ""


def check_checkpoint(path: StrPath, read: ReadOptions = _DEFAULT_READ) -> CheckedCheckpoint:
    """Check whether a checkpoint converts. No weight is read; of a config.json without weights, it is checked alone.

    Args:
        path: a checkpoint's folder, or a config.json; or a model on the hub, of which only headers are read.
        read: what the files do not say.

    Raises:
        QuantmillError: it does not convert; the error says why, and what to do.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import check_checkpoint, tiny_llama, write_hf
        >>> with TemporaryDirectory() as folder:
        ...     write_hf(tiny_llama(), Path(folder, "tiny"))
        ...     found = check_checkpoint(Path(folder, "tiny", "config.json"))
        ...     found.name, found.proof, found.towers
        ('llama', 'logits', ())
    """
    from ...formats.hf.classes import read_config
    from ...formats.hf.files.weight_files import has_weights
    from ...formats.hf.shapes import lacks_vocabulary, read_described, read_shapes

    given, elsewhere = described_folder(path)
    config = given / "config.json" if given.is_dir() else given
    if not config.is_file() or ending(config) != ".json":
        raise FormatError("no config.json", path=given, hint="give a checkpoint's folder, or its config.json")
    weights = elsewhere is not None or (given.is_dir() and has_weights(given))
    said: list[str] = []
    if weights:
        model = read_described(
            given, pre=read.pre, follow_links=read.follow_links, mtp=read.mtp, say=said.append, elsewhere=elsewhere
        )
    else:
        model = read_shapes(config, pre=read.pre, say=said.append)
    _, arch, name = read_config(config)
    towers, no_towers = _towers(config, name)
    return CheckedCheckpoint(
        path=config,
        name=arch.name,
        gguf=arch.gguf,
        hf_class=name.partition("/")[0],
        proof=_proof(arch),
        by_converter=arch.by_converter,
        one_way=arch.one_way,
        back=str(model.get("quantmill.hf.class")).partition("/")[0],
        weights=weights,
        tokenizer=None if lacks_vocabulary(model) else _tokenizer(model),
        said=tuple(said),
        towers=towers,
        no_towers=no_towers,
    )


def _proof(arch: Arch) -> Literal["logits", "converter"]:
    return "converter" if arch.by_converter else "logits"


def _tokenizer(model: Model) -> str:
    words = (model.get("tokenizer.ggml.model"), model.get("tokenizer.ggml.pre"))
    return ", ".join(str(word) for word in words if word)


def _towers(config: Path, name: str) -> tuple[tuple[str, ...], str]:
    """The names of the towers that are written, or why none is."""
    from ...formats.hf.tower_classes import towers_of
    from ...formats.hf.towers import BY_CLASS
    from ...formats.json_text import read_json

    outer = read_json(config, required=True)
    if name.partition("/")[0] not in BY_CLASS:
        parts = sorted(key for key in outer if key in ("vision_config", "audio_config", "thinker_config"))
        return (), f"none is known of {name.partition('/')[0]}" if parts else ""
    try:
        return tuple(tower.name for tower in towers_of(outer, config)[1]), ""
    except FormatError as error:
        return (), f"{error.problem} ({error.hint})" if error.hint else error.problem
