"""GPT-2's alphabet: a character for each byte, so that any bytes can be written as text without spaces."""

from __future__ import annotations


def _byte_alphabet() -> dict[str, int]:
    """Printable Latin-1 stands for itself, the others begin at U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in plain]
    return {chr(value): value for value in plain} | {chr(0x100 + i): value for i, value in enumerate(others)}


BYTE_OF = _byte_alphabet()
_CHARACTER_OF = {value: char for char, value in BYTE_OF.items()}


def in_alphabet(raw: bytes) -> str:
    """Write bytes as byte-level tokenizers do.

    Example:
        >>> in_alphabet(" é".encode())
        'ĠÃ©'
    """
    return "".join(map(_CHARACTER_OF.__getitem__, raw))
