"""The HTML report of a GGUF file."""
