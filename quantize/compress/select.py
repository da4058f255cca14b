"""Which layers of a checkpoint are quantized to a scheme of compressed-tensors, by names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...formats.errors import PlanError
from ...formats.hf.packed.schemes import Scheme

# What llm-compressor's users leave as it is: the head, routers, towers and what joins them to the text, and layers that
# predict further tokens. A pattern begins with ``re:`` and matches from the start of a module's name, as there.
DEFAULT_IGNORE = {
    "lm_head": "the head",
    r"re:.*(mlp|moe|block_sparse_moe|feed_forward|ffn|mixer)\.gate(\..*)?$": "routers",
    r"re:.*router.*": "routers",
    r"re:.*shared_expert_gate$": "routers",
    r"re:(.*\.)?(visual|vision\w*|image\w*|audio\w*|speech\w*|sound\w*)(\..*)?$": "towers",
    r"re:(.*\.)?(multi_modal_projector|mm_projector|connector|aligner|embed_vision|embed_audio)(\..*)?$": "towers",
    r"re:(.*\.)?(mtp|nextn)\w*\..*": "layers for further tokens",
}
_IN_BLOCK = re.compile(r"\.\d+\.")
_NOT_LINEAR = re.compile(r"\w*norm\w*|ln_\w+|embed\w*|wte|wpe|relative_attention_bias|position\w*|conv\w*")
_FUSED = re.compile(r"(?P<experts>.*experts)\.(?P<name>gate_up_proj|down_proj)$")
# Modules beside each other that programs run as one, so that NVFP4's first scale is one for them all.
TOGETHER = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("w1", "w3"),
)
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint, as far as selection asks: its dtype and shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """A layer, and which rows of which tensor are its weight.

    Args:
        module: its name in the new checkpoint.
        tensor: the weight's name in the old one.
        first: its first row, of the tensor's rows in all matrices together.
        shape: its rows and width.
    """

    module: str
    tensor: str
    first: int
    shape: tuple[int, int]


@dataclass(frozen=True)
class Selection:
    """What is quantized of a checkpoint.

    Args:
        cuts: the layers, in the checkpoint's order; several of one tensor where it holds all experts.
        left: modules that stay as they are and could be linear layers, in order.
        ignored: how many modules each pattern of ``DEFAULT_IGNORE`` and of the user's left.
        fused: whether tensors of all experts are divided into layers.
    """

    cuts: tuple[Cut, ...]
    left: tuple[str, ...]
    ignored: Mapping[str, int] = field(default_factory=dict)
    fused: bool = False

    def together(self) -> Iterator[tuple[str, ...]]:
        """The modules that share NVFP4's first scale, in groups of one and more."""
        names = {cut.module for cut in self.cuts}
        seen: set[str] = set()
        for cut in self.cuts:
            parent, _, leaf = cut.module.rpartition(".")
            family = next((family for family in TOGETHER if leaf in family), (leaf,))
            members = tuple(name for one in family if (name := f"{parent}.{one}" if parent else one) in names)
            if cut.module not in seen:
                seen.update(members)
                yield members


def matches(pattern: str, module: str) -> bool:
    """Whether a pattern of an ignore list means a module, as compressed-tensors reads it.

    Example:
        >>> from quantmill.quantize.compress.select import matches
        >>> matches("re:.*mlp.gate$", "model.layers.0.mlp.gate"), matches("lm_head", "lm_head.extra")
        (True, False)
    """
    if pattern.startswith("re:"):
        return re.match(pattern.removeprefix("re:"), module) is not None
    return pattern == module


def select(tensors: Mapping[str, Stored], scheme: Scheme, ignore: Sequence[str], source: str) -> Selection:
    """Choose the layers: matrices named ``weight`` inside the numbered blocks, and tensors of all experts.

    Args:
        tensors: the checkpoint's, by name.
        scheme: what they are to be stored in.
        ignore: further patterns of modules to leave.
        source: the checkpoint, for messages.

    Raises:
        PlanError: a pattern is no regular expression or matches nothing, groups do not divide a layer's width, or there
            is nothing to quantize.
    """
    _check_patterns(ignore, source)
    cuts: list[Cut] = []
    left: list[str] = []
    used = dict.fromkeys((*DEFAULT_IGNORE, *ignore), 0)
    for name, stored in tensors.items():
        for cut in _cuts(name, tensors):
            by = [pattern for pattern in used if matches(pattern, cut.module)]
            for pattern in by:
                used[pattern] += 1
            linear = _IN_BLOCK.search(cut.module) and could_be_linear(cut.module)
            if by or not linear or stored.dtype not in _FLOATS or 0 in cut.shape:
                left.append(cut.module)
            else:
                cuts.append(cut)
    for pattern in ignore:
        if not used[pattern]:
            raise PlanError(f"--ignore {pattern} matches no layer", path=source, hint="see the names by `inspect`")
    if not cuts:
        raise PlanError("no linear layers to quantize", path=source)
    _check_widths(cuts, scheme, source)
    fused = any(_FUSED.fullmatch(cut.tensor) for cut in cuts)
    return Selection(tuple(cuts), tuple(left), used, fused)


def could_be_linear(module: str) -> bool:
    """Whether a module with a matrix may be a linear layer, by its name: no embedding, norm or convolution."""
    return _NOT_LINEAR.fullmatch(module.rpartition(".")[2]) is None


def _cuts(name: str, tensors: Mapping[str, Stored]) -> Iterator[Cut]:
    """The matrices of a tensor; none if it is no layer's weight."""
    shape = tensors[name].shape
    module, _, part = name.rpartition(".")
    if part == "weight" and len(shape) == 2:
        yield Cut(module, name, 0, (shape[0], shape[1]))
    fused = _FUSED.fullmatch(name)
    if fused is None or len(shape) != 3 or not _outputs_first(fused["experts"], tensors):
        return
    names = ("gate_proj", "up_proj") if fused["name"] == "gate_up_proj" else ("down_proj",)
    rows = shape[1] // len(names)
    for expert in range(shape[0]):
        for number, one in enumerate(names):
            yield Cut(
                f"{fused['experts']}.{expert}.{one}", name, expert * shape[1] + number * rows, (rows, shape[2])
            )  # fmt: skip


def _outputs_first(experts: str, tensors: Mapping[str, Stored]) -> bool:
    """Whether the tensors of all experts are [experts, out, in], with gates before the rest."""
    both = [tensors.get(f"{experts}.{name}") for name in ("gate_up_proj", "down_proj")]
    if any(one is None or len(one.shape) != 3 for one in both):
        return False
    (_, double, width), (_, out, half) = (one.shape for one in both if one is not None)
    return width == out and double == 2 * half


def stacked_experts(tensors: Mapping[str, Stored]) -> tuple[str, ...]:
    """Modules of experts whose tensors cannot be divided into layers: by inputs first, or interleaved."""
    found = dict.fromkeys(fused["experts"] for name in tensors if (fused := _FUSED.fullmatch(name)))
    return tuple(experts for experts in found if not _outputs_first(experts, tensors))


def _check_patterns(ignore: Sequence[str], source: str) -> None:
    for pattern in ignore:
        try:
            re.compile(pattern.removeprefix("re:"))
        except re.error as error:
            raise PlanError(f"--ignore {pattern} is no regular expression: {error}", path=source) from None


def _check_widths(cuts: Sequence[Cut], scheme: Scheme, source: str) -> None:
    size = scheme.weights.group_size
    wrong = [cut for cut in cuts if size is not None and cut.shape[1] % size]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        names = ", ".join(f"{cut.module} ({cut.shape[1]} wide)" for cut in wrong[:3])
        hint = "leave them out by --ignore"
        if scheme.format == "pack-quantized":
            hint += ", or choose another --group-size"
        raise PlanError(f"groups of {size} do not divide {names}{more}", path=source, hint=hint)
