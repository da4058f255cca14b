"""Mamba, Falcon Mamba and Mamba 2: state-space models without attention. Hybrids use their rules, too.

Sources: MambaConfig, FalconMambaConfig and Mamba2Config of transformers 5.23; conversion/mamba.py of llama.cpp, which
normalizes Falcon Mamba's B, C and time steps with the epsilon of its layers, 1e-5 instead of 1e-6.
"""

from __future__ import annotations

from ...ir import Role
from ..tables.dimensions import ALWAYS, EMBD, FF, HEAD_DIM, VOCAB, Condition, Dim, Implied, Is
from ..tables.layer_kinds import Alike
from ..tables.ops import Reshape
from ..tables.rows import Computed, Constant, Key
from ..tables.rules import Arch, HFClass, Rule
from ..tables.values import NegExp

_AT = "backbone.layers.{layer}."
_ONE = Dim(1)
NO_LIMIT = ([0.0, {"__float__": "Infinity"}], [0.0, float("inf")])  # in JSON of transformers 5, and of older ones


def conv1d(at: str, channels: Dim, kernel: Dim, when: Condition = ALWAYS, bias: Condition = ALWAYS) -> tuple[Rule, ...]:
    """A depthwise convolution."""
    shape = (channels, _ONE, kernel)
    flat = (Reshape(shape, (channels, kernel)),)
    return (
        Rule(at + "conv1d", Role.SSM_CONV1D, shape, flat, when=when),
        Rule(at + "conv1d.bias", Role.SSM_CONV1D, (channels,), when=when & bias, tensor=True, part="bias"),
    )


def mamba1(
    at: str, *, inner: Dim, rank: Dim, state: Dim, kernel: Dim, when: Condition = ALWAYS, norms: bool = False
) -> tuple[Rule, ...]:
    """The mixer of Mamba.

    Args:
        inner: its width.
        rank: of the time steps' projection.
        norms: whether B, C and the time steps are normalized, with weights.
    """
    parts = (("dt", Role.SSM_DT_NORM, rank), ("b", Role.SSM_B_NORM, state), ("c", Role.SSM_C_NORM, state))
    return (
        Rule(at + "in_proj", Role.SSM_IN, (2 * inner, EMBD), when=when),
        *conv1d(at, inner, kernel, when),
        Rule(at + "x_proj", Role.SSM_X, (rank + 2 * state, inner), when=when),
        *(Rule(f"{at}{name}_layernorm", role, (width,), when=when) for name, role, width in parts if norms),
        Rule(at + "dt_proj", Role.SSM_DT, (inner, rank), bias=ALWAYS, when=when),
        Rule(at + "A_log", Role.SSM_A, (inner, state), (NegExp(),), when=when, tensor=True, part=""),
        Rule(at + "D", Role.SSM_D, (inner,), when=when, tensor=True, part=""),
        Rule(at + "out_proj", Role.SSM_OUT, (EMBD, inner), when=when),
    )


def mamba2(
    at: str,
    *,
    inner: Dim,
    heads: Dim,
    groups: Dim,
    state: Dim,
    kernel: Dim,
    when: Condition = ALWAYS,
    bias: Condition = ALWAYS,
    norm: Condition = ALWAYS,
) -> tuple[Rule, ...]:
    """The mixer of Mamba 2.

    Args:
        inner: its width; ``groups`` share B and C, of ``state`` each.
        bias: of the convolution.
        norm: whether the output is normalized, a group at a time.
    """
    channels = inner + 2 * groups * state
    column = Reshape((heads,), (heads, _ONE))
    return (
        Rule(at + "in_proj", Role.SSM_IN, (inner + channels + heads, EMBD), when=when),
        *conv1d(at, channels, kernel, when, bias),
        Rule(at + "dt_bias", Role.SSM_DT, (heads,), when=when, tensor=True, part="bias"),
        Rule(at + "A_log", Role.SSM_A, (heads,), (NegExp(), column), when=when, tensor=True, part=""),
        Rule(at + "D", Role.SSM_D, (heads,), (column,), when=when, tensor=True, part=""),
        Rule(at + "norm", Role.SSM_NORM, (inner,), (Reshape((inner,), (groups, inner // groups)),), when=when & norm),
        Rule(at + "out_proj", Role.SSM_OUT, (EMBD, inner), when=when),
    )


_COMMON = {
    "layer_norm_epsilon": 1e-5, "expand": 2, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True,
    "hidden_act": "silu", "initializer_range": 0.1, "residual_in_fp32": True, "time_step_min": 0.001,
    "time_step_max": 0.1, "time_step_floor": 1e-4, "rescale_prenorm_residual": False, "bos_token_id": 0,
}  # fmt: skip
_FIXED = {"expand": 2, "use_bias": False, "use_conv_bias": True, "hidden_act": "silu"}
_STATE, _KERNEL, _RANK = Dim("state_size"), Dim("conv_kernel"), Dim("time_step_rank")
_FIRST_KEYS = (
    Constant("context_length", 1 << 20),  # there is no maximum
    Key("hidden_size", "embedding_length"),
    Constant("feed_forward_length", 0),
    Constant("attention.head_count", 0),
    Key("num_hidden_layers", "block_count"),
    Key("conv_kernel", "ssm.conv_kernel"),
)
_EPS = Key("layer_norm_epsilon", "attention.layer_norm_rms_epsilon")
_MIXER = _AT + "mixer."
_ENDS = (
    Rule("backbone.norm_f", Role.OUTPUT_NORM, (EMBD,)),
    Rule("lm_head", Role.OUTPUT, (VOCAB, EMBD), unless="tie_word_embeddings"),
)
_BEGIN = (
    Rule("backbone.embeddings", Role.TOKEN_EMBD, (VOCAB, EMBD)),
    Rule(_AT + "norm", Role.ATTN_NORM, (EMBD,)),
)

_MAMBA = (
    _COMMON
    | {"vocab_size": 50280, "hidden_size": 768, "state_size": 16, "num_hidden_layers": 32, "eos_token_id": 0}
    | {"time_step_scale": 1.0, "time_step_init_scheme": "random", "pad_token_id": 0, "use_mambapy": False}
    | {"use_associative_scan": True, "tie_word_embeddings": True}
)
_KEYS = (
    *_FIRST_KEYS,
    Key("intermediate_size", "ssm.inner_size"),
    Key("state_size", "ssm.state_size"),
    Key("time_step_rank", "ssm.time_step_rank"),
    _EPS,
)
_RULES = (*_BEGIN, *mamba1(_MIXER, inner=FF, rank=_RANK, state=_STATE, kernel=_KERNEL), *_ENDS)
_IMPLIED: dict[str, Implied] = {"intermediate_size": 2 * EMBD, "time_step_rank": (EMBD + 15) // 16}

MAMBA = Arch(
    name="mamba",
    classes={"MambaForCausalLM": HFClass("mamba", _MAMBA)},
    config=(*_KEYS, Constant("ssm.dt_b_c_rms", False)),
    rules=_RULES,
    fixed=_FIXED,
    implied=_IMPLIED,
    base="backbone.",
)

FALCON_MAMBA = Arch(
    name="falcon-mamba",
    gguf_name="mamba",
    classes={"FalconMambaForCausalLM": HFClass("falcon_mamba", _MAMBA | {"mixer_rms_eps": 1e-6})},
    config=(*_KEYS, Constant("ssm.dt_b_c_rms", True)),
    rules=_RULES,
    fixed=_FIXED,
    needs={"mixer_rms_eps": Is("mixer_rms_eps", 1e-6) | Alike("mixer_rms_eps", "layer_norm_epsilon")},
    implied=_IMPLIED,
    base="backbone.",
)

_HEADS = Dim("num_heads")

MAMBA2 = Arch(
    name="mamba2",
    classes={
        "Mamba2ForCausalLM": HFClass(
            "mamba2",
            _COMMON
            | {"vocab_size": 32768, "hidden_size": 4096, "state_size": 128, "num_hidden_layers": 64, "num_heads": 128}
            | {"head_dim": 64, "n_groups": 8, "pad_token_id": 1, "eos_token_id": 2, "chunk_size": 256},
        )
    },
    config=(
        *_FIRST_KEYS,
        Computed("ssm.inner_size", _HEADS * HEAD_DIM),
        Key("state_size", "ssm.state_size"),
        Key("num_heads", "ssm.time_step_rank"),
        Key("n_groups", "ssm.group_count"),
        _EPS,
    ),
    rules=(
        *_BEGIN,
        *mamba2(_MIXER, inner=_HEADS * HEAD_DIM, heads=_HEADS, groups=Dim("n_groups"), state=_STATE, kernel=_KERNEL),
        *_ENDS,
    ),
    fixed=_FIXED | {"time_step_limit": NO_LIMIT},
    implied={"head_dim": 2 * EMBD // _HEADS},
    base="backbone.",
    roots={"model.": ""},
)
