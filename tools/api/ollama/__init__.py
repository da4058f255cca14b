"""What Ollama needs to run a GGUF file: its Modelfile, with the chat template in Go's template language."""
