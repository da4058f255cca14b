"""Models that make images and videos: safetensors files and diffusers folders to the common model, and back."""
