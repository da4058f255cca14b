"""Patterns that choose tensors by name: the regular expressions of ``--tensor-type``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..formats.errors import PlanError
from ..formats.qtypes import QType

_OPTION = "--tensor-type"


@dataclass(frozen=True)
class TypeRule:
    """A line of a recipe's file: the type of the tensors whose name has a match of a pattern.

    Args:
        pattern: the regular expression.
        type: the type's name.
        origin: the file and the line, for messages.

    Example:
        >>> from quantmill import PlanOptions, TypeRule, make_plan, tiny_llama
        >>> rule = TypeRule("ffn_up", "Q8_0", "mix.txt:1")
        >>> plan = make_plan(tiny_llama(), "Q4_K_M", PlanOptions(tensor_types=[rule]))
        >>> [step.reason for step in plan.steps if step.type.name == "Q8_0"]
        ['mix.txt:1 ffn_up']
    """

    pattern: str
    type: str | QType
    origin: str = ""


@dataclass(frozen=True)
class Pattern:
    """The type of the tensors whose name has a match.

    Args:
        text: the regular expression as it was given.
        regex: the same, compiled.
        type: the type of the tensors.
        origin: the option, or the file and the line, that it was given by.
    """

    text: str
    regex: re.Pattern[str]
    type: QType
    origin: str = _OPTION

    @property
    def option(self) -> str:
        """The pattern and where it was given."""
        return f"{self.origin} {self.text}={self.type}"

    def matches(self, names: Iterable[str]) -> list[str]:
        """The names that have a match."""
        return [name for name in names if self.regex.search(name)]


def compile_pattern(text: str, origin: str = _OPTION) -> re.Pattern[str]:
    """Compile a pattern. Its letters match in either case. llama-quantize writes the pattern in lower case to that end,
    which makes another class of ``\\D``, ``\\S`` and ``\\W``.

    Raises:
        PlanError: it is not a regular expression; names the place.

    Example:
        >>> from quantmill.quantize.patterns import compile_pattern
        >>> [name for name in ("blk.0.attn_v", "blk.10.attn_v") if compile_pattern(r"BLK\\.\\d\\D").search(name)]
        ['blk.0.attn_v']
    """
    try:
        with warnings.catch_warnings():
            # Python warns of a set in a set, such as [[:digit:]] of other dialects, and reads it as something else.
            warnings.simplefilter("error", FutureWarning)
            return re.compile(text, re.IGNORECASE)
    except re.error as error:
        place = "" if error.pos is None else f" at position {error.pos}"
        problem = f"{error.msg}{place}"
    except FutureWarning as error:
        problem = str(error).lower()
    except (OverflowError, RecursionError):
        problem = "a repetition is too large, or groups are too deep"
    hint = r"the dialect is Python's, where a digit is \d"
    raise PlanError(f"{origin} {text!r} is not a valid regular expression: {problem}", hint=hint)


def compile_patterns(rules: Sequence[tuple[str, QType, str]], names: Sequence[str]) -> list[Pattern]:
    """Compile patterns, with their types and origins, for the tensors of these names.

    Raises:
        PlanError: a pattern is not a regular expression, or matches no name.
    """
    patterns = [
        Pattern(text, compile_pattern(text, origin or _OPTION), type, origin or _OPTION) for text, type, origin in rules
    ]
    for pattern in patterns:
        if not any(pattern.regex.search(name) for name in names):
            problem = f"{pattern.origin} {pattern.text!r} matches no tensor"
            raise PlanError(problem, hint="--dry-run lists the names")
    return patterns
