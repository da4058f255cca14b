"""The weights that llama.cpp multiplies with a factor beside them, by architecture; see ``factors.py``.

Made by tests/oracles/make_scaled_roles.py with llama.cpp b11549.
"""

from __future__ import annotations

SCALED_ROLES: dict[str, str] = {
    "llama": "attn_q attn_k attn_v attn_output ffn_gate ffn_down ffn_up ffn_gate_exps ffn_down_exps ffn_up_exps",
}
