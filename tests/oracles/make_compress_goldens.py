"""What llm-compressor makes of tiny checkpoints, scheme by scheme: a digest of all tensors, and what it ignored.

PYTHON tests/oracles/make_compress_goldens.py tests/tools/goldens/compress.json [FOLDER]

Run it with a Python that has llmcompressor 0.14.0.1. The models themselves are made as ``compress_models.py`` says.
With FOLDER, the checkpoints stay there.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
from llmcompressor import oneshot
from llmcompressor.modeling.moe.linearize import linearize_moe
from llmcompressor.modifiers.quantization import QuantizationModifier
from safetensors import safe_open
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
from compress_models import write

PRESETS = {
    "fp8": "FP8_DYNAMIC", "fp8-block": "FP8_BLOCK", "w8a8": "W8A8", "w4a16": "W4A16", "w4a16-asym": "W4A16_ASYM",
    "w8a16": "W8A16", "nvfp4a16": "NVFP4A16", "mxfp4": "MXFP4", "mxfp4a16": "MXFP4A16",
}  # fmt: skip
IGNORE = ["lm_head", "re:.*mlp.gate$", "re:.*block_sparse_moe.gate$"]
MODELS = [("qwen3_moe", "bfloat16"), ("llama", "bfloat16"), ("llama", "float16"), ("llama", "float32")]


def schemes() -> Iterator[tuple[str, QuantizationScheme]]:
    for name, preset in PRESETS.items():
        yield name, preset_name_to_scheme(preset, ["Linear"])
    tokens = QuantizationArgs(num_bits=8, type="float", strategy="token", symmetric=True, dynamic=True)
    weights = QuantizationArgs(num_bits=8, type="float", strategy="tensor", symmetric=True, dynamic=False)
    yield "fp8-tensor", QuantizationScheme(targets=["Linear"], weights=weights, input_activations=tokens)
    for size in (32, -1):
        strategy: dict[str, Any] = {"strategy": "channel"} if size == -1 else {"strategy": "group", "group_size": size}
        weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, **strategy)
        yield f"w4a16:{size}", QuantizationScheme(targets=["Linear"], weights=weights)


def searched() -> Iterator[tuple[str, QuantizationScheme]]:
    """With llm-compressor's search of ranges, whose sums of errors are the same in any order only in F32, and there not
    over a whole block."""
    for name in ("fp8", "w8a8", "w4a16", "w4a16-asym", "nvfp4a16", "mxfp4a16"):
        scheme = preset_name_to_scheme(PRESETS[name], ["Linear"])
        scheme.weights.observer = "mse"
        yield f"{name}+mse", scheme


def digest(folder: Path) -> str:
    """Of all tensors together, by their names: dtype, shape and bytes."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.offset_keys()}
    whole = hashlib.sha256()
    for name, tensor in sorted(found.items()):
        whole.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def compressed(source: Path, scheme: QuantizationScheme, out: Path) -> None:
    model = linearize_moe(AutoModelForCausalLM.from_pretrained(source, dtype="auto"))
    oneshot(model=model, recipe=QuantizationModifier(config_groups={"group_0": scheme}, ignore=IGNORE))
    model.save_pretrained(out, save_compressed=True)


def main(golden: Path, kept: Path | None) -> None:
    made: dict[str, Any] = {"oracle": f"llmcompressor {version('llmcompressor')}", "cases": {}}
    with tempfile.TemporaryDirectory() as parent:
        root = kept or Path(parent)
        for kind, dtype in MODELS:
            source = root / f"{kind}-{dtype}"
            write(source, kind, dtype)
            for name, scheme in [*schemes(), *(searched() if dtype == "float32" else ())]:
                out = root / f"{kind}-{dtype}-{name}"
                compressed(source, scheme, out)
                config = json.loads((out / "config.json").read_text())["quantization_config"]
                made["cases"][f"{kind}/{dtype}/{name}"] = {"ignore": config["ignore"], "digest": digest(out)}
    golden.parent.mkdir(exist_ok=True)
    golden.write_text(json.dumps(made, indent=0) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
