"""Bytes <-> IR. Knows files, never policy; imports no torch."""
