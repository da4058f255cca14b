"""What kind of model a path holds, reading it, and the names of files made from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.diffusion.files import is_diffusers_folder
from ...formats.errors import FormatError
from ...formats.hf.files.hub_cache import checkpoint_name, id_of_snapshot, newest_snapshot
from ...formats.progress import Note, Progress, notes
from ...formats.storage.endings import ending, without_ending
from .checks import check_read
from .hub import describe_remote, local_path
from .naming import described
from .options import Kind, ReadOptions, SourceKind, StrPath

if TYPE_CHECKING:
    from ...formats.hf.tables.further import Mtp
    from ...formats.ir import Model
    from ...formats.storage.source import Elsewhere

_DEFAULT_READ = ReadOptions()
# How names of files and folders say that their weights are floats.
_FLOAT_ENDING = re.compile(r"[-._](?:bf16|fp?16|fp?32)\Z", re.IGNORECASE)


def source_kind(path: Path) -> SourceKind:
    """The kind of model that a path holds.

    Returns:
        ``hf`` for a checkpoint's folder, also in Mistral's own format, ``lora`` for an adapter's, ``gguf`` or ``ggml``
        for a file; ``diffusion`` for a safetensors file or a folder of diffusers.

    Raises:
        FormatError: there is no such file, or the folder holds no model.
    """
    if path.is_dir():
        from ...formats.hf.mistral_params import has_params_alone

        if is_diffusers_folder(path):
            return "diffusion"
        if (path / "config.json").is_file():
            return "hf"
        if (path / "adapter_config.json").is_file():
            return "lora"
        if has_params_alone(path):
            return "hf"
        snapshot = newest_snapshot(path)
        hint = f"give {snapshot}" if snapshot else "give a Hugging Face checkpoint's folder"
        raise FormatError("no config.json in this folder", path=path, hint=hint)
    if path.is_file():
        from ...formats.ggml.wire import MAGICS

        if ending(path) == ".safetensors":
            return "diffusion"
        with path.open("rb") as file:
            return "ggml" if file.read(4) in MAGICS else "gguf"  # the GGUF reader says what any other file looks like
    raise FormatError("no such file or folder", path=path)


def target_kind(path: Path) -> Kind:
    """The kind of model that a name stands for, by its ending: ``gguf``, ``ggml`` for .bin, ``safetensors``; otherwise
    ``hf``, a folder."""
    endings: dict[str, Kind] = {".gguf": "gguf", ".bin": "ggml", ".safetensors": "safetensors"}
    return endings.get(ending(path), "hf")


def read_model(
    path: StrPath,
    options: ReadOptions = _DEFAULT_READ,
    *,
    elsewhere: Elsewhere | None = None,
    progress: Progress | None = None,
) -> Model:
    """Read a model of any kind. Weights stay on disk until their rows are asked for.

    Args:
        path: a Hugging Face folder, a GGUF file (or any of its shards) or a GGML file; or a model on the hub, see
            ``local_path``.
        options: what the files do not say.
        elsewhere: those of a checkpoint's files that do not lie on this machine yet.
        progress: called with a ``Note`` for what is assumed, and for what becomes of a quantized checkpoint's weights.

    Raises:
        FormatError: there is no model there, or it is damaged or unknown.

    Example:
        >>> from quantmill import read_model
        >>> read_model("no-such-model.gguf")
        Traceback (most recent call last):
        ...
        quantmill.formats.errors.FormatError: no-such-model.gguf: no such file or folder
    """
    path = local_path(path, progress=progress)
    kind = options.kind or source_kind(path)
    if kind == "hf":
        from ...formats.hf.load import read_hf

        plain = options.mtp == "keep" and not options.drop_extra_tokens
        if options.vocab_only and plain and not _has_weights(path):
            from ...formats.hf.shapes import read_shapes

            say = notes(progress, important=True)
            return described(read_shapes(path / "config.json", pre=options.pre, say=say), options)
        model = read_hf(
            path,
            pre=options.pre,
            drop_extra_tokens=options.drop_extra_tokens,
            follow_links=options.follow_links,
            mtp=options.mtp,
            mistral_format=options.mistral_format,
            mistral_templates=options.mistral_templates,
            say=notes(progress, important=True),
            elsewhere=elsewhere,
        )
        return described(model, options)
    if kind == "diffusion":
        from ...formats.diffusion.read import read_diffusion

        return described(read_diffusion(path, say=notes(progress, important=True)), options)
    if kind == "lora":
        hint = "quantmill convert makes a GGUF adapter of it"
        raise FormatError("is a LoRA adapter, not a model", path=path, hint=hint)
    if kind == "ggml":
        from ...formats.ggml.reader import GGMLSettings, read_ggml

        settings = options.ggml or GGMLSettings()
        model = read_ggml(path, settings, drop_extra_tokens=options.drop_extra_tokens, warn=_warn(progress))
        return described(model, options)
    from ...formats.gguf.reader import read_gguf

    return described(read_gguf(path), options)


def as_model(source: StrPath | Model, *, progress: Progress | None = None) -> Model:
    """The model itself, or the one that is read from a path; see ``read_model``."""
    from ...formats.ir import Model

    return source if isinstance(source, Model) else read_model(source, progress=progress)


def read_for_plan(source: StrPath | Model, *, mtp: Mtp = "keep", progress: Progress | None = None) -> Model:
    """As ``as_model``, but weights need not be there: a config.json or a folder with one is enough.

    Args:
        mtp: what becomes of a checkpoint's layers that predict further tokens, as in ``ReadOptions``.

    Raises:
        PlanError: ``mtp`` is asked of something else than a checkpoint.
    """
    from ...formats.ir import Model

    read = ReadOptions(mtp=mtp)
    if isinstance(source, Model):
        check_read(None, read)
        return source
    if (remote := describe_remote(source, mtp=mtp, progress=progress)) is not None:
        return remote
    path = Path(source)
    bare = ending(path) == ".json" and path.is_file()
    if bare or (path.is_dir() and (path / "config.json").is_file() and not _has_weights(path)):
        from ...formats.hf.shapes import read_shapes

        config = path if bare else path / "config.json"
        return read_shapes(config, mtp=mtp, say=notes(progress, important=True))
    if mtp != "keep":
        check_read(source_kind(path), read)
    return read_model(path, read, progress=progress)


def _has_weights(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in ("*.safetensors*", "pytorch_model*"))


def _warn(progress: Progress | None) -> Callable[[str], object]:
    """What was assumed must be seen even by those who asked for no progress."""
    return lambda text: None if progress is None else progress(Note(f"warning: {text}", important=True))


def without_float_ending(name: str) -> str:
    """``model-f16`` -> ``model``: a name without the ending that says that the weights are floats."""
    return _FLOAT_ENDING.sub("", name)


def output_path(model: Path, level: str, kind: Kind = "gguf") -> Path:
    """The usual name of a model's file at a level, beside the model.

    A snapshot in the Hugging Face cache is named after its model, and nothing is written into the cache: the file is
    for the current folder.

    Example:
        >>> from pathlib import Path
        >>> output_path(Path("model-f16.gguf"), "Q4_K_M").name
        'model.Q4_K_M.gguf'
        >>> output_path(Path("model-f16.gguf"), "Q4_K_M", "ggml").name
        'model.ggmlv3.q4_K_M.bin'
    """
    from ...formats.gguf.shards import shard_prefix

    ending = f"ggmlv3.{level[0].lower()}{level[1:]}.bin" if kind == "ggml" else f"{level}.gguf"
    if model.name in ("", ".."):  # "." has no name of its own
        model = model.resolve()
    if id_of_snapshot(str(model.absolute())):
        return Path(f"{without_float_ending(checkpoint_name(model))}.{ending}")
    name = without_ending(shard_prefix(model), ".safetensors")
    return model.with_name(f"{without_float_ending(name)}.{ending}")
