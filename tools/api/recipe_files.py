"""Recipes in files: a type for each tensor, by patterns of names, one PATTERN=TYPE after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...formats.errors import PlanError, SourceError
from ...quantize.patterns import TypeRule

if TYPE_CHECKING:
    from ...formats.ir import Model
    from .options import StrPath

_MAX_BYTES = 8 << 20  # a line for each tensor of the largest models is below 1 MB


def read_recipe(path: StrPath) -> tuple[TypeRule, ...]:
    """Read a recipe's file, as ``--tensor-type-file`` of llama-quantize: PATTERN=TYPE, parted by spaces or lines.

    What follows a ``#`` at a word's beginning is a comment, to the end of its line; llama-quantize knows none.

    Args:
        path: the file.

    Returns:
        the rules in order, for ``PlanOptions.tensor_types``.

    Raises:
        SourceError: it cannot be read. PlanError: a word is not PATTERN=TYPE, a type is unknown, or a pattern stands
            there twice; names the line.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from quantmill import read_recipe
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "mix.txt")
        ...     _ = path.write_text("attn_v=Q8_0  # more bits for values")
        ...     [(rule.pattern, rule.type) for rule in read_recipe(path)]
        [('attn_v', 'Q8_0')]
    """
    from ...quantize.choose import encodable
    from ...quantize.patterns import compile_pattern

    path = Path(path)
    rules: dict[str, TypeRule] = {}
    for number, line in enumerate(_text(path).split("\n"), 1):
        origin = f"{path}:{number}"
        for word in _words(line):
            pattern, equals, type = word.rpartition("=")
            if not (pattern and equals and type):
                raise PlanError(f"{word!r} is not PATTERN=TYPE, such as attn_v=Q8_0", where=origin)
            if pattern in rules:
                problem = f"{pattern!r} stands in {rules[pattern].origin} already, and the first counts"
                raise PlanError(problem, where=origin, hint="leave one of them out")
            compile_pattern(pattern, origin)
            rules[pattern] = TypeRule(pattern, encodable(type, origin).name, origin)
    if not rules:
        raise PlanError("holds no PATTERN=TYPE", path=path)
    return tuple(rules.values())


@dataclass(frozen=True)
class FoundRecipe:
    """The types of a file's tensors as a recipe.

    Args:
        lines: PATTERN=TYPE, each for tensors of one kind that have one type.
        level: the level that the file says to be of, or None.
        beyond: what no recipe gives: tensors in types that quantize cannot write, or leaves out of quantization; in
            lines.

    Example:
        >>> from quantmill import find_recipe, tiny_llama
        >>> found = find_recipe(tiny_llama())
        >>> found.beyond, len(found.lines) > 5
        ((), True)
    """

    lines: tuple[str, ...]
    level: str | None
    beyond: tuple[str, ...]


def find_recipe(source: StrPath | Model) -> FoundRecipe:
    """Find the recipe by which a file's tensors have their types: the mix of a published file, for one's own model.

    Args:
        source: a GGUF file, or a model that was read before. No weight is read.

    Raises:
        FormatError: the file is damaged. PlanError: it holds no tensor that a recipe could give a type.

    Example:
        >>> from quantmill import find_recipe, tiny_llama
        >>> find_recipe(tiny_llama()).lines[-1]
        '^token_embd\\\\.weight$=F16'
    """
    from ...formats.gguf.keys import GENERAL_FILE_TYPE, LEVEL_OF_FILE_TYPE
    from ...quantize.choose import may_quantize
    from ...quantize.kernels import ENCODABLE
    from .models import as_model

    model = as_model(source)
    kinds: dict[tuple[str, str], list[int | None]] = {}
    beyond = []
    for tensor in model.tensors:
        type = tensor.qtype.name
        if type not in ENCODABLE:
            beyond.append(f"{tensor.name} is {type}, which quantize cannot write")
        elif may_quantize(tensor, model.arch):
            kind = tensor.name if tensor.layer is None else tensor.name.split(".", 2)[2]
            kinds.setdefault((kind, type), []).append(tensor.layer)
        elif tensor.qtype.is_quantized:
            beyond.append(f"{tensor.name} is {type}, and quantize leaves it in floats")
    if not kinds:
        raise PlanError("holds no tensor that a recipe could give a type", path=model.path)
    number = model.get(GENERAL_FILE_TYPE)
    level = LEVEL_OF_FILE_TYPE.get(number) if isinstance(number, int) else None
    return FoundRecipe(tuple(sorted(_lines(kinds))), level, tuple(beyond))


def _lines(kinds: dict[tuple[str, str], list[int | None]]) -> Iterator[str]:
    for (kind, type), layers in kinds.items():
        numbers = "|".join(str(layer) for layer in sorted(layer for layer in layers if layer is not None))
        several = f"({numbers})" if "|" in numbers else numbers
        block = rf"blk\.{several}\." if numbers else ""
        yield f"^{block}{_literal(kind)}$={type}"


def _literal(name: str) -> str:
    """A pattern for a name, of letters that both programs read alike; what else a name has may be anything."""
    return re.sub(r"[^A-Za-z0-9_]", lambda found: r"\." if found[0] == "." else ".", name)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", path=path) from error
    if len(raw) > _MAX_BYTES:
        raise PlanError(f"has more than {_MAX_BYTES} bytes: this is no recipe", path=path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlanError(f"is not UTF-8 at byte {error.start}: this is no recipe", path=path) from None


def _words(line: str) -> list[str]:
    """The words of a line before its comment."""
    words = line.split()
    end = next((i for i, word in enumerate(words) if word.startswith("#")), len(words))
    return words[:end]
