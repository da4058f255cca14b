"""Weights rounded to the schemes of compressed-tensors, as llm-compressor rounds them without a text."""
