"""The public names: what type checkers see is what a program gets, and a light import."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import quantmill


def test_type_checkers_see_every_name() -> None:
    tree = ast.parse(Path(str(quantmill.__file__)).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name  # without "as" it is not exported
            seen[alias.name] = node.module
    assert seen == quantmill._MODULES


def test_every_name_is_there() -> None:
    for name, module in quantmill._MODULES.items():
        assert getattr(quantmill, name) is getattr(import_module(f"quantmill.{module}"), name)
    assert set(quantmill.__all__) <= set(dir(quantmill))


def test_names_do_not_hide_modules() -> None:
    folder = Path(str(quantmill.__file__)).parent
    assert not [name for name in quantmill._MODULES if (folder / name).exists() or (folder / f"{name}.py").exists()]


def test_the_import_is_light() -> None:
    code = "import sys, quantmill; print({'numpy', 'torch', 'numba', 'click'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
