"""The names of each expert's own weight, for checkpoints that keep a layer's experts in one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir import Role
from .dimensions import Config, at_layer

if TYPE_CHECKING:
    from .rules import Arch, Rule


def expert_names(arch: Arch, stacked: Rule, role: Role, layer: int, config: Config) -> tuple[str, ...]:
    """Name the weight of each expert where the architecture has a layout with a tensor for each, as GPTQ and AWQ write.

    Args:
        arch: the architecture.
        stacked: its rule for all experts in one tensor.
        role: of the weight: one of the roles in that tensor.
        layer: the layer's number.
        config: of the model, in whichever layout.

    Returns:
        a name for each expert, such as ``model.layers.0.mlp.experts.3.up_proj.weight``; () if the architecture has no
        such layout at the same place, so that no reader would find them.
    """
    place, _, _ = stacked.modules[0].rpartition(".")
    plain = at_layer(
        {key: value for key, value in config.items() if key not in arch.layouts}, layer, config["num_hidden_layers"]
    )
    for rule in arch.rules:
        if rule.roles == (role,) and rule.modules[0].startswith(f"{place}.{{expert}}.") and rule.when(plain):
            return rule.sources(layer, "weight", plain)
    return ()
