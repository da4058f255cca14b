"""What the files of a Hugging Face folder say about its tokenizer: read once, every value checked, typed."""
