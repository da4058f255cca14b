"""Durable files, whatever their bytes mean: sources that may change while they are read, outputs that appear whole."""
