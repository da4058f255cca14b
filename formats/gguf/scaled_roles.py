"""The weights that llama.cpp multiplies with a factor beside them, by architecture; see ``factors.py``.

Made by tests/oracles/make_scaled_roles.py with llama.cpp b11549. An architecture, or a role, that is not here has its
weights decoded: llama.cpp loads factors for it, too, and some graphs then leave them out.
"""

from __future__ import annotations

SCALED_ROLES: dict[str, str] = {
    "apertus": "attn_q attn_k attn_v attn_output",
    "bert": "attn_q attn_k attn_v attn_output",
    "bloom": "attn_output attn_qkv",
    "chatglm": "attn_q attn_k attn_v attn_output",
    "cohere2": "attn_q attn_k attn_v attn_output ffn_gate ffn_down ffn_up",
    "cohere2moe": (
        "attn_q attn_k attn_v attn_output ffn_gate ffn_down ffn_up ffn_gate_shexp ffn_down_shexp "
        "ffn_up_shexp ffn_gate_exps ffn_down_exps ffn_up_exps"
    ),
    "command-r": "attn_q attn_k attn_v attn_output",
    "dbrx": "attn_output attn_qkv",
    "deepseek2": "attn_output",
    "deepseek32": (
        "attn_output ffn_gate ffn_down ffn_up ffn_gate_shexp ffn_down_shexp ffn_up_shexp ffn_gate_exps "
        "ffn_down_exps ffn_up_exps"
    ),
    "dots1": "attn_q attn_k attn_v attn_output",
    "dots3note": (
        "attn_output ffn_gate ffn_down ffn_up ffn_gate_shexp ffn_down_shexp ffn_up_shexp ffn_gate_exps "
        "ffn_down_exps ffn_up_exps"
    ),
    "ernie4_5": "attn_q attn_k attn_v attn_output",
    "ernie4_5-moe": "attn_q attn_k attn_v attn_output",
    "eurobert": "attn_q attn_k attn_v attn_output",
    "exaone-moe": "attn_q attn_k attn_v attn_output",
    "exaone4": "attn_q attn_k attn_v attn_output",
    "falcon": "attn_output attn_qkv",
    "falcon-h1": "attn_q attn_k attn_v attn_output ssm_in ssm_out",
    "gemma": "attn_q attn_k attn_v attn_output",
    "gemma-embedding2": "ffn_gate",
    "gemma2": "attn_q attn_k",
    "gemma4": "ffn_gate",
    "glm-dsa": (
        "attn_output ffn_gate ffn_down ffn_up ffn_gate_shexp ffn_down_shexp ffn_up_shexp ffn_gate_exps "
        "ffn_down_exps ffn_up_exps"
    ),
    "glm4": "attn_q attn_k attn_v",
    "glm4moe": "attn_q attn_k attn_v attn_output",
    "gpt-oss": "attn_q attn_k attn_v attn_output",
    "gpt2": "attn_output attn_qkv",
    "gptneox": "attn_output attn_qkv",
    "granite": "attn_q attn_k attn_v attn_output",
    "granite_swa": "attn_q attn_k attn_v attn_output",
    "granitehybrid": "attn_q attn_k attn_v attn_output ssm_in ssm_out",
    "granitemoe": "attn_q attn_k attn_v attn_output",
    "hunyuan-dense": "attn_q attn_k attn_v attn_output",
    "hunyuan-moe": "attn_q attn_k attn_v attn_output",
    "hy_v3": (
        "attn_q attn_k attn_v attn_output ffn_gate ffn_down ffn_up ffn_gate_shexp ffn_down_shexp "
        "ffn_up_shexp ffn_gate_exps ffn_down_exps ffn_up_exps"
    ),
    "jais2": "attn_q attn_k attn_v attn_output",
    "jamba": "attn_q attn_k attn_v attn_output ssm_in ssm_out",
    "jina-bert-v3": "attn_output attn_qkv",
    "laguna": "attn_q attn_k attn_v attn_output",
    "lfm2": "attn_q attn_k attn_v attn_output",
    "lfm2moe": "attn_q attn_k attn_v attn_output",
    "llama": "attn_q attn_k attn_v attn_output ffn_gate ffn_down ffn_up ffn_gate_exps ffn_down_exps ffn_up_exps",
    "llama4": "attn_q attn_k attn_v attn_output",
    "mellum": "attn_q attn_k attn_v attn_output ffn_gate_exps ffn_down_exps ffn_up_exps",
    "mimo2": "attn_output",
    "minicpm3": "attn_output",
    "minimax-m2": "attn_q attn_k attn_v attn_output",
    "minimax-m3": "attn_q attn_k attn_v attn_output",
    "mistral3": "attn_q attn_k attn_v attn_output ffn_gate ffn_down ffn_up",
    "mistral4": "attn_output",
    "modern-bert": "attn_output attn_qkv",
    "nemotron": "attn_q attn_k attn_v attn_output",
    "nemotron_h": "attn_q attn_k attn_v attn_output ssm_in ssm_out",
    "nemotron_h_moe": (
        "attn_q attn_k attn_v attn_output ffn_down_shexp ffn_up_shexp ffn_down_exps ffn_up_exps ssm_in ssm_out"
    ),
    "nomic-bert": "attn_output attn_qkv",
    "phi2": "attn_q attn_k attn_v attn_output",
    "phi3": "attn_output attn_qkv",
    "qwen2": "attn_q attn_k attn_v attn_output",
    "qwen2moe": "attn_q attn_k attn_v attn_output",
    "qwen2vl": "attn_q attn_k attn_v attn_output",
    "qwen3": "attn_q attn_k attn_v attn_output ffn_gate ffn_down ffn_up",
    "qwen35": (
        "attn_q attn_k attn_v attn_output attn_qkv attn_gate ffn_gate ffn_down ffn_up ssm_out ssm_alpha ssm_beta"
    ),
    "qwen35moe": (
        "attn_q attn_k attn_v attn_output attn_qkv attn_gate ffn_gate_shexp ffn_down_shexp ffn_up_shexp "
        "ffn_gate_exps ffn_down_exps ffn_up_exps ssm_out ssm_alpha ssm_beta"
    ),
    "qwen3moe": "attn_q attn_k attn_v attn_output ffn_gate_exps ffn_down_exps ffn_up_exps",
    "qwen3next": (
        "attn_q attn_k attn_v attn_output ffn_gate_shexp ffn_down_shexp ffn_up_shexp ffn_gate_exps "
        "ffn_down_exps ffn_up_exps"
    ),
    "qwen3vl": "attn_q attn_k attn_v attn_output",
    "qwen3vlmoe": "attn_q attn_k attn_v attn_output",
    "qwen4exp": (
        "attn_q attn_k attn_v attn_output attn_qkv attn_gate ffn_gate_shexp ffn_down_shexp ffn_up_shexp "
        "ffn_gate_exps ffn_down_exps ffn_up_exps ssm_out ssm_alpha ssm_beta"
    ),
    "seed_oss": "attn_q attn_k attn_v attn_output",
    "smollm3": "attn_q attn_k attn_v attn_output",
}
