"""How text is split into words before merges: llama.cpp's pre-tokenizers, and which of them a tokenizer.json has."""
