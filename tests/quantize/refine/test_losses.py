"""No change makes refining lose more than it did: losses that are recorded, of every type."""

from __future__ import annotations

import json

import pytest
from bench.refine_cost import BEFORE, WEIGHTS, inputs, measure, normal_rows

from quantmill.quantize.refine import REFINED
from quantmill.quantize.refine.factor import make_blocks

LOSSES = json.loads(BEFORE.read_text())["losses"]


@pytest.mark.parametrize("width", [256, 512, pytest.param(1536, marks=pytest.mark.slow)])
def test_losses_are_no_higher_than_recorded(width: int) -> None:
    """Normal rows and inputs that go together; within what another processor's rounding makes of a few codes."""
    moments, rows = inputs(width), normal_rows(WEIGHTS // width, width)
    blocks = make_blocks([moments])
    now = {name: measure(name, rows, blocks, moments, 1)["loss"] for name in sorted(REFINED)}
    before = LOSSES[str(width)]
    worse = {name: (now[name], before[name]) for name in now if now[name] > before[name] * 1.003}
    assert not worse
    assert sum(now.values()) <= sum(before.values()) * 1.0005
