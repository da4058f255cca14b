"""Hugging Face checkpoints: config, weights, tokenizer and adapters, read and written by tables of architectures."""
