"""Tokenizers of Hugging Face folders: ``read.py`` and ``save.py``, and what those are made of."""
