"""Quantized checkpoints: GPTQ, AWQ, FP8, compressed-tensors, MXFP4; their tensors as lazy rows."""
