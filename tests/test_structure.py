"""The shape of the project: rooms are listed, imports go one way and in no circle, files stay small, heavy libraries
load late, and no public function hides its parameters."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import quantmill

ROOT = Path(__file__).parent.parent
MAX_LINES = 500

# room -> the rooms it may import from, besides itself
ROOMS: dict[str, set[str]] = {
    "formats": {"formats/storage", "formats/gguf"},
    "formats/storage": set(),
    "formats/gguf": {"formats", "formats/storage"},
    "formats/ggml": {"formats", "formats/storage", "formats/gguf", "formats/hf/tokenizer"},
    "formats/hf": {
        "formats", "formats/storage", "formats/gguf", "formats/hf/archs", "formats/hf/packed", "formats/hf/tokenizer",
        "formats/hf/towers", "formats/hf/tables", "formats/hf/files",
    },
    "formats/hf/tables": {"formats", "formats/gguf"},
    "formats/hf/archs": {"formats", "formats/hf/tables"},
    "formats/hf/towers": {"formats", "formats/hf/tables"},
    "formats/hf/files": {"formats", "formats/storage", "formats/gguf", "formats/hf", "formats/hf/tables"},
    "formats/hf/adapters": {
        "formats", "formats/storage", "formats/gguf", "formats/hf", "formats/hf/tables", "formats/hf/files",
    },
    "formats/hf/packed": {"formats", "formats/storage", "formats/hf", "formats/hf/tables", "formats/hf/files"},
    "formats/hf/tokenizer": {"formats", "formats/hf/tokenizer*"},
    "formats/hf/tokenizer/files": {"formats"},
    "formats/hf/tokenizer/splitting": {"formats", "formats/hf/tokenizer/files"},
    "formats/hf/tokenizer/common": {"formats", "formats/hf/tokenizer/files"},
    "formats/hf/tokenizer/kinds": {
        "formats", "formats/hf/tokenizer/files", "formats/hf/tokenizer/splitting", "formats/hf/tokenizer/common",
    },
    "formats/diffusion": {
        "formats", "formats/storage", "formats/gguf", "formats/hf/files", "formats/hf/packed",
    },
    "formats/hub": {"formats", "formats/storage", "formats/gguf", "formats/hf/files"},
    "quantize": {
        "formats", "formats/storage", "formats/gguf", "formats/diffusion", "quantize/kernels", "quantize/refine",
    },
    "quantize/kernels": {"formats"},
    "quantize/refine": {"formats", "formats/storage", "quantize/kernels"},
    "quantize/budget": {
        "formats", "formats/storage", "formats/gguf", "quantize", "quantize/kernels", "quantize/refine",
    },
    "quantize/estimate": {"formats", "formats/gguf", "quantize"},
    "quantize/gptq": {"formats", "formats/hf/packed", "quantize", "quantize/kernels"},
    "quantize/awq": {"formats", "formats/hf/packed", "quantize"},
    "quantize/sequential": {"formats", "quantize", "quantize/kernels", "quantize/refine"},
    "quantize/compress": {
        "formats", "formats/hf/files", "formats/hf/packed", "quantize", "quantize/kernels",
    },
    "imatrix": {
        "formats", "formats/storage", "formats/gguf", "formats/hf", "formats/hf/tables", "formats/hf/tokenizer",
    },
    "tools/api": {"formats*", "quantize*", "imatrix"},
    "tools/api/ollama": {"formats", "tools/api"},
    "tools/api/releasing": {"formats*", "quantize*", "imatrix", "tools/api", "tools/api/ollama"},
    "tools/reports": {"formats*", "quantize*", "tools/api*"},
    "tools/terminal": {"formats*", "tools/api", "tools/api/releasing"},
    "tools": {"formats*", "quantize*", "imatrix", "tools/api*", "tools/reports", "tools/terminal"},
}  # fmt: skip
# Modules that everything may know; they import nothing of the package but each other.
FOUNDATION = {"formats.errors", "formats.progress", "formats.version"}
PRINTING = {"click", "tqdm"}  # for the shell alone


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name, which is empty for its root."""
    tops = {room.split("/")[0] for room in ROOMS}
    paths = [ROOT / "__init__.py", *(path for top in sorted(tops) for path in sorted((ROOT / top).rglob("*.py")))]
    return {dotted(path): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The innermost listed room that a module lies in."""
    parts = module.split(".")
    inside = ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next(room for room in inside if room in ROOMS)


def imported(module: str, tree: ast.Module) -> Iterator[str]:
    """The package's modules that one imports: at its top, inside functions, and for type checkers alone."""
    is_package = (ROOT / module.replace(".", "/")).is_dir()
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            elif (node.module or "").split(".")[0] == "quantmill":
                base = (node.module or "").split(".")[1:]
            else:
                continue
            found = ".".join(part for part in base if part)
            names = [f"{found}.{alias.name}".strip(".") for alias in node.names]
            inner = [name for name in names if name in sources()]
            yield from inner
            if found in sources() and len(inner) < len(names):
                yield found  # "" where a name is taken from the package itself
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("quantmill.") for alias in node.names if alias.name.startswith("quantmill.")
            )


@cache
def graph() -> dict[str, set[str]]:
    return {module: set(imported(module, tree)) - {module} for module, tree in sources().items()}


def circles() -> list[list[str]]:
    """The strongly connected parts of the import graph that have more than one module (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(graph()[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            part = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(part) > 1:
                found.append(sorted(part))

    for module in graph():
        if module not in index:
            visit(module)
    return found


def test_there_is_no_circle_of_any_kind_of_import() -> None:
    assert circles() == []


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room: str) -> None:
    allowed = ROOMS[room] | {room}

    def fits(other: str) -> bool:
        if not other:
            return False  # the root hands out what is below it
        place = room_of(other)
        return other in FOUNDATION or any(
            place == rule or (rule.endswith("*") and f"{place}/".startswith(f"{rule[:-1]}/")) for rule in allowed
        )

    members = [module for module in graph() if module and room_of(module) == room]
    assert members, f"{room} is listed and empty"
    wrong = {module: sorted(bad) for module in members if (bad := {m for m in graph()[module] if not fits(m)})}
    assert not wrong


def test_the_foundation_stands_on_nothing() -> None:
    assert not {module: wrong for module in FOUNDATION if (wrong := graph()[module] - FOUNDATION)}


def test_the_way_of_quantize_is_the_one_in_the_readme() -> None:
    """Seven files, each imported by the one that calls it; kernels are named in a table, which imports them."""
    way = {
        "tools.quantize": {"formats.gguf.reader", "tools.api.convert"},
        "tools.api.convert": {"quantize.plan", "quantize.execute"},
        "quantize.execute": {"quantize.encode"},
        "quantize.encode": {"quantize.kernels"},
    }
    assert not {module: missing for module, needed in way.items() if (missing := needed - graph()[module])}
    from quantmill.quantize.kernels import _MODULES

    files = [*way, "formats.gguf.reader", "quantize.plan", f"quantize.kernels.{_MODULES['Q4_K']}"]
    (text,) = [part for part in (ROOT / "README.md").read_text().split("\n\n") if part.startswith("So `quantize model")]
    assert sorted(re.findall(r"`([\w/]+)\.py`", text)) == sorted(file.replace(".", "/") for file in files)
    assert len(files) == 7


def test_no_command_imports_another() -> None:
    commands = {f"tools.{module}" for module, _ in commands_of_the_shell().values()}
    assert not {command: wrong for command in commands if (wrong := graph()[command] & commands)}


def commands_of_the_shell() -> dict[str, tuple[str, str]]:
    from quantmill.tools.main import COMMANDS

    return COMMANDS


def test_only_the_shell_prints() -> None:
    """What a notebook calls knows neither click nor tqdm, and prints nothing."""
    wrong = []
    for module, tree in sources().items():
        if module and room_of(module) in ("tools", "tools/terminal"):
            continue
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            wrong += [f"{module} imports {name}" for name in names if name.split(".")[0] in PRINTING]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                wrong.append(f"{module}:{node.lineno} prints")
    assert not wrong


def test_every_folder_is_a_listed_room() -> None:
    """A forgotten line in pyproject.toml would leave a folder out of the wheel."""
    if sys.version_info < (3, 11):
        tomllib = pytest.importorskip("tomli")
    else:
        import tomllib

    folders = {"/".join(p.parent.relative_to(ROOT).parts) for room in ROOMS for p in (ROOT / room).rglob("*.py")}
    assert folders == set(ROOMS)
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    assert listed == {"quantmill", *(f"quantmill.{folder.replace('/', '.')}" for folder in folders)}


def test_files_stay_small() -> None:
    sizes = {
        path: len(path.read_text(encoding="utf-8").splitlines())
        for room in ROOMS
        for path in (ROOT / room).glob("*.py")
    }
    assert not {str(path.relative_to(ROOT)): n for path, n in sizes.items() if n > MAX_LINES}


def functions(module: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """The functions and methods of a module that have no underscore before their name or their class's."""
    inside: list[tuple[str, ast.AST]] = [(module, sources()[module])]
    while inside:
        place, node = inside.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)) and not child.name.startswith("_"):
                if isinstance(child, ast.ClassDef):
                    inside.append((f"{place}.{child.name}", child))
                else:
                    yield f"{place}.{child.name}", child


def test_no_function_takes_an_option_bag() -> None:
    """Neither ``**options`` nor a mapping of anything under that name."""
    wrong = []
    for module in sources():
        for name, function in functions(module):
            parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            bags = [
                p.arg for p in parameters if p.annotation and p.arg == "options" and "Any" in ast.unparse(p.annotation)
            ]
            extra = function.args.kwarg
            if bags or (extra is not None and (extra.annotation is None or "Any" in ast.unparse(extra.annotation))):
                wrong.append(name)
    assert not wrong


def public_signatures() -> Iterator[tuple[str, inspect.Signature]]:
    """Of every function that ``quantmill`` hands out, and of the public methods of every class."""
    for name in quantmill.__all__:
        thing = getattr(quantmill, name)
        if inspect.isclass(thing):
            if not issubclass(thing, Exception):
                yield name, inspect.signature(thing)
            for method, function in vars(thing).items():
                if inspect.isfunction(function) and not method.startswith("_"):
                    yield f"{name}.{method}", inspect.signature(function)
        elif callable(thing):
            yield name, inspect.signature(thing)


def test_no_public_signature_hides_anything() -> None:
    wrong = []
    for name, signature in public_signatures():
        for parameter in signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                wrong.append(f"{name}: **{parameter.name}")
        hints = [str(p.annotation) for p in signature.parameters.values()] + [str(signature.return_annotation)]
        wrong += [f"{name}: {hint}" for hint in hints if "Any" in hint.replace("[", " ").replace("]", " ").split()]
    assert not wrong


@pytest.mark.parametrize("argument", ["--help", "quantize --help", "convert --help"])
def test_help_imports_nothing_heavy(argument: str) -> None:
    code = (
        "import sys; sys.argv = ['quantmill', *sys.argv[1:]]\n"
        "from quantmill.tools.main import run\n"
        "try:\n    run()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'numba', 'transformers', 'tokenizers', 'sentencepiece'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *argument.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout
