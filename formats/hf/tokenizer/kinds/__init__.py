"""One module for each kind of tokenizer: its vocabulary out of a folder's files, and its tokenizer.json back."""
