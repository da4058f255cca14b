"""Which group of a config compressed-tensors gives each layer of a small model: makes goldens/targets.json.

PYTHON tests/oracles/make_target_goldens.py tests/formats/hf/packed/goldens

Run it with a Python that has compressed-tensors 0.20.1.
"""

from __future__ import annotations

import json
import random
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.utils.match import match_named_modules, match_targets

CONFIGS = 60
PARTS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
TARGETS = (
    "Linear", "lm_head", "re:.*q_proj", "re:.*self_attn.*", r"re:model\.layers\.[01]\..*", "re:.*mlp.*_proj$",
    "re:.*down", "re:^lm_head", "re:layers.1", "re:.*(gate|up)_proj$", "model.layers.0.self_attn.q_proj",
    "model.layers.1.mlp.up_proj", "model.layers.0",
)  # fmt: skip
IGNORES = ("lm_head", "re:.*v_proj", "re:model.layers.1.*", "model.layers.0.mlp.down_proj")


def model() -> torch.nn.Module:
    whole = torch.nn.Module()
    names = [f"model.layers.{layer}.{part}" for layer in range(2) for part in PARTS]
    for name in (*names, "lm_head"):
        at = whole
        *stems, last = name.split(".")
        for stem in stems:
            if not hasattr(at, stem):
                at.add_module(stem, torch.nn.Module())
            at = getattr(at, stem)
        at.add_module(last, torch.nn.Linear(1, 1))
    return whole


def main(folder: Path) -> None:
    chance, whole = random.Random(3), model()
    cases: list[dict[str, Any]] = []
    for _ in range(CONFIGS):
        groups = {f"g{i}": chance.sample(TARGETS, chance.randint(1, 3)) for i in range(chance.randint(1, 4))}
        ignore = chance.sample(IGNORES, chance.randint(0, 2))
        owners = {target: name for name, targets in groups.items() for target in targets}
        found = {
            name: owners[match_targets(name, module, owners)[0]]
            for name, module in match_named_modules(whole, owners, ignore)
            if isinstance(module, torch.nn.Linear)
        }
        cases.append({"groups": groups, "ignore": ignore, "found": found})
    made = {"oracle": f"compressed-tensors {version('compressed-tensors')}", "cases": cases}
    (folder / "targets.json").write_text(json.dumps(made, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
