"""Let llama.cpp's own converter convert checkpoints in Mistral's format: makes tests/formats/hf/goldens/mistral.

PYTHONPATH=tests python tests/oracles/make_mistral_goldens.py [PART OF AN ID...]

The converter is that of ``make_converter_goldens.py``. It needs ``pip install mistral-common``, 1.13.1 for these
goldens, beside torch and transformers: in an environment of its own, since nothing else here does.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from oracles.converter import summary
from oracles.make_converter_goldens import Converter, as_lines, fetch
from oracles.make_vocabularies import PINNED
from oracles.mistral_folders import CASES, GOLDENS, Own, digest, save


def make(case: Own, converter: Converter) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = save(case, Path(temporary) / f"mistral-{case.id}", peer=True)
        files = [Path(temporary) / f"{outtype}.gguf" for outtype in ("f32", "f16")]
        for path in files:
            converter.convert(folder, path, path.stem, options=("--mistral-format", *case.options))
        golden = {"made with": _made(), "folder": digest(folder, case), **summary(*files)}
        if "vision_encoder" in case.params:
            for path in files:
                converter.convert(folder, path, path.stem, options=("--mistral-format", "--mmproj"))
            golden["alone"] = summary(*files)
        GOLDENS.mkdir(parents=True, exist_ok=True)
        (GOLDENS / f"{case.id}.json").write_text(as_lines(golden), encoding="utf-8")


def _made() -> dict[str, str]:
    names = ("torch", "transformers", "mistral-common", "numpy")
    return {"llama-cpp-python": PINNED.partition("==")[2], **{name: version(name) for name in names}}


def main(patterns: list[str]) -> None:
    converter = Converter(fetch())
    for case in CASES:
        if not patterns or any(pattern in case.id for pattern in patterns):
            make(case, converter)
            print(case.id)


if __name__ == "__main__":
    main(sys.argv[1:])
