"""Values of another type in what a tower reads, beside right ones: one line each that names file and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attacks.tower_samples import towers
from quantmill.formats.errors import QuantmillError

PREPROCESSOR, TOKENIZER = "preprocessor_config.json", "tokenizer_config.json"
WRONG: tuple[tuple[str, str, tuple[str, ...], Any, str], ...] = (
    ("exaone4_5", PREPROCESSOR, ("min_pixels",), {}, "preprocessor_config.min_pixels: {} is not a whole number"),
    ("exaone4_5", PREPROCESSOR, ("min_pixels",), {"a": 1}, "preprocessor_config.min_pixels: {'a': 1} is not a whole"),
    ("gemma4a", "config.json", ("audio_config", "model_type"), 0, "audio_config.model_type: 0 is not a text"),
    ("gemma4a", "config.json", ("audio_config", "model_type"), "x", "audio_config.model_type: Gemma4ForConditional"),
    ("pixtral", TOKENIZER, ("added_tokens_decoder", "7"), 0, "added_tokens_decoder.7: 0 is not an object"),
    (
        "pixtral", TOKENIZER, ("added_tokens_decoder", "7", "content"), 0,
        "added_tokens_decoder.7.content: 0 is not a text",
    ),
)  # fmt: skip


@pytest.mark.parametrize(("tower", "file", "place", "value", "message"), WRONG, ids=lambda one: str(one)[:30])
def test_a_wrong_value_is_refused(
    tower: str, file: str, place: tuple[str, ...], value: Any, message: str, tmp_path: Path
) -> None:
    sample = next(one for one in towers() if one.name == f"tower {tower}")
    sample.write(tmp_path)
    assert sample.read(tmp_path)
    content = json.loads((tmp_path / file).read_text())
    *around, last = place
    inner = content
    for key in around:
        inner = inner[key]
    inner[last] = value
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(QuantmillError) as error:
        sample.read(tmp_path)
    assert message in str(error.value)
