"""Convert rotary embeddings: transformers' ``rope_parameters`` <-> GGUF's ``rope.*`` keys and factor tensors.

What llama.cpp's converter does with each kind (conversion/base.py, conversion/llama.py): ``linear`` and ``yarn``
become keys, ``llama3`` a tensor of factors, ``longrope`` two, ``dynamic`` nothing (it acts only beyond the trained
context).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import tensor_from_array
from ...errors import FormatError
from ...gguf.names import tensor_name
from ...ir import Role, Tensor
from ...json_types import NUMBER, NUMBERS, OBJECT, POSITIVE, POSITIVE_WHOLE, TEXT, WHOLES, JsonType, check, shown, take
from ...qtypes import F32
from .dimensions import CONTEXT, HEAD_DIM, at_layer

DEFAULT_THETA = 10000.0  # transformers' default_theta
_OLD_KINDS = {"su": "longrope", "mrope": "default", "xdrope": "dynamic"}  # the second only said that there are sections
KINDS = ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional")

_MAX_HEAD_DIM = 1 << 16  # a hundred times the widest; tables of sines have a row for each of its pairs
INDEXED = "indexed_attention"  # with ``sliding_attention``, what ``full_attention`` is in other models
_KINDS_OF_LAYER = ("full_attention", "sliding_attention")
_FRACTION = JsonType("a number above 0 and at most 1", lambda value: POSITIVE.holds(value) and value <= 1)


def _is_sections(value: Any) -> bool:
    return WHOLES.holds(value) and len(value) in (3, 4) and min(value[:3]) > 0 and value[3:] in ([], [0])


def _are_four(value: Any) -> bool:
    return WHOLES.holds(value) and len(value) == 4 and min(value) > 0


# Of null, transformers makes what it makes of a missing key.
_TYPES = {
    "rope_type": TEXT,
    "type": TEXT,
    "rope_theta": POSITIVE,
    "partial_rotary_factor": _FRACTION,
    "original_max_position_embeddings": POSITIVE_WHOLE,
    **dict.fromkeys(("factor", "low_freq_factor", "high_freq_factor", "alpha"), POSITIVE),
    **dict.fromkeys(("attention_factor", "attn_factor", "extrapolation_factor", "beta_fast", "beta_slow"), NUMBER),
    **dict.fromkeys(("mscale", "mscale_all_dim", "llama_4_scaling_beta"), NUMBER),
}

_HARDLY = 0.25  # radians over the whole context: 0.1 of Qwen3-VL's 262,144 tokens
_SECTIONS = {
    3: JsonType("a list of 3 or 4 positive sizes", _is_sections),
    4: JsonType("a list of 4 positive sizes", _are_four),
}
_ALPHA_CONTEXT = 256 * 1024  # Hunyuan's; see ``alpha_keys``

_YARN = {  # config key -> rope.scaling key
    "extrapolation_factor": "yarn_ext_factor",
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}


def canonical(
    config: Mapping[str, Any],
    path: Path,
    sliding: str | None = None,
    axes: int = 3,
    longrope: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Any]:
    """Write the rope of any config.json in the form of transformers 5: a dict with ``rope_type`` and ``rope_theta``.

    Args:
        sliding: the old key for the base of layers with a sliding window; then the result holds two such dicts, named
            ``full_attention`` and ``sliding_attention``.
        axes: the number of ``mrope_section``'s entries.
        longrope: entries that ``longrope`` has in all models.

    Raises:
        FormatError: the rope type is unknown, a number is missing, or is not that of all models.
    """
    place = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rope = take(config, place, OBJECT, path=path) or {}
    if sliding is None:
        found = complete(rope, config, path, place)
        if found.get("mrope_section") is not None:
            check(found["mrope_section"], _SECTIONS[axes], path=path, where=f"{place}.mrope_section")
        for key, value in longrope.items() if found["rope_type"] == "longrope" else ():
            if found.get(key) != value:
                problem = f"is {shown(found.get(key))}; all models of this kind have {value}"
                raise FormatError(problem, path=path, where=f"{place}.{key}")
        return found
    if INDEXED in rope:
        rope = {"full_attention": rope[INDEXED], **rope}
    of_kind = {kind: _of_kind(config, kind, path) for kind in _KINDS_OF_LAYER}
    if not any(kind in rope for kind in _KINDS_OF_LAYER):
        local = of_kind["sliding_attention"]
        theta = take(local, sliding, POSITIVE, path=path)
        local["rope_theta"] = DEFAULT_THETA if theta is None else theta
        full = complete(rope, of_kind["full_attention"], path, place)
        return {"full_attention": full, "sliding_attention": complete({}, local, path, place)}
    found = {}
    for kind in _KINDS_OF_LAYER:
        inner = take(rope, kind, OBJECT, path=path, inside=f"{place}.") or {}
        found[kind] = complete(inner, of_kind[kind], path, f"{place}.{kind}")
    return found


def _of_kind(config: Mapping[str, Any], kind: str, path: Path) -> dict[str, Any]:
    """The config, with the value of layers of a kind where a key has one for each layer."""
    out, words = dict(config), config.get("layer_types") or ()
    for key in ("rope_theta", "partial_rotary_factor"):
        if isinstance(each := config.get(key), list):
            found = {value for value, word in zip(each, words, strict=False) if word == kind}
            if len(found) > 1:
                raise FormatError(f"differs between layers of {kind}: {shown(each)}", path=path, where=key)
            out[key] = found.pop() if found else None
    return out


def complete(given: Mapping[str, Any], config: Mapping[str, Any], path: Path, place: str) -> dict[str, Any]:
    rope = {key: value for key, value in given.items() if value is not None or key not in _TYPES}
    if "xdrope_section" in rope:
        rope.setdefault("mrope_section", rope.pop("xdrope_section"))
    for key in ("type", "rope_type"):
        if key in rope:
            check(rope[key], TEXT, path=path, where=f"{place}.{key}")
    kind = rope.pop("type", None)
    rope.setdefault("rope_type", kind or "default")
    if "rope_theta" not in rope:
        theta = config.get("rope_theta")
        rope["rope_theta"] = DEFAULT_THETA if theta is None else theta
    if config.get("partial_rotary_factor") is not None:
        rope.setdefault("partial_rotary_factor", config["partial_rotary_factor"])
    kind = rope["rope_type"] = _OLD_KINDS.get(rope["rope_type"], rope["rope_type"])
    if kind not in KINDS:
        raise FormatError(
            f"unknown rope type {shown(kind)}", path=path, where="rope_parameters", hint=f"known: {', '.join(KINDS)}"
        )
    needed = {"linear": ("factor",), "yarn": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
    for key in ("rope_theta", *needed.get(kind, ())):
        if not NUMBER.holds(rope.get(key)):
            raise FormatError(f"{kind} scaling needs a number", path=path, where=f"rope_parameters.{key}")
    if kind in ("yarn", "llama3"):
        rope.setdefault("original_max_position_embeddings", config["max_position_embeddings"])
    for key, type in _TYPES.items():
        if key in rope:
            check(rope[key], type, path=path, where=f"{place}.{key}")
    if kind == "longrope":
        _check_longrope(rope, config, path)
    if kind == "llama3" and not rope["low_freq_factor"] < rope["high_freq_factor"]:
        problem = f"{rope['high_freq_factor']} is not above low_freq_factor, {rope['low_freq_factor']}"
        raise FormatError(problem, path=path, where=f"{place}.high_freq_factor")
    return rope


def _check_longrope(rope: dict[str, Any], config: Mapping[str, Any], path: Path) -> None:
    own = config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    rope["original_max_position_embeddings"] = own or CONTEXT(config)
    if rope["original_max_position_embeddings"] < 2:
        raise FormatError("longrope scaling needs more than 1", path=path, where="original_max_position_embeddings")
    turning = dimensions(rope, HEAD_DIM(config)) // 2
    for key in ("short_factor", "long_factor"):
        factors = rope.get(key)
        if not NUMBERS.holds(factors) or len(rope[key]) != turning:
            raise FormatError(f"longrope scaling needs {turning} numbers", path=path, where=f"rope_parameters.{key}")


def longrope_attention_factor(rope: Mapping[str, Any], context: int) -> float:
    """The factor of the sines and cosines (``_compute_longrope_parameters`` of transformers)."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    old_context = rope["original_max_position_embeddings"]
    scale = rope.get("factor") or context / old_context
    return math.sqrt(1 + math.log(scale) / math.log(old_context)) if scale > 1 else 1.0


def dimensions(rope: Mapping[str, Any], head_dim: int) -> int:
    """The number of rotated dimensions of a head.

    Raises:
        FormatError: the head is wider than any model's.
    """
    if head_dim > _MAX_HEAD_DIM:
        raise FormatError(f"heads of {shown(head_dim)} are wider than any model's", where="head_dim")
    return int(head_dim * rope.get("partial_rotary_factor", 1.0))


def sections(
    rope: Mapping[str, Any],
    default: tuple[int, ...],
    head_dim: int,
    context: int | None = None,
    *,
    interleaved: bool = True,
) -> list[int]:
    """The four numbers of ``rope.dimension_sections``: of time, height and width, and of nothing.

    Args:
        default: where the config does not say.
        context: the tokens that a model is for.
        interleaved: the three take their pairs in turn, instead of one after the other.

    Raises:
        FormatError: they do not sum to the rotated pairs, or llama.cpp would leave pairs of a text unturned.
    """
    given, turning = rope.get("mrope_section"), dimensions(rope, head_dim) // 2
    found = [*(default if given is None else given), 0, 0, 0][:4]
    if not default and given is None:
        raise FormatError("missing: the sections of a head that turn by image positions", where="rope_parameters")
    total = sum(found)
    if given is not None and total != turning:
        problem = f"{shown(given)} does not sum to the {turning} rotated pairs of a head"
        raise FormatError(problem, where="rope_parameters.mrope_section")
    # ggml turns a pair beyond three times its section by nothing: Qwen3-VL's last two, which hardly turn anyway.
    beyond = (pair for pair in range(turning) if pair % total >= 3 * found[pair % total % 3])
    if interleaved and any(context is None or _turns(rope, pair / turning, context) for pair in beyond):
        problem = f"{shown(given)} leaves pairs of llama.cpp's rope unturned"
        raise FormatError(problem, where="rope_parameters.mrope_section")
    return found


def _turns(rope: Mapping[str, Any], place: float, context: int) -> bool:
    """Whether a pair turns noticeably within a context; ``place`` is 0 for the first pair, and 1 beyond the last."""
    return bool(context * float(rope["rope_theta"]) ** -place > _HARDLY)


def sections_to_hf(found: Any, *, interleaved: bool = True) -> dict[str, Any]:
    """Undo ``sections``."""
    if not isinstance(found, list):
        return {}
    return {"mrope_section": found[: 4 if found[3:] > [0] else 3]} | (
        {"mrope_interleaved": True} if interleaved else {}
    )


def alpha_keys(rope: Mapping[str, Any], head_dim: int, context: int) -> Iterator[tuple[str, Any]]:
    """The keys of Hunyuan, whose ``dynamic`` scaling is a factor of the base that does not depend on the length."""
    yield "rope.freq_base", _alpha_theta(rope, head_dim)
    yield "rope.scaling.type", "none"
    yield "rope.scaling.factor", 1.0
    # What config.json calls 32k is 256k, to llama.cpp's converter, which knows no other length.
    yield "rope.scaling.original_context_length", _ALPHA_CONTEXT
    yield "context_length", _ALPHA_CONTEXT if context == 32 * 1024 else context


def own_alpha_keys(rope: Mapping[str, Any], context: int) -> Iterator[tuple[str, Any]]:
    """The keys of the same scaling in HunYuan-VL, where llama.cpp multiplies the base."""
    yield "rope.scaling.alpha", rope["alpha"]
    yield "rope.scaling.type", "none"
    yield "rope.scaling.factor", rope.get("factor", 1.0)
    yield "rope.scaling.original_context_length", context


def _alpha_theta(rope: Mapping[str, Any], head_dim: int) -> float:
    try:
        theta = float(rope["rope_theta"] * rope["alpha"] ** (head_dim / (head_dim - 2)))
    except (ZeroDivisionError, OverflowError):
        theta = math.inf
    if not POSITIVE.holds(theta):
        problem = f"{shown(rope['alpha'])} makes no base of heads of {head_dim}"
        raise FormatError(problem, where="rope_parameters.alpha")
    return theta


def to_gguf(rope: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The ``rope.*`` keys, without the architecture before them."""
    kind = rope["rope_type"]
    if kind in ("linear", "yarn"):
        yield "rope.scaling.type", kind
        yield "rope.scaling.factor", rope["factor"]
    if kind == "yarn":
        yield "rope.scaling.original_context_length", rope["original_max_position_embeddings"]
        for hf, gguf in _YARN.items():
            value = rope.get(hf, rope.get("attn_factor") if hf == "attention_factor" else None)
            if value is not None:
                yield f"rope.scaling.{gguf}", value
    yield "rope.freq_base", rope["rope_theta"]


def yarn_correction(rope: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The key for an attention factor that is not 0.1 ln(factor) + 1.

    llama.cpp (2026-10) computes with that whatever ``yarn_attn_factor`` says, which is written as its converter does;
    but it multiplies by ``attn_factor``.
    """
    own = rope.get("attention_factor")
    usual = 0.1 * math.log(max(rope["factor"], 1)) + 1
    if own is not None and not math.isclose(own, usual, rel_tol=1e-5):
        yield "rope.scaling.attn_factor", own / usual


def to_hf(get: Callable[[str], Any]) -> dict[str, Any]:
    """Restore ``rope_parameters`` from the keys. ``llama3`` follows only from its tensor."""
    theta = get("rope.freq_base")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": DEFAULT_THETA if theta is None else theta}
    kind, factor = get("rope.scaling.type"), get("rope.scaling.factor")
    if kind is None and get("rope.scale_linear") is not None:  # the key of GGUF's first weeks
        kind, factor = "linear", get("rope.scale_linear")
    if kind not in ("linear", "yarn") or factor is None:
        return rope
    rope |= {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = get("rope.scaling.original_context_length")
        rope |= {hf: v for hf, gguf in _YARN.items() if (v := get(f"rope.scaling.{gguf}")) is not None}
    return rope


def factor_tensors(config: Mapping[str, Any]) -> Iterator[Tensor]:
    """The factor tensors that GGUF holds and a checkpoint does not. llama.cpp's converter puts them first in the
    file.
    """
    of_kind = config.get("rope_parameters") or {}
    rope = of_kind.get("full_attention", of_kind)
    if rope.get("rope_type") == "llama3":
        factors = llama3_factors(rope, dimensions(rope, HEAD_DIM(config)))
        wider = dimensions(of_kind.get("sliding_attention", rope), HEAD_DIM(config)) // 2 - factors.size
        yield _vector(Role.ROPE_FREQS, np.pad(factors, (0, max(wider, 0)), constant_values=1))
    if rope.get("rope_type") == "proportional":
        words = config.get("layer_types") or []
        if "full_attention" not in words:
            raise FormatError("proportional scaling needs a layer of full_attention", where="layer_types")
        head_dim = HEAD_DIM(at_layer(config, words.index("full_attention"), len(words)))
        yield _vector(Role.ROPE_FREQS, proportional_factors(rope, head_dim))
    if rope.get("rope_type") == "longrope":
        for role, key in _LONGROPE.items():
            yield _vector(role, np.array(rope[key], np.float32))


def proportional_factors(rope: Mapping[str, Any], head_dim: int) -> NDArray[np.float32]:
    """1 for the pairs that are rotated, which come first; for all others a number so large that they stand still."""
    turning = dimensions(rope, head_dim) // 2
    return np.where(np.arange(head_dim // 2) < turning, 1, 1e30).astype(np.float32)


_LONGROPE = {Role.ROPE_FACTORS_LONG: "long_factor", Role.ROPE_FACTORS_SHORT: "short_factor"}
FACTOR_ROLES = (Role.ROPE_FREQS, Role.ROPE_FACTORS_LONG, Role.ROPE_FACTORS_SHORT)


def _vector(role: Role, values: NDArray[np.float32]) -> Tensor:
    return replace(tensor_from_array(tensor_name(role), values), source="config.json: rope_parameters")


def longrope_from_factors(tensors: Iterable[Tensor], old_context: int | None) -> dict[str, Any]:
    """Restore ``rope_parameters`` from the two tensors of longrope; an empty dict without them."""
    values = {t.role: t.rows(0, 1).view("<f4").reshape(-1) for t in tensors if t.role in _LONGROPE and t.qtype is F32}
    if len(values) < len(_LONGROPE):
        return {}
    # The shortest decimals that give these float32.
    factors = {key: [float(str(value)) for value in values[role]] for role, key in _LONGROPE.items()}
    known = {} if old_context is None else {"original_max_position_embeddings": old_context}
    return {"rope_type": "longrope", **factors, **known}


def llama3_factors(rope: Mapping[str, Any], head_dim: int) -> NDArray[np.float32]:
    """Llama 3's frequency factors: float32 [head_dim / 2], computed like the converter in float32 steps."""
    f32 = np.float32  # torch divides a number by a tensor as reciprocal times number: two roundings
    exponents = np.arange(0, head_dim, 2, dtype=f32) / f32(head_dim)
    # float64, then rounded: torch's float32 pow is exact to the last bit here, NumPy's is not always.
    freqs = f32(1) / np.power(float(rope["rope_theta"]), exponents.astype(np.float64)).astype(f32)
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    old_context = float(rope["original_max_position_embeddings"])
    wavelens = f32(1) / freqs * f32(2 * np.pi)
    smooth = (f32(1) / wavelens * f32(old_context) - f32(low)) / f32(high - low)
    with np.errstate(divide="ignore", invalid="ignore"):
        blended = f32(1) / ((f32(1) - smooth) / f32(factor) + smooth)
    scaled = np.where(wavelens > f32(old_context / low), f32(factor), blended)
    return np.where(wavelens < f32(old_context / high), f32(1), scaled).astype(f32)


def llama3_from_factors(factors: NDArray[np.float32], theta: float) -> dict[str, Any] | None:
    """Find the ``rope_parameters`` that give these factors, which files of llama.cpp do not hold; None if there are
    none.

    Every published Llama 3 model has low 1, high 4 and an 8192-token original context; their factor is 8 or 32. The
    factor is the largest entry; the rest is tried.
    """
    for context in (8192, *(1 << k for k in range(5, 21))):
        for low, high in ((1.0, 4.0), (1.0, 2.0), (1.0, 8.0), (1.0, 32.0), (2.0, 4.0)):
            rope = {
                "rope_type": "llama3",
                "rope_theta": theta,
                "factor": float(str(factors.max())),
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": context,
            }
            # Two ulps: other converters may round their powers otherwise.
            if np.allclose(llama3_factors(rope, 2 * factors.size), factors, rtol=2.5e-7, atol=0):
                return rope
    return None
