"""GGML files of mid 2023 (ggjt): reading and writing Llama models."""
