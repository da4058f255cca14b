"""Metadata values and floats as JSON can hold them."""

from __future__ import annotations

from ...formats.ir import Value, ValueType

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def json_value(value: Value) -> Json:
    """Convert a metadata value: an array to a list, NaN and infinities to strings.

    Example:
        >>> json_value(Value(ValueType.FLOAT32, float("inf")))
        'inf'
    """
    if value.type is ValueType.ARRAY:
        items = value.items.tolist() if hasattr(value.items, "tolist") else value.items
        return [json_value(item) if isinstance(item, Value) else json_number(item) for item in items]
    assert isinstance(value.data, bool | int | float | str)
    return json_number(value.data)


def json_number(item: bool | int | float | str | None) -> Json:
    """Convert NaN and infinities, which JSON lacks, to strings; give anything else back.

    Example:
        >>> json_number(float("nan")), json_number(0.5), json_number("a")
        ('nan', 0.5, 'a')
    """
    if isinstance(item, float) and (item != item or item in (float("inf"), float("-inf"))):
        return str(item)
    return item


def json_plain(value: object) -> object:
    """Convert NaN and infinities at any depth of plain data, as ``json_number`` does.

    Example:
        >>> json_plain({"a": [float("nan"), 1], "b": ("x",)})
        {'a': ['nan', 1], 'b': ['x']}
    """
    if isinstance(value, dict):
        return {key: json_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_plain(item) for item in value]
    return json_number(value) if isinstance(value, float) else value
