"""sentencepiece's table of replacements, applied as sentencepiece and llama.cpp do: the longest match first.

The tokenizers library looks at whole grapheme clusters and takes the shortest match there, so that marks may be lost.
"""

from __future__ import annotations

import struct


class Charsmap:
    """A ``precompiled_charsmap``: its trie (a darts double array of uint32) and the replacements behind it."""

    def __init__(self, data: bytes) -> None:
        (size,) = struct.unpack_from("<I", data)
        self._trie = struct.unpack_from(f"<{size // 4}I", data, 4)
        self._replacements = data[4 + size :]

    def normalize(self, text: str) -> str:
        raw, out, start = text.encode(), b"", 0
        while start < len(raw):
            length, found = self._longest(raw, start)
            if not length:
                first = raw[start]
                length = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
                out += raw[start : start + length]
            else:
                out += self._replacements[found : self._replacements.index(b"\0", found)]
            start += length
        return out.decode()

    def _longest(self, raw: bytes, start: int) -> tuple[int, int]:
        node, best = self._offset(self._trie[0]), (0, 0)
        for i in range(start, len(raw)):
            if raw[i] == 0:
                break
            node ^= raw[i]
            unit = self._trie[node]
            if unit & (1 << 31 | 0xFF) != raw[i]:
                break
            node ^= self._offset(unit)
            if unit >> 8 & 1:
                best = i - start + 1, self._trie[node] & 0x7FFFFFFF
        return best

    @staticmethod
    def _offset(unit: int) -> int:
        return (unit >> 10) << ((unit & 1 << 9) >> 6)
