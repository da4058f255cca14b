"""Types of JSON values: what each takes, and the one line about anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quantmill.formats.errors import FormatError, QuantmillError, located
from quantmill.formats.gguf.keys import typed
from quantmill.formats.json_types import (
    FLAG,
    NUMBER,
    NUMBERS,
    OBJECT,
    POSITIVE,
    TEXT,
    WHOLE,
    JsonType,
    by_name,
    check,
    optional,
    shown,
    take,
)

PATH = Path("a.json")
VALUES: dict[str, Any] = {
    "null": None, "true": True, "0": 0, "-1": -1, "1.5": 1.5, "inf": float("inf"), "nan": float("nan"),
    "10**30": 10**30, "10**400": 10**400, "text": "x", "list": [], "numbers": [1, 2.5], "object": {}, "named": {"a": 1},
}  # fmt: skip
TAKEN = (
    (FLAG, {"true"}),
    (WHOLE, {"0", "-1"}),
    (NUMBER, {"0", "-1", "1.5", "10**30"}),
    (POSITIVE, {"1.5", "10**30"}),
    (TEXT, {"text"}),
    (OBJECT, {"object", "named"}),
    (NUMBERS, {"list", "numbers"}),
    (by_name(WHOLE, "whole numbers"), {"object", "named"}),
    (optional(TEXT, WHOLE), {"null", "text", "0", "-1"}),
)


@pytest.mark.parametrize(("type", "taken"), TAKEN, ids=lambda one: one.name if isinstance(one, JsonType) else "")
def test_each_type_takes_its_values(type: JsonType, taken: set[str]) -> None:
    assert {name for name, value in VALUES.items() if type.holds(value)} == taken


def test_messages_name_file_and_key_and_are_short() -> None:
    with pytest.raises(FormatError) as error:
        check(["y" * 1000] * 100, TEXT, path=PATH, where="a.b")
    assert str(error.value).startswith("a.json: a.b: ['yyyy")
    assert str(error.value).endswith("is not a text (correct it, or download the file again)")
    assert len(str(error.value)) < 600
    assert shown("\ud83d\n") == r"'\ud83d\n'"


def test_take() -> None:
    values = {"a": 1, "none": None}
    assert take(values, "a", WHOLE, path=PATH) == 1
    assert take(values, "none", WHOLE, path=PATH) is None
    assert take(values, "b", WHOLE, 8, path=PATH) == 8
    with pytest.raises(FormatError, match=r"a.json: x.none: None is not a whole number"):
        take(values, "none", WHOLE, 8, path=PATH, inside="x.")


def test_errors_within_a_block_get_its_file() -> None:
    with pytest.raises(FormatError, match=r"^a.json: key: 'x' is not a valid float32$"), located(PATH, "key"):
        typed("rope.freq_base", "x")
    with pytest.raises(FormatError, match=r"^b.json: other: wrong$"), located(PATH, "key"):
        raise FormatError("wrong", path="b.json", where="other")


@pytest.mark.parametrize("number", [10**30, 10**400, -(10**400), float("inf"), float("nan")])
@pytest.mark.parametrize("key", ["llama.context_length", "llama.block_count"])
def test_no_number_is_too_large_for_a_line(key: str, number: float) -> None:
    with pytest.raises(QuantmillError, match=r"is not a valid uint32|is outside uint32"):
        typed(key, number)
    with pytest.raises(QuantmillError, match="is not a valid float32"):
        typed("rope.freq_base", 10**400)
