"""GGUF: headers, metadata keys, tensor names, shards, strict checks; reading, writing and editing files."""
