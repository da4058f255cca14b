"""Tell from the names of its tensors what a safetensors file holds: a diffusion model, or something else."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError, UnknownArchitecture, name_list
from .layouts import LAYOUTS, Layout
from .naming import original_moves, rows_of

# What stands before every name of the model; a file of a whole pipeline has other parts beside it. ``strip_prefix`` of
# ComfyUI-GGUF's convert.py takes these, the last only where all names have it.
PREFIX = "model.diffusion_model."
_PREFIXES_OF_ALL = ("model.", "net.", "transformer.", "diffusion_model.")


@dataclass(frozen=True)
class OtherKind:
    """A kind of file that is not a diffusion model.

    Args:
        what: its name, with its article.
        names: a pattern of names of tensors, one of which is enough.
        hint: what to do with it.
    """

    what: str
    names: str
    hint: str


_MERGE = "load it beside the model, or merge it into the model first"
_NONE = "no loader reads it in GGUF"
_TEXT = "convert the encoder's own folder, with its config.json and tokenizer, or give the diffusion model"
OTHER_KINDS = (
    OtherKind("a LoRA", r".*[._](lora_(A|B|up|down|a|b)(\.default)?\.weight|lora_(A|B)|lora_mid\.weight)", _MERGE),
    OtherKind("a LoHa or LoKr adapter", r".*\.(hada|lokr)_w\d(_[ab])?", _MERGE),
    OtherKind("a ControlNet", r"(control_model\.|controlnet_|zero_convs\.|input_hint_block\.).*", _NONE),
    OtherKind("an IP-Adapter", r"(image_proj|ip_adapter)\..*", _NONE),
    OtherKind(
        "a VAE", r"(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|conv1|middle|mid_block|mid|down|up)\..*",
        "a VAE stays in safetensors: give the diffusion model",
    ),
    OtherKind(
        "a T5 text encoder", r"(encoder\.block\.\d+\.layer\.\d+\.(SelfAttention|DenseReluDense)|shared)\..*", _TEXT
    ),
    OtherKind(
        "a CLIP text encoder", r"(.*\.)?(text_model\.encoder\.layers|resblocks)\.\d+\..*",
        "no loader reads CLIP in GGUF: keep it in safetensors",
    ),
    OtherKind("a text model", r"(model\.|language_model\.)*layers\.\d+\.(self_attn|mlp)\..*", _TEXT),
)  # fmt: skip
# Names of tensors of packed weights that only their own programs unpack.
PACKED = (
    ("bitsandbytes blocks", r".*\.(quant_state\.bitsandbytes__.*|absmax|quant_map)"),
    ("SVDQuant blocks (Nunchaku)", r".*\.(wscales|smooth_factor|lora_down_proj|proj_down)"),
    ("GPTQ or AWQ blocks", r".*\.(qweight|qzeros)"),
    ("two levels of scales (NVFP4)", r".*\.weight_scale_2"),
)


@dataclass(frozen=True)
class Recognized:
    """What a file's names say.

    Args:
        layout: the model's.
        prefix: what stands before each name.
        names: of the model's tensors, as they are in the file.
        diffusers: whether they are diffusers' names, and not the original ones.
    """

    layout: Layout
    prefix: str
    names: tuple[str, ...]
    diffusers: bool


def recognize(names: Collection[str], path: Path) -> Recognized:
    """Find the layout of a model.

    Args:
        names: of all tensors in its files.
        path: for messages.

    Raises:
        UnknownArchitecture: it is a LoRA, a VAE, a text encoder or another kind of file that is no diffusion model; or
            nothing that is known, with the nearest layout and what it lacks.

    Example:
        >>> from pathlib import Path
        >>> from quantmill.formats.diffusion.recognize import recognize
        >>> found = recognize(["model.diffusion_model.double_blocks.0.img_attn.proj.weight"], Path("flux.safetensors"))
        >>> found.layout.title, found.prefix
        ('FLUX.1', 'model.diffusion_model.')
    """
    for prefix in _prefixes(names):
        inner = {name[len(prefix) :] for name in names if name.startswith(prefix)}
        if (layout := _by_signs(inner)) is not None:
            return Recognized(layout, prefix, tuple(n for n in names if n.startswith(prefix)), diffusers=False)
    if (of_diffusers := _by_rows(names)) is not None:
        return Recognized(of_diffusers, "", tuple(names), diffusers=True)
    for kind in OTHER_KINDS:
        if (name := _first(kind.names, names)) is not None:
            raise UnknownArchitecture(f"is {kind.what}, not a diffusion model", path=path, where=name, hint=kind.hint)
    raise _unknown(names, path)


def check_packed(names: Collection[str], path: Path) -> None:
    """Raise ``FormatError`` for weights that only the program which packed them can unpack.

    Example:
        >>> from pathlib import Path
        >>> from quantmill.formats.diffusion.recognize import check_packed
        >>> check_packed(["img_in.weight"], Path("flux.safetensors"))
    """
    for what, pattern in PACKED:
        if (name := _first(pattern, names)) is not None:
            hint = "give the checkpoint that it was made from"
            raise FormatError(f"its weights are {what}, which are not read", path=path, where=name, hint=hint)


def _prefixes(names: Collection[str]) -> Iterable[str]:
    """Prefixes to try, from the surest on."""
    if any(name.startswith(PREFIX) for name in names):
        yield PREFIX
    yield ""
    for prefix in _PREFIXES_OF_ALL:
        if names and all(name.startswith(prefix) for name in names):
            yield prefix


def _by_signs(names: Collection[str]) -> Layout | None:
    fits = (one for one in LAYOUTS if any(all(name in names for name in signs) for signs in one.signs))
    return next(fits, None)


def _by_rows(names: Collection[str]) -> Layout | None:
    """The layout whose diffusers' names these are, all of them."""
    return next(
        (one for one in LAYOUTS if names and rows_of(one.name) and not original_moves(one.name, names)[1]), None
    )


def _first(pattern: str, names: Collection[str]) -> str | None:
    compiled = re.compile(pattern, re.ASCII)
    return next((name for name in names if compiled.fullmatch(name)), None)


def _unknown(names: Collection[str], path: Path) -> UnknownArchitecture:
    """The error for names that are nothing known: the nearest layout, and what was looked for."""
    best: tuple[float, Layout, list[str], bool] | None = None
    for layout in LAYOUTS:
        for signs in layout.signs:
            missing = [sign for sign in signs if not any(name.endswith(sign) for name in names)]
            share = 1 - len(missing) / len(signs)
            if share and (best is None or share > best[0]):
                best = (share, layout, missing, False)
        if rows_of(layout.name):
            unknown = original_moves(layout.name, names)[1]
            share = 1 - len(unknown) / len(names) if names else 0
            if share > 0.5 and (best is None or share > best[0]):
                best = (share, layout, unknown, True)
    titles = ", ".join(dict.fromkeys(layout.title for layout in LAYOUTS))
    if best is None:
        shown = name_list(sorted(names), 3) or "none"
        problem = f"is no diffusion model that is known: its tensors are {shown}"
        return UnknownArchitecture(problem, path=path, hint=f"looked for {titles}")
    _, layout, others, of_diffusers = best
    what = "has tensors that it does not have" if of_diffusers else "lacks"
    problem = f"is no diffusion model that is known; the nearest is {layout.title}, but this {what}: "
    return UnknownArchitecture(problem + name_list(others, 3), path=path, hint=f"looked for {titles}")
