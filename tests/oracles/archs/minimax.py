"""MiniMax."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracles.proofs import Proof, Tensors

_EXPERTS = {
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "rotary_dim": 32, "num_local_experts": 6,
    "num_experts_per_tok": 2, "intermediate_size": 256,
}  # fmt: skip
_FREQUENCIES = [0, 1, 1]


def _as_published(tensors: Tensors) -> dict[str, NDArray[Any]]:
    """A tensor for each expert, gate and up apart, and M2's names."""
    out: dict[str, NDArray[Any]] = {}
    for name, weight in tensors.items():
        moe = name.replace("mlp.gate.e_score", "mlp.e_score").replace(".mlp.", ".block_sparse_moe.")
        if name.endswith("mlp.experts.gate_up_proj"):
            for expert, both in enumerate(weight):
                for half, part in zip(("w1", "w3"), np.split(both, 2), strict=True):
                    out[moe.replace("gate_up_proj", f"{expert}.{half}.weight")] = part
        elif name.endswith("mlp.experts.down_proj"):
            for expert, down in enumerate(weight):
                out[moe.replace("down_proj", f"{expert}.w2.weight")] = down
        elif name.endswith("gate_up_proj.weight"):
            new = moe if "shared" in name else name
            for half, part in zip(("gate", "up"), np.split(weight, 2), strict=True):
                out[new.replace("gate_up", half)] = part
        elif "mlp.gate." in name or "shared" in name:
            out[moe] = weight
        else:
            out[name.replace("self_attn.indexer.", "self_attn.index_")] = weight
    return out


PROOFS = (
    Proof("minimax-m2", "MiniMaxM2ForCausalLM", _EXPERTS, published={"scoring_func": "sigmoid"}),
    Proof(
        "minimax-m3",
        "MiniMaxM3VLForCausalLM",
        _EXPERTS
        | {"dense_intermediate_size": 512, "shared_intermediate_size": 256}
        | {"index_n_heads": 2, "index_head_dim": 64, "index_block_size": 8, "index_topk_blocks": 3}
        | {"mlp_layer_types": ["dense", "sparse", "sparse"]}
        | {"layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"]}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5}},
        published={
            "architectures": ["MiniMaxM3SparseForCausalLM"], "scoring_func": "sigmoid", "n_shared_experts": 1,
            "mlp_layer_types": None, "layer_types": None, "moe_layer_freq": _FREQUENCIES,
            "sparse_attention_config": {
                "sparse_num_index_heads": 2, "sparse_index_dim": 64, "sparse_block_size": 8, "sparse_topk_blocks": 3,
                "sparse_local_block": 1, "sparse_attention_freq": _FREQUENCIES,
            },
        },
        layout=_as_published,
        flash=True,
    ),
)  # fmt: skip
