"""Whether llama.cpp can load what the metadata of an mmproj file says: a part of ``loadable.py``.

Sources: ``load_hparams`` and ``load_tensors`` in tools/mtmd/clip.cpp of llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from ..ir import Metadata, ValueType
from .known import PROJECTORS

ENCODERS = {"vision": "v.", "audio": "a."}  # and what the names of their tensors begin with
_REQUIRED = (
    "embedding_length", "feed_forward_length", "block_count", "projection_dim", "attention.head_count",
    "attention.layer_norm_epsilon",
)  # fmt: skip
_OF_ENCODER = {"vision": ("image_size", "patch_size"), "audio": ("num_mel_bins",)}
_COLOURS = ("image_mean", "image_std")
_REFUSES = "llama.cpp refuses the file"


def tower_problems(metadata: Metadata) -> Iterator[tuple[str, str]]:
    """Find what llama.cpp would refuse in the metadata of an mmproj file: keys, and what is wrong with them."""
    kinds = [kind for kind in ENCODERS if has_encoder(metadata, kind)]
    if not kinds and not _is_true(metadata, "clip.has_gen_audio_encoder"):
        yield "clip.has_vision_encoder", f"neither it nor clip.has_audio_encoder is true; {_REFUSES}"
    for kind in kinds:
        yield from _projector(metadata, kind)
        for name in (*_REQUIRED, *_OF_ENCODER[kind]):
            if f"clip.{kind}.{name}" not in metadata:
                yield f"clip.{kind}.{name}", f"is missing; {_REFUSES}"
    if "vision" in kinds:
        yield from _colours(metadata)
    if _is_true(metadata, "clip.use_gelu") and _is_true(metadata, "clip.use_silu"):
        yield "clip.use_gelu", f"is true, and so is clip.use_silu; {_REFUSES}"


def tensor_problems(metadata: Metadata, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Find where the tensors of an mmproj file contradict its metadata: keys, and what is wrong with them."""
    names = list(names)
    for kind, root in ENCODERS.items():
        own = [name for name in names if name.startswith(root)]
        if own and not has_encoder(metadata, kind):
            yield f"clip.has_{kind}_encoder", f"is not true, and there is {own[0]}: llama.cpp does not read it"
            continue
        block = re.compile(re.escape(root) + r"blk\.(\d+)\.")
        layers = {int(found[1]) for name in own if (found := block.match(name))}
        count = metadata.get(f"clip.{kind}.block_count")
        if not layers or count is None or not isinstance(count.data, int):
            continue
        if lacking := sorted({*range(min(count.data, max(layers) + 2))} - layers):
            yield f"clip.{kind}.block_count", f"is {count.data}; there is no {root}blk.{lacking[0]}; {_REFUSES}"
        elif max(layers) >= count.data:
            yield f"clip.{kind}.block_count", f"is {count.data}; there is a {root}blk.{max(layers)}"


def has_encoder(metadata: Metadata, kind: str) -> bool:
    """Whether a file says that it has an encoder of a kind, ``vision`` or ``audio``."""
    return _is_true(metadata, f"clip.has_{kind}_encoder")


def _is_true(metadata: Metadata, key: str) -> bool:
    value = metadata.get(key)
    return value is not None and value.data is True


def _projector(metadata: Metadata, kind: str) -> Iterator[tuple[str, str]]:
    keys = ("clip.projector_type", f"clip.{kind}.projector_type")
    key = next((key for key in keys if key in metadata and metadata[key].data != ""), None)
    if key is None:
        yield keys[0], f"is missing, and so is {keys[1]}; {_REFUSES}"
    elif isinstance(name := metadata[key].data, str) and name not in PROJECTORS:
        near = get_close_matches(name, sorted(PROJECTORS), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        yield key, f"llama.cpp knows no projector {name!r}{hint}"


def _colours(metadata: Metadata) -> Iterator[tuple[str, str]]:
    for name in _COLOURS:
        value = metadata.get(f"clip.vision.{name}")
        if value is None:
            yield f"clip.vision.{name}", f"is missing; {_REFUSES}"
        elif value.type is ValueType.ARRAY and len(value.items) != 3:
            yield f"clip.vision.{name}", f"has {len(value.items)} numbers, not one for each of 3 colours"
