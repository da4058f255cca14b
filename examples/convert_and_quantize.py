"""From a Hugging Face checkpoint to a quantized GGUF and back, with the library instead of the commands.

The checkpoint is a tiny random Llama, made here; put your own folder in its place.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import quantmill


def make_checkpoint(folder: Path) -> None:
    """A two-layer Llama with grouped-query attention, 256 wide, without a tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
    )
    LlamaForCausalLM(config).half().save_pretrained(folder)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder, path = Path(scratch) / "tiny", Path(scratch) / "tiny.Q4_K_M.gguf"
        make_checkpoint(folder)

        model = quantmill.read_hf(folder)
        plan = quantmill.make_plan(model, "Q4_K_M")
        print(f"{len(plan.steps)} tensors, {plan.size} bytes, {plan.bpw:.2f} bits per weight, before a weight is read")
        quantmill.execute(plan, path)
        assert path.stat().st_size == plan.size

        for report in quantmill.compare(quantmill.read_gguf(path), model):
            print(f"{report.name:<28}{report.type:<6} cosine {report.cosine:.6f}")
            assert report.cosine > 0.99


if __name__ == "__main__":
    main()
