from __future__ import annotations

import pytest

from quantmill.formats.gguf.names import GLOBAL_ROLES, parse_name, tensor_name
from quantmill.formats.ir import Role


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.OTHER])
@pytest.mark.parametrize("part", ["weight", "bias", ""])
def test_every_role_has_a_name_and_back(role: Role, part: str) -> None:
    layer = None if role in GLOBAL_ROLES else 17
    assert parse_name(tensor_name(role, layer, part)) == (role, layer)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blk.3.attn_q.weight", (Role.ATTN_Q, 3)),
        ("blk.3.attn_q.bias", (Role.ATTN_Q, 3)),
        ("blk.3.attn_q_norm.weight", (Role.ATTN_Q_NORM, 3)),
        ("blk.12.ffn_down_exps.weight", (Role.FFN_DOWN_EXPS, 12)),
        ("blk.0.ffn_gate.7.weight", (Role.FFN_GATE, 0)),  # one expert of a Mixtral file of 2023
        ("blk.0.ssm_a", (Role.SSM_A, 0)),
        ("dec.blk.1.attn_q.weight", (Role.ATTN_Q, 1)),
        ("enc.output_norm.weight", (Role.OUTPUT_NORM, None)),
        ("token_embd.weight", (Role.TOKEN_EMBD, None)),
        ("cls.output.weight", (Role.CLS_OUT, None)),
        ("blk.5.never_heard_of.weight", (Role.OTHER, 5)),
        ("attn_q.weight", (Role.OTHER, None)),  # a block's tensor needs its block
        ("blk.0.token_embd.weight", (Role.OTHER, 0)),
        ("other.weight", (Role.OTHER, None)),
        ("blk.0.other.weight", (Role.OTHER, 0)),
        ("blk.x.attn_q.weight", (Role.OTHER, None)),
        ("", (Role.OTHER, None)),
    ],
)
def test_names_of_files(name: str, expected: tuple[Role, int | None]) -> None:
    assert parse_name(name) == expected


def test_names_are_those_of_gguf_py() -> None:
    """Every base name of gguf-py that we also have stands inside or outside the blocks as there."""
    from gguf.constants import TENSOR_NAMES

    found = set()
    for template in TENSOR_NAMES.values():
        layer = 4 if template.startswith("blk.") and "{bid}" in template else None
        role, parsed = parse_name(template.format(bid=4, xid=0) + ".weight")
        if role is not Role.OTHER:
            assert parsed == layer or template.startswith(("enc.", "dec.")), template
            found.add(role)
    # In llama-arch.cpp, not in gguf 0.19, which calls the last one's base "ffn" and its part "act".
    newer = {
        *(f"attn_{name}" for name in ("compressor_ape", "compressor_gate", "compressor_kv", "compressor_norm")),
        *("attn_kv", "attn_output_a", "attn_output_b", "ffn_gate_tid2eid", "ffn.act"),
        *(f"{place}_{part}" for place in ("hc_attn", "hc_ffn", "output_hc") for part in ("base", "fn", "scale")),
        *(f"indexer_compressor_{part}" for part in ("ape", "gate", "kv", "norm")),
        *(f"{place}_{part}" for place in ("hc_attn", "hc_ffn", "output_hc") for part in ("down", "norm", "up")),
        *("hc_attn_inject", "hc_ffn_inject", "ple_conv1d"),
        *(f"ple_{part}" for part in ("key", "value", "norm_conv", "norm_key", "norm_query")),
        *("indexer.q_proj", "indexer.k_proj", "indexer.q_norm", "hrm.z_l_init"),
    }
    assert {role.value for role in set(Role) - found} == newer | {Role.OTHER.value}
