"""Refining weight after weight, each for the inputs that the quantized model will give it."""
