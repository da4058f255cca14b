"""One module for each kind of tokenizer: it reads the vocabulary of a folder and writes its tokenizer.json."""
