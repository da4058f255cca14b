"""Ask llama.cpp which type it gives each tensor, at every level: writes tests/quantize/goldens/types.json.gz.

Run by hand when the reference moves; needs ``llama-cpp-python`` (its shared library exports ``llama_model_quantize``)
and ``gguf``, not the package itself:

    python tests/oracles/make_type_goldens.py

The models are shells: the quantizer looks at names, widths and hyper-parameters only, so two rows a tensor do.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import re
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

GOLDEN = Path(__file__).parents[1] / "quantize" / "goldens" / "types.json.gz"

LEVELS = {
    "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13,
    "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ2_XXS": 19, "IQ2_XS": 20, "Q2_K_S": 21,
    "IQ3_XS": 22, "IQ3_XXS": 23, "IQ1_S": 24, "IQ4_NL": 25, "IQ3_S": 26, "IQ3_M": 27, "IQ2_S": 28, "IQ2_M": 29,
    "IQ4_XS": 30, "IQ1_M": 31, "TQ1_0": 36, "TQ2_0": 37, "MXFP4_MOE": 38, "Q1_0": 40, "Q2_0": 41,
    "F32": 0, "F16": 1, "BF16": 32,
}  # fmt: skip
TYPE_COUNT = 43  # GGML_TYPE_COUNT: "not set"

Shapes = dict[str, list[int]]


def llama_shell(
    layers: int, width: int = 256, ff: int = 512, experts: int = 0,
    tied: bool = False, qkv: bool = False, kv_b: bool = False,
) -> Shapes:  # fmt: skip
    """Tensor names and numpy shapes of a Llama with two rows a matrix."""
    shapes: Shapes = {"token_embd.weight": [2, width], "output_norm.weight": [width]}
    if not tied:
        shapes["output.weight"] = [2, width]
    for i in range(layers):
        names = {"attn_norm.weight": [width], "ffn_norm.weight": [width], "attn_output.weight": [2, width]}
        names |= {"attn_qkv.weight": [2, width]} if qkv else {f"attn_{x}.weight": [2, width] for x in "qkv"}
        if kv_b:
            names |= {"attn_kv_b.weight": [2, width], "attn_q_a.weight": [2, width], "attn_k_b.weight": [2, 2, width]}
        stack, suffix = ([experts], "_exps") if experts else ([], "")
        names |= {f"ffn_gate{suffix}.weight": [*stack, 2, width], f"ffn_up{suffix}.weight": [*stack, 2, width]}
        names |= {f"ffn_down{suffix}.weight": [*stack, 2, ff]}
        if experts:
            names |= {"ffn_gate_inp.weight": [experts, width]}
        if experts > 8:
            names |= {f"ffn_{x}_shexp.weight": [2, width] for x in ("gate", "up", "down")}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in names.items()}
    return shapes


def model(arch: str, layers: int, heads: int, kv: int, shapes: Shapes, experts: int = 0) -> dict[str, Any]:
    return {"arch": arch, "layers": layers, "heads": heads, "kv": kv, "experts": experts, "shapes": shapes}


ODD = {
    "position_embd.weight": [2, 256], "token_types.weight": [2, 256], "per_layer_token_embd.weight": [2, 256],
    "per_layer_model_proj.weight": [2, 256], "blk.0.ssm_conv1d.weight": [2, 256], "blk.0.ssm_in.weight": [2, 256],
    "blk.0.time_mix_w1.weight": [2, 256], "blk.0.attn_rel_b.weight": [2, 256], "blk.0.attn_q.bias": [256],
    "blk.0.altup_router.weight": [2, 256], "blk.0.laurel_l.weight": [2, 256], "blk.0.attn_sinks": [2, 256],
    "blk.0.one_row.weight": [1, 256], "blk.0.ffn_sub_norm.weight": [2, 256], "blk.1.attn_k_norm.weight": [2, 256],
    "blk.1.nextn.eh_proj.weight": [2, 256], "rope_freqs.weight": [16],
}  # fmt: skip

MODELS = {
    "llama-32-gqa1": model("llama", 32, 8, 8, llama_shell(32)),
    "llama-32-gqa4-tied": model("llama", 32, 8, 2, llama_shell(32, tied=True)),
    "llama-22-gqa8": model("llama", 22, 32, 4, llama_shell(22)),
    "llama-9-gqa3": model("llama", 9, 9, 3, llama_shell(9)),
    "llama-80-gqa8": model("llama", 80, 64, 8, llama_shell(80)),
    "llama-80-gqa2": model("llama", 80, 64, 32, llama_shell(80)),
    "llama-80-gqa1": model("llama", 80, 64, 64, llama_shell(80)),
    "qwen2-80-gqa2": model("qwen2", 80, 64, 32, llama_shell(80)),
    "mixtral-32": model("llama", 32, 32, 8, llama_shell(32, experts=8), 8),
    "moe4-16-gqa2": model("llama", 16, 32, 16, llama_shell(16, experts=4), 4),
    "moe64-16-shared": model("llama", 16, 32, 32, llama_shell(16, experts=64, kv_b=True, tied=True), 64),
    "falcon-32": model("falcon", 32, 71, 1, llama_shell(32, qkv=True)),
    "falcon-16-tied": model("falcon", 16, 8, 8, llama_shell(16, qkv=True, tied=True)),
    "falcon-60-gqa16": model("falcon", 60, 128, 8, llama_shell(60, qkv=True)),
    "smollm2": model("llama", 30, 9, 3, llama_shell(30, width=576, ff=1536, tied=True)),
    "width-288-ff-320": model("llama", 8, 8, 8, llama_shell(8, width=288, ff=320)),
    "width-100": model("llama", 8, 8, 8, llama_shell(8, width=100, ff=256)),
    "odd-names": model("llama", 2, 8, 8, llama_shell(2) | ODD),
}

# name -> (model, options)
OPTIONS = {
    "pure": ("llama-32-gqa4-tied", {"pure": True}),
    "leave-output": ("llama-22-gqa8", {"leave_output": True}),
    "output-type": ("llama-22-gqa8", {"output_type": "Q5_0"}),
    "output-type-tied": ("llama-32-gqa4-tied", {"output_type": "Q5_0"}),
    "embedding-type": ("llama-22-gqa8", {"embedding_type": "Q4_1"}),
    "embedding-type-tied": ("llama-32-gqa4-tied", {"embedding_type": "Q4_1"}),
    "tensor-types": ("llama-32-gqa1", {"tensor_types": [["blk\\.[02]\\.attn_v", "Q8_0"], ["ffn_down", "Q5_1"]]}),
    "tensor-types-first": ("llama-32-gqa1", {"tensor_types": [["blk\\.1\\..*", "Q6_K"], ["attn_v|gate", "IQ4_NL"]]}),
    "tensor-types-width": ("width-288-ff-320", {"tensor_types": [["attn_q", "Q6_K"], ["ffn_down", "Q8_0"]]}),
    "embedding-named": ("odd-names", {"embedding_type": "Q4_1", "tensor_types": [["per_layer_token_embd", "Q6_K"]]}),
}
OPTION_LEVELS = ("Q4_0", "Q3_K_M", "Q4_K_M", "IQ3_XXS", "F16")


def write_shell(path: Path, spec: dict[str, Any]) -> None:
    arch = spec["arch"]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(spec["layers"])
    writer.add_context_length(128)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(512)
    writer.add_head_count(spec["heads"])
    writer.add_head_count_kv(spec["kv"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    if spec["experts"]:
        writer.add_expert_count(spec["experts"])
        writer.add_expert_used_count(2)
    writer.add_vocab_size(2)
    rng = np.random.default_rng(0)
    for name, shape in spec["shapes"].items():
        writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32 if len(shape) == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class _Override(ctypes.Structure):
    _fields_ = (("pattern", ctypes.c_char_p), ("type", ctypes.c_int))


class _Importance(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t))


_LOG: list[str] = []


@llama_cpp.llama_log_callback
def _log(level: int, text: bytes, user_data: object) -> None:
    _LOG.append(text.decode())


def quantize(
    source: Path, target: Path, level: str, *, importance: dict[str, Any] | None = None, dry_run: bool = False,
    pure: bool = False, leave_output: bool = False, output_type: str | None = None, embedding_type: str | None = None,
    tensor_types: list[list[str]] | None = None, threads: int = 1,
) -> list[str]:  # fmt: skip
    """``llama_model_quantize``; returns its log. Raises RuntimeError with the log's end when it refuses."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread, params.ftype = threads, LEVELS[level]
    params.pure, params.quantize_output_tensor, params.dry_run = pure, not leave_output, dry_run
    params.allow_requantize = True
    type_id = lambda name: TYPE_COUNT if name is None else int(gguf.GGMLQuantizationType[name])  # noqa: E731
    params.output_tensor_type, params.token_embedding_type = type_id(output_type), type_id(embedding_type)
    keep: list[Any] = []
    if tensor_types:
        rows = [_Override(pattern.encode(), type_id(name)) for pattern, name in tensor_types]
        overrides = (_Override * (len(rows) + 1))(*rows, _Override(None, TYPE_COUNT))
        keep.append(overrides)
        params.tt_overrides = ctypes.cast(overrides, type(params.tt_overrides))
    if importance:
        entries = []
        for name, vector in importance.items():
            vector = np.ascontiguousarray(vector, np.float32)
            keep.append(vector)
            data = vector.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entries.append(_Importance(name.encode(), data, vector.size))
        table = (_Importance * (len(entries) + 1))(*entries, _Importance(None, None, 0))
        keep.append(table)
        params.imatrix = ctypes.cast(table, type(params.imatrix))
    _LOG.clear()
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params)):
        raise RuntimeError("".join(_LOG[-5:]))
    return "".join(_LOG).splitlines()


_LINE = re.compile(r"\[ *\d+/ *\d+\] +(\S+) +- +\[.*\], type = +(\w+), .*?(?:\((\w+)\))?$")


def types_of(path: Path, level: str, with_importance: bool, options: dict[str, Any]) -> dict[str, str] | None:
    """Tensor -> type at a level; None when llama.cpp refuses (no fallback defined)."""
    importance = {"nothing": np.ones(4, np.float32)} if with_importance else None
    try:
        log = quantize(path, Path(os.devnull), level, importance=importance, dry_run=True, **options)
    except RuntimeError as error:
        if "no tensor type fallback" not in str(error):
            raise
        return None
    found = [match.groups() for match in map(_LINE.search, log) if match]
    return {name: (new or old).upper() for name, old, new in found}


def _pack(types: dict[str, str] | None) -> Any:
    """Type -> names, with the layers of ``blk.N.`` as one list: {"Q6_K": {"attn_v.weight": [0, 1]}}."""
    if types is None:
        return None
    packed: dict[str, dict[str, list[int]]] = {}
    for name, type in types.items():
        match = re.fullmatch(r"blk\.(\d+)\.(.*)", name)
        layers = packed.setdefault(type, {}).setdefault(match[2] if match else name, [])
        layers.append(int(match[1]) if match else -1)
    return packed


def main() -> None:
    llama_cpp.llama_log_set(_log, None)
    llama_cpp.llama_backend_init()
    golden: dict[str, Any] = {
        "oracle": f"llama-cpp-python {version('llama-cpp-python')}, llama_model_quantize, dry_run",
        "models": MODELS,
        "types": {},
        "options": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.gguf" for name in MODELS}
        for name, spec in MODELS.items():
            write_shell(paths[name], spec)
            golden["types"][name] = {
                f"{level}{'+imatrix' if im else ''}": _pack(types_of(paths[name], level, im, {}))
                for level in LEVELS
                for im in (False, True)
            }
        for name, (which, options) in OPTIONS.items():
            golden["options"][name] = {
                "model": which,
                "options": options,
                "types": {level: _pack(types_of(paths[which], level, False, options)) for level in OPTION_LEVELS},
            }
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(golden, separators=(",", ":")).encode()
    GOLDEN.write_bytes(gzip.compress(text, 9, mtime=0))
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes, {len(MODELS)} models, {len(LEVELS)} levels")


if __name__ == "__main__":
    main()
