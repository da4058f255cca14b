"""Tokenizers of Hugging Face folders: ``read.py`` and ``write.py`` are the ways in.

``files`` holds what the folder's files say, typed and checked; ``splitting`` finds llama.cpp's pre-tokenizer;
``kinds`` has a module for each kind of tokenizer, which the tables in ``read.py`` and ``write.py`` choose from.
"""
