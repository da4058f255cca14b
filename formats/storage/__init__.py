"""Durable files, whatever is in them: reading while others change them, and outputs that appear whole or not at all."""
