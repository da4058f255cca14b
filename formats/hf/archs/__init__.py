"""The architectures we read and write: one module of data and one entry here for each."""

from __future__ import annotations

from ..rules import Arch
from .llama import LLAMA

ARCHS: tuple[Arch, ...] = (LLAMA,)

BY_CLASS = {name: arch for arch in ARCHS for name in arch.classes}
BY_NAME = {arch.name: arch for arch in ARCHS}
