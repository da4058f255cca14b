"""Golden checkpoints: a tiny Llama as bitsandbytes, ModelOpt and AutoRound save it, and its logits decoded.

PYTHON tests/oracles/make_packed_model_goldens.py tests/formats/hf/packed/goldens/models [NAME ...]

Run it with a Python that has torch 2.13.0, transformers 5.23.0, tokenizers and the tools that
``make_packed_goldens_of_tools.py`` names. A file holds the checkpoint's tensors and ``logits`` (of ``TOKENS``, in
float32, with the weights that the tool decodes its own checkpoint to); its metadata the tool's version and the JSON
files beside the weights. The tokenizer is that of ``save_tiny_llama``.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from oracles.make_packed_goldens_of_tools import decoded_by_modelopt
from oracles.tiny import save_tiny_llama

TOKENS = [3, 71, 200, 15, 9, 120, 44]
JSON = ("config.json", "hf_quant_config.json", "quantization_config.json")
HIDDEN = 64


def bitsandbytes(source: Path, out: Path, **settings: Any) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(**settings)
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=config, dtype=torch.bfloat16, device_map="cpu"
    )
    model.save_pretrained(out)
    return AutoModelForCausalLM.from_pretrained(out, device_map="cpu").dequantize()


def modelopt(source: Path, out: Path, *, name: str, cache: bool = False) -> Any:
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint
    from modelopt.torch.quantization import tensor_quant
    from transformers import AutoModelForCausalLM

    tensor_quant.dynamic_block_quantize_op = lambda inputs, *a, **k: inputs  # as make_packed_goldens_of_tools.py
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    config = copy.deepcopy(getattr(mtq, name))
    if cache:
        config = mtq.update_quant_cfg_with_kv_cache_quant(config, mtq.FP8_KV_CFG["quant_cfg"])
    tokens = torch.tensor([TOKENS])
    mtq.quantize(model, config, lambda model: model(tokens))
    export_hf_checkpoint(model, export_dir=out)
    algo = json.loads((out / "config.json").read_text())["quantization_config"]["quant_algo"]
    stored = load_file(out / "model.safetensors")
    plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    weights = plain.state_dict()
    for at in weights:
        stem = at.removesuffix("weight")
        if f"{stem}weight_scale" in stored:
            parts = {key.removeprefix(stem): part for key, part in stored.items() if key.startswith(stem)}
            weights[at] = decoded_by_modelopt(parts, algo.upper())
        elif at in stored:
            weights[at] = stored[at].float()
    plain.load_state_dict(weights)
    return plain


def auto_round(source: Path, out: Path, *, bits: int, layers: dict[str, Any]) -> Any:
    from auto_round import AutoRound
    from auto_round_extension.torch.qlinear_torch_zp import QuantLinear
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float16)
    tokenizer = AutoTokenizer.from_pretrained(source)
    how = {"scheme": "W4A16", "iters": 0, "disable_opt_rtn": True, "layer_config": layers, "device_map": "cpu"}
    rounding = AutoRound(model, tokenizer, bits=bits, group_size=32, sym=False, **how)
    rounding.quantize_and_save(output_dir=str(out / "made"), format="auto_round:auto_gptq")
    made = next((out / "made").rglob("config.json")).parent
    for path in made.iterdir():
        path.rename(out / path.name)
    stored = load_file(out / "model.safetensors")
    plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    weights = plain.state_dict()
    for at, weight in weights.items():
        stem = at.removesuffix("weight")
        if f"{stem}qweight" in stored:
            own = layers.get(stem.removesuffix("."), {}).get("bits", bits)
            layer = QuantLinear(own, 32, weight.shape[1], weight.shape[0], bias=False)
            for part in ("qweight", "qzeros", "scales"):
                setattr(layer, part, stored[f"{stem}{part}"])
            layer.scales = layer.scales.float()
            weights[at] = layer(torch.eye(weight.shape[1])).T
        elif at in stored:
            weights[at] = stored[at].float()
    plain.load_state_dict(weights)
    return plain


_MIXED = {"model.layers.0.self_attn.q_proj": {"bits": 8}, "model.layers.0.mlp.down_proj": {"bits": 16}}
_FOUR = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
MODELS: dict[str, tuple[str, Callable[..., Any], dict[str, Any]]] = {
    "bitsandbytes-nf4": (
        "bitsandbytes", bitsandbytes, {**_FOUR, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    ),
    "bitsandbytes-fp4": (
        "bitsandbytes", bitsandbytes, {**_FOUR, "bnb_4bit_quant_type": "fp4", "bnb_4bit_quant_storage": torch.bfloat16},
    ),
    "bitsandbytes-int8": ("bitsandbytes", bitsandbytes, {"load_in_8bit": True}),
    "modelopt-fp8": ("nvidia-modelopt", modelopt, {"name": "FP8_DEFAULT_CFG", "cache": True}),
    "modelopt-nvfp4": ("nvidia-modelopt", modelopt, {"name": "NVFP4_DEFAULT_CFG"}),
    "modelopt-nvfp4-awq": ("nvidia-modelopt", modelopt, {"name": "NVFP4_AWQ_LITE_CFG"}),
    "auto-round": ("auto-round", auto_round, {"bits": 4, "layers": _MIXED}),
}  # fmt: skip


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in sys.argv[2:] or MODELS:
        library, make, settings = MODELS[name]
        with tempfile.TemporaryDirectory() as place:
            source = save_tiny_llama(Path(place) / "source", layers=1, hidden=HIDDEN, tied=True)
            out = Path(place) / "out"
            out.mkdir()
            model = make(source, out, **settings).float().eval()
            with torch.inference_mode():
                logits = model(torch.tensor([TOKENS])).logits[0].float()
            files = {file: (out / file).read_text() for file in JSON if (out / file).exists()}
            tensors = {**load_file(out / "model.safetensors"), "logits": logits}
        metadata = {"oracle": f"{library} {version(library)}", "files": json.dumps(files)}
        save_file(tensors, folder / f"{name}.safetensors", metadata=metadata)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
