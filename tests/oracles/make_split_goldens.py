"""What llama-gguf-split and llama-quantize --keep-split make of a small file: tests/formats/gguf/goldens/split.json.

Run by hand when the reference moves, with ``llama-cpp-python`` and a llama-gguf-split built from llama.cpp's
tools/gguf-split:

    PYTHONPATH=tests python tests/oracles/make_split_goldens.py path/to/llama-gguf-split "llama.cpp of ..."
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import llama_cpp

from oracles.split_samples import write_split_source
from quantmill.tools.demo import smollm2_gguf

GOLDEN = Path(__file__).parents[1] / "formats" / "gguf" / "goldens" / "split.json"
CASES = (
    ("small", ["--split-max-tensors", "3"]),
    ("small", ["--split-max-tensors", "5"]),
    ("small", ["--split-max-tensors", "100"]),
    ("small", ["--split-max-tensors", "4", "--no-tensor-first-split"]),
    ("smollm2", ["--split-max-size", "40M"]),
)


def digests(folder: Path, pattern: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob(pattern))}


def quantized(folder: Path, first: Path) -> dict[str, object]:
    """The shards that llama.cpp's quantizer makes of SmolLM2's with --keep-split, at Q8_0."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.keep_split = 7, True, True
    done = llama_cpp.llama_model_quantize(str(first).encode(), str(folder / "k").encode(), ctypes.byref(params))
    assert done == 0, done
    return {
        "provenance": f"llama_model_quantize of llama-cpp-python {version('llama-cpp-python')}, of case s4's shards",
        "shards": digests(folder, "k-*.gguf"),
    }


def main() -> None:
    program, provenance = sys.argv[1:]
    cases = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sources = {"small": write_split_source(folder / "small.gguf"), "smollm2": smollm2_gguf()}
        for i, (name, options) in enumerate(CASES):
            source, prefix = sources[name], f"s{i}"
            subprocess.run([program, "--split", *options, source, folder / prefix], check=True, capture_output=True)
            shards = digests(folder, f"{prefix}-*.gguf")
            subprocess.run(
                [program, "--merge", folder / next(iter(shards)), folder / f"m{i}"], check=True, capture_output=True
            )
            merged = hashlib.sha256((folder / f"m{i}").read_bytes()).hexdigest()
            cases.append({"source": name, "options": options, "prefix": prefix, "shards": shards, "merged": merged})
        golden = {"provenance": provenance, "source": digests(folder, "small.gguf")["small.gguf"], "cases": cases}
        golden["keep_split"] = quantized(folder, folder / "s4-00001-of-00003.gguf")
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
