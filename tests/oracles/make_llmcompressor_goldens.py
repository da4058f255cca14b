"""Whole tiny checkpoints of llm-compressor, and the logits that transformers gives of what they decompress to.

PYTHON tests/oracles/make_llmcompressor_goldens.py tests/formats/hf/packed/goldens/checkpoints

Run it with a Python that has llmcompressor 0.14.0.1 and compressed-tensors 0.20.1 (the former asks for 0.19 and runs
with it: install it with ``--no-deps``). A folder for each form: config.json, model.safetensors, and logits.safetensors
with ``tokens`` and float32 ``logits`` of the decompressed weights, activations being left as they are.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from compressed_tensors.compressors.base import decompress_module
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TOKENS = [3, 31, 17, 15, 9, 22, 44, 1]
_FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
_NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
_W4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": False}
RECIPES: dict[str, Any] = {
    name.lower().replace("_", "-"): QuantizationModifier(targets="Linear", scheme=name, ignore=["lm_head"])
    for name in ("NVFP4", "MXFP4", "MXFP8", "FP8", "FP8_DYNAMIC", "FP8_BLOCK", "W8A8")
}
RECIPES["mixed"] = QuantizationModifier(
    config_groups={
        "attention": {"targets": [r"re:.*self_attn\.(q|k|v)_proj$"], "weights": _FP8},
        "one": {"targets": ["model.layers.0.self_attn.o_proj"], "weights": _W4},
        "rest": {"targets": ["Linear"], "weights": _NVFP4},
    },
    ignore=["lm_head", r"re:.*(gate|up)_proj"],
)


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=48, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.2, dtype="bfloat16",
    )  # fmt: skip
    return LlamaForCausalLM(config)


def make(name: str, recipe: QuantizationModifier, folder: Path, dense: str) -> None:
    model = LlamaForCausalLM.from_pretrained(dense, dtype=torch.bfloat16)  # the library wants one with a folder
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, 48, (8, 16), generator=generator).tolist()
    data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * 16] * 8})
    words = Tokenizer(WordLevel({str(i): i for i in range(48)}, unk_token="0"))
    processor = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0")
    oneshot(
        model=model, processor=processor, recipe=recipe, dataset=data, num_calibration_samples=8, max_seq_length=16
    )  # fmt: skip
    with TemporaryDirectory() as made:
        model.save_pretrained(made)
        folder.mkdir(parents=True, exist_ok=True)
        config = json.loads((Path(made) / "config.json").read_text())
        config.pop("transformers_version", None)
        (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        weights = load_file(Path(made) / "model.safetensors")
        oracle = f"llmcompressor {version('llmcompressor')}, compressed-tensors {version('compressed-tensors')}"
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt", "oracle": oracle})
        loaded = AutoModelForCausalLM.from_pretrained(made)
    for module in loaded.modules():
        if hasattr(module, "quantization_scheme"):
            decompress_module(module, leave_decompressed=False)
    plain = tiny().float()
    plain.load_state_dict({name: weight.float() for name, weight in loaded.state_dict().items()})
    with torch.inference_mode():
        logits = plain(torch.tensor([TOKENS])).logits[0]
    save_file({"tokens": torch.tensor(TOKENS), "logits": logits.contiguous()}, folder / "logits.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)


def main(folder: Path, names: list[str]) -> None:
    with TemporaryDirectory() as dense:
        tiny().to(torch.bfloat16).save_pretrained(dense)
        for name, recipe in RECIPES.items():
            if not names or name in names:
                shutil.rmtree(folder / name, ignore_errors=True)
                make(name, recipe, folder / name, dense)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
