"""An atheris harness: ``python tests/attacks/fuzz.py gguf|ggml|imatrix [libFuzzer's options] [corpus folders]``.

For example ``python tests/attacks/fuzz.py gguf -max_total_time=600 found tests/attacks/corpus/gguf``: what is new goes
to ``found``, a file that breaks the reader to ``crash-*`` here. Such a file belongs into the corpus, which the tests
replay.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["quantmill.formats"], enable_loader_override=False):
    from attacks import readers
from quantmill.formats.errors import FormatError


def main() -> None:
    reader = readers.FILES[sys.argv.pop(1)]
    file = os.memfd_create("fuzzed")
    path = Path(f"/proc/self/fd/{file}")

    def attack(data: bytes) -> None:
        os.ftruncate(file, 0)
        os.pwrite(file, data, 0)
        with suppress(FormatError):
            reader(path)

    atheris.Setup(sys.argv, attack)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
