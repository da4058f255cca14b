"""The Hugging Face Hub: models by their names there, through ``huggingface_hub``, its cache, tokens and settings."""
