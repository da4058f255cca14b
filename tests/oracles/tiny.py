"""Tiny random models with tokenizers, as Hugging Face folders: real transformers modules that run in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

TEXT = (
    "The quick brown fox jumps over the lazy dog, 42 times; then it rests. Pack my box with five dozen liquor jugs!\n"
    "Wie vjagt mein Block zweifelnd? Portez ce vieux whisky au juge blond qui fume.\n"
)


def save_tiny_llama(folder: Path, *, layers: int = 3, hidden: int = 64, tied: bool = False, **changes: Any) -> Path:
    """A Llama of some layers (heads of 16, two key/value heads) with a byte-level BPE tokenizer of 320 tokens."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=320, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=512,
        tie_word_embeddings=tied, bos_token_id=0, eos_token_id=1, initializer_range=0.3, **changes,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    encoder = Tokenizer(models.BPE())
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    encoder.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    encoder.train_from_iterator([TEXT * 4], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=encoder, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    return folder


def save_tiny_mixtral(folder: Path) -> Path:
    """A Mixtral of 4 experts, 256 wide, with the tokenizer of ``save_tiny_llama``."""
    save_tiny_llama(folder, hidden=256)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(5)
    config = MixtralConfig(
        vocab_size=320, hidden_size=256, intermediate_size=512,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    MixtralForCausalLM(config).half().save_pretrained(folder)
    return folder
