"""params.json, the config of a checkpoint in Mistral's own format, as the config that the rules of its tensors read.

What each key means is a table in ``archs/mistral_format.py``; here stands what is more than a name: the rope, and the
keys that no model of llama.cpp's computes, which are refused by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import FormatError, UnknownArchitecture, name_list
from ..json_text import read_json
from ..json_types import FLAG, NUMBER, OBJECT, POSITIVE, POSITIVE_WHOLE, TEXT, JsonType, shown, take
from .archs.mistral_format import OWN_DEEPSEEK2, OWN_LLAMA, OWN_MISTRAL3
from .files.weight_files import PARAMS, has_consolidated
from .packed.described import INSIDE
from .settle import Say
from .tables.rules import Arch

_CLASS = PARAMS  # the only class of these architectures
_CONTEXT = 128_000  # vLLM's, and that of llama.cpp's converter for experts, where params.json has none
_FP8 = "fp8_e4m3"

_ROPE_KEYS: Mapping[str, JsonType] = {
    "factor": POSITIVE, "original_max_position_embeddings": POSITIVE_WHOLE, "beta": NUMBER, "alpha": NUMBER,
}  # fmt: skip
_LATENT = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
# What the rules do not read by these names.
_OWN = (
    "rope_theta", "yarn", "llama_4_scaling", "moe", "quantization", "model_type", "max_seq_len", "sliding_window",
    "vision_encoder", "max_position_embeddings", "vocab_size", "head_dim", *_LATENT,
)  # fmt: skip
_OF_MOE = ("expert_parallel", "expert_model_parallel")  # how it was trained
_OTHER_MODELS = {"mamba": "Codestral Mamba: convert its Hugging Face folder"}


def has_params_alone(folder: Path) -> bool:
    """Whether params.json describes a folder, and no config.json does."""
    return (folder / PARAMS).is_file() and not (folder / "config.json").is_file()


def config_path(
    folder: Path, *, mistral_format: bool = False, say: Say | None = None, elsewhere: Collection[str] = ()
) -> Path:
    """The file that describes a checkpoint: config.json; params.json where only that is there, or asked for.

    Args:
        folder: the checkpoint's.
        mistral_format: whether Mistral's own format is asked for, where both are there.
        say: called with a line where both are there and only one is read.
        elsewhere: names of the folder's files that do not lie on this machine yet.

    Raises:
        FormatError: Mistral's own format is asked for, and not there.
    """
    has_own = (folder / PARAMS).is_file() and has_consolidated(folder, elsewhere)
    if mistral_format and not has_own:
        hint = f"it is {PARAMS} beside consolidated*.safetensors"
        raise FormatError("holds nothing in Mistral's own format", path=folder, hint=hint)
    if mistral_format or has_params_alone(folder):
        return folder / PARAMS
    if has_own and say is not None:
        say(f"{folder}: config.json is read, not {PARAMS}, which --mistral-format reads")
    return folder / "config.json"


def read_params(path: Path, say: Say | None = None) -> tuple[dict[str, Any], Arch, str]:
    """Read a params.json: its values under its own names, with the rope as config.json has it; its architecture and
    class.

    Args:
        path: the params.json.
        say: called with a line about what is assumed or left out.

    Raises:
        UnknownArchitecture: it is of a model that is not read in this format.
        FormatError: there is no such file, it is no JSON, or has a key that is not known here.
    """
    raw = read_json(path, required=True)
    say = say or (lambda _: None)
    kind = take(raw, "model_type", TEXT, path=path, missing="transformer")
    if kind != "transformer":
        hint = _OTHER_MODELS.get(kind, "convert its Hugging Face folder")
        raise UnknownArchitecture(f"is {shown(kind)}, not a transformer", path=path, where="model_type", hint=hint)
    for key in ("yarn", "llama_4_scaling", "moe", "quantization", "vision_encoder"):
        take(raw, key, OBJECT, path=path)
    arch = _arch(raw, path, say)
    _refuse_unknown(raw, arch, path)
    raw["rope_parameters"] = _rope(raw, path, say)
    raw[INSIDE] = _quantization(raw, path)
    raw["dtype"] = "bfloat16"  # Mistral's, which the file does not say
    raw["max_position_embeddings"] = _context(raw, path, say)
    if raw.get("sliding_window") is not None:
        say(f"{path}: sliding_window is left out: llama.cpp's {arch.gguf} attends to all positions")
    spent = {"yarn", "llama_4_scaling", "quantization", "rope_theta", "model_type", "max_seq_len", "sliding_window"}
    return {key: value for key, value in raw.items() if key not in spent and value is not None}, arch, _CLASS


def _arch(raw: Mapping[str, Any], path: Path, say: Say) -> Arch:
    """The architecture, chosen as llama.cpp's converter does, but where its program would compute another model."""
    if raw.get("moe") is not None:
        if lacking := [key for key in (*_LATENT, "yarn") if raw.get(key) is None]:
            problem = f"experts without {name_list(lacking)}, as Mixtral's are"
            hint = "convert its Hugging Face folder; llama.cpp's own converter does not read these either"
            raise UnknownArchitecture(problem, path=path, where="moe", hint=hint)
        return OWN_DEEPSEEK2
    if raw.get("llama_4_scaling") is not None:
        return OWN_MISTRAL3
    yarn = raw.get("yarn")
    if yarn is None or (yarn.get("apply_scale") is True and (yarn.get("beta"), yarn.get("alpha")) == (32, 1)):
        return OWN_LLAMA
    problem = "its llama reads neither yarn's apply_scale nor beta"
    say(f"{path}: the file's architecture is mistral3, where llama.cpp's converter writes llama: {problem}")
    return OWN_MISTRAL3


def _refuse_unknown(raw: Mapping[str, Any], arch: Arch, path: Path) -> None:
    names = {name.partition(".")[0] for name in arch.classes[_CLASS].names}
    unknown = [key for key, value in raw.items() if key not in {*names, *_OWN} and value not in (None, False)]
    moe = {name.removeprefix("moe.") for name in arch.classes[_CLASS].names if name.startswith("moe.")}
    unknown += [f"moe.{key}" for key in raw.get("moe") or () if key not in {*moe, *_OF_MOE}]
    if unknown:
        hint = "convert its Hugging Face folder, or take the key out if the model is the same without it"
        raise UnknownArchitecture(f"nothing reads {name_list(unknown)}", path=path, where=unknown[0], hint=hint)


def _context(raw: Mapping[str, Any], path: Path, say: Say) -> int:
    for key in ("max_position_embeddings", "max_seq_len"):
        if (found := take(raw, key, POSITIVE_WHOLE, path=path)) is not None:
            return int(found)
    say(f"{path}: no max_position_embeddings: {_CONTEXT} is assumed; --override-kv sets another context_length")
    return _CONTEXT


def _rope(raw: Mapping[str, Any], path: Path, say: Say) -> dict[str, Any]:
    """``rope_parameters`` as transformers 5 has it.

    Raises:
        FormatError: a number is missing, or not of a rope that llama.cpp computes.
    """
    theta = take(raw, "rope_theta", POSITIVE, path=path)
    if theta is None:
        if raw.get("sliding_window") is None:
            problem = "missing: Mistral's program then takes 1000000, and llama.cpp 10000"
            raise FormatError(problem, path=path, where="rope_theta", hint="write the number that the model has")
        say(f"{path}: no rope_theta: 10000, as Mistral's program takes with a sliding_window")
        theta = 10000.0
    yarn, growth = raw.get("yarn"), raw.get("llama_4_scaling")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if yarn is not None:
        numbers = {key: _needed(yarn, key, type, path, "yarn.") for key, type in _ROPE_KEYS.items()}
        scaled = take(yarn, "apply_scale", FLAG, path=path, inside="yarn.", missing=False)
        if scaled and raw.get("moe") is not None:
            problem = "true: llama.cpp computes experts of this kind without such a scale"
            raise FormatError(problem, path=path, where="yarn.apply_scale", hint="a GGUF file cannot hold this model")
        rope |= {
            "rope_type": "yarn", "factor": numbers["factor"], "beta_fast": numbers["beta"],
            "original_max_position_embeddings": numbers["original_max_position_embeddings"],
            "beta_slow": numbers["alpha"], "mscale_all_dim": 0.0 if scaled else 1.0,
        }  # fmt: skip
    if growth is not None:
        rope["llama_4_scaling_beta"] = _needed(growth, "beta", NUMBER, path, "llama_4_scaling.")
        length = _needed(growth, "original_max_position_embeddings", POSITIVE_WHOLE, path, "llama_4_scaling.")
        if yarn is None or length != rope["original_max_position_embeddings"]:
            problem = (
                f"is {length}; llama.cpp takes yarn's, {shown((yarn or {}).get('original_max_position_embeddings'))}"
            )
            where = "llama_4_scaling.original_max_position_embeddings"
            raise FormatError(problem, path=path, where=where, hint="a GGUF file cannot hold this model")
    return rope


def _needed(values: Mapping[str, Any], key: str, type: JsonType, path: Path, inside: str) -> Any:
    found = take(values, key, type, path=path, inside=inside)
    if found is None:
        raise FormatError("missing", path=path, where=inside + key, hint="get params.json of the same checkpoint")
    return found


def _quantization(raw: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """``quantization_config`` of FP8 weights with a scale for each tensor, the only form that is read."""
    found = raw.get("quantization")
    if found is None:
        return None
    if found.get("qformat_weight") != _FP8:
        problem = f"is {shown(found.get('qformat_weight'))}; {_FP8} is read"
        hint = "convert the checkpoint in floats, or its Hugging Face folder"
        raise FormatError(problem, path=path, where="quantization.qformat_weight", hint=hint)
    return {"quant_method": "fp8", "weight_block_size": None}
