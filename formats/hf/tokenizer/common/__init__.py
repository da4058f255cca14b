"""What the kinds of tokenizer share: the vocabulary they read, the documents they write, merges and pieces."""
