"""Rows and rules that many architectures share, with the names of checkpoints in the Llama layout."""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import (
    ALWAYS,
    EMBD,
    EXPERT_FF,
    EXPERTS,
    FF,
    HEAD_DIM,
    HEADS,
    KV,
    KV_HEADS,
    VOCAB,
    Condition,
    Dim,
    If,
    Is,
    Q,
)
from ..tables.extras import Copy, LeftOut
from ..tables.ops import Op, PermuteRope, Split, Stack
from ..tables.rows import ConfigRow, Key, Rope
from ..tables.rules import Further, HFClass, Rule

# In the order of conversion/base.py: these rows come before rope.
SIZE_KEYS = (
    Key("num_hidden_layers", "block_count"),
    Key("max_position_embeddings", "context_length"),
    Key("hidden_size", "embedding_length"),
    Key("intermediate_size", "feed_forward_length"),
    Key("num_attention_heads", "attention.head_count"),
    Key("num_key_value_heads", "attention.head_count_kv"),
)
EPS_KEY = Key("rms_norm_eps", "attention.layer_norm_rms_epsilon")
KEYS = (*SIZE_KEYS, Rope(), EPS_KEY)
EXPERT_KEYS = (Key("num_local_experts", "expert_count"), Key("num_experts_per_tok", "expert_used_count"))
HEAD_DIM_KEYS = (Key("head_dim", "attention.key_length"), Key("head_dim", "attention.value_length"))

# The two layouts of checkpoints that hold a vision tower beside the text model.
TEXT_ROOTS = {
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
}
IDEFICS_ROOTS = {"model.text_model.": "model."}


def beside(name: str, what: str) -> tuple[LeftOut, LeftOut]:
    """What wrappers have beside the text model, in both layouts."""
    return LeftOut(name, what), LeftOut(f"model.{name}", what)


def around(text: str, cls: HFClass, *names: str, ties: bool = False) -> dict[str, HFClass]:
    """Classes with other towers, of which the text model is converted, and written back as a class of its own.

    Args:
        text: the text model's class.
        cls: the same.
        names: ``Class/type`` where the class takes text models of several types.
        ties: they tie the head to the embedding where their configs do not say.
    """
    return {name: replace(cls, text_of=text, ties=ties) for name in names}


PROJECTOR = beside("multi_modal_projector.*", "projector")
VISION = (*beside("vision_*", "vision tower"), *PROJECTOR)
VISUAL = beside("visual.*", "vision tower")
AUDIO = beside("audio_*", "audio tower")
# Those of a model that speaks, too.
THINKER_ROOTS = {"thinker.model.": "model.", "thinker.lm_head.": "lm_head."}
THINKER = (
    LeftOut("thinker.visual.*", "vision tower"),
    LeftOut("thinker.audio_tower.*", "audio tower"),
    *(LeftOut(name, "speech") for name in ("talker.*", "code2wav.*", "token2wav.*")),
)

LAYER_PREFIX = "model.layers.{layer}."

# ``Arch.layouts``: all experts of a layer in two tensors, or each in three of its own.
_FUSED = "experts_are_fused"
FUSED_EXPERTS = {_FUSED: "*.mlp.experts.gate_up_proj*"}

EMBEDDING = Rule("model.embed_tokens", Role.TOKEN_EMBD, (VOCAB, EMBD))
FINAL_NORM = Rule("model.norm", Role.OUTPUT_NORM, (EMBD,))
HEAD = Rule("lm_head", Role.OUTPUT, (VOCAB, EMBD), unless="tie_word_embeddings")
OWN_HEAD = Rule("lm_head", Role.OUTPUT, (VOCAB, EMBD))  # where llama.cpp does not load a file without one
TIED_HEAD = Copy("lm_head.weight", "model.embed_tokens.weight")  # an equal head is not written
FURTHER_LAYERS = LeftOut("model.layers.{beyond}.*", "layers that predict further tokens")

# Layers for further tokens as DeepSeek V3 has them, whose names count on.
NEXTN_LAYERS = Further(
    "num_nextn_predict_layers",
    (
        Rule(LAYER_PREFIX + "embed_tokens", Role.NEXTN_EMBED_TOKENS, (VOCAB, EMBD), optional=True),
        Rule(LAYER_PREFIX + "enorm", Role.NEXTN_ENORM, (EMBD,)),
        Rule(LAYER_PREFIX + "hnorm", Role.NEXTN_HNORM, (EMBD,)),
        Rule(LAYER_PREFIX + "eh_proj", Role.NEXTN_EH_PROJ, (EMBD, 2 * EMBD)),
        Rule(LAYER_PREFIX + "shared_head.norm", Role.NEXTN_SHARED_HEAD_NORM, (EMBD,), optional=True),
        Rule(LAYER_PREFIX + "shared_head.head", Role.NEXTN_SHARED_HEAD_HEAD, (VOCAB, EMBD), optional=True),
    ),
)
ATTN_NORM = Rule(LAYER_PREFIX + "input_layernorm", Role.ATTN_NORM, (EMBD,))
FFN_NORM = Rule(LAYER_PREFIX + "post_attention_layernorm", Role.FFN_NORM, (EMBD,))


def attention(
    *,
    permute: bool | PermuteRope = False,
    bias: str | Condition | None = None,
    out_bias: str | Condition | None = None,
    when: Condition = ALWAYS,
    at: str = LAYER_PREFIX + "self_attn.",
    out: str = "o_proj",
) -> tuple[Rule, ...]:
    """The rules of q, k, v and o.

    Args:
        permute: for architectures in which llama.cpp rotates neighbouring pairs (``LLAMA_ROPE_TYPE_NORM``); the op for
            q, where it is another.
        bias: when q, k and v have a bias.
        out_bias: when o has a bias.
        at: the beginning of the modules' names.
        out: the name of o.
    """
    op = PermuteRope(HEADS) if permute is True else permute or None
    q_ops: tuple[Op, ...] = (op,) if op else ()
    k_ops: tuple[Op, ...] = (replace(op, heads=KV_HEADS),) if op else ()
    return (
        Rule(at + "q_proj", Role.ATTN_Q, (Q, EMBD), q_ops, bias=bias, when=when),
        Rule(at + "k_proj", Role.ATTN_K, (KV, EMBD), k_ops, bias=bias, when=when),
        Rule(at + "v_proj", Role.ATTN_V, (KV, EMBD), bias=bias, when=when),
        Rule(at + out, Role.ATTN_OUTPUT, (EMBD, Q), bias=out_bias, when=when),
    )


def with_sections(
    rows: tuple[ConfigRow, ...], sections: tuple[int, ...], *, interleaved: bool = False, axes: int = 3
) -> tuple[ConfigRow, ...]:
    """The rows of a text model that is in a class with vision: with sections of the rope."""
    return tuple(
        replace(row, sections=sections, interleaved=interleaved, axes=axes) if isinstance(row, Rope) else row
        for row in rows
    )


def qk_norm(
    *ops: Op,
    when: Condition = ALWAYS,
    at: str = LAYER_PREFIX + "self_attn.",
    names: tuple[str, str] = ("q_norm", "k_norm"),
) -> tuple[Rule, ...]:
    """Norms of q and k over each head."""
    q, k = (at + name for name in names)
    return (
        Rule(q, Role.ATTN_Q_NORM, (HEAD_DIM,), ops, when=when),
        Rule(k, Role.ATTN_K_NORM, (HEAD_DIM,), ops, when=when),
    )


def gated_mlp(
    *,
    bias: str | Condition | None = None,
    when: Condition = ALWAYS,
    at: str = LAYER_PREFIX + "mlp.",
    width: Dim | If = FF,
) -> tuple[Rule, ...]:
    """The rules of gate, up and down."""
    return (
        Rule(at + "gate_proj", Role.FFN_GATE, (width, EMBD), bias=bias, when=when),
        Rule(at + "up_proj", Role.FFN_UP, (width, EMBD), bias=bias, when=when),
        Rule(at + "down_proj", Role.FFN_DOWN, (EMBD, width), bias=bias, when=when),
    )


def experts(
    *,
    at: str = LAYER_PREFIX + "mlp.",
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    router: str = "gate",
    width: Dim = EXPERT_FF,
    when: Condition = ALWAYS,
) -> tuple[Rule, ...]:
    """The router, and experts with a tensor for each.

    Args:
        names: the names of gate, up and down.
    """
    each, ops = at + "experts.{expert}.", (Stack(),)
    gate, up, down = (each + name for name in names)
    return (
        Rule(at + router, Role.FFN_GATE_INP, (EXPERTS, EMBD), when=when),
        Rule(gate, Role.FFN_GATE_EXPS, (width, EMBD), ops, when=when),
        Rule(up, Role.FFN_UP_EXPS, (width, EMBD), ops, when=when),
        Rule(down, Role.FFN_DOWN_EXPS, (EMBD, width), ops, when=when),
    )


def correction(name: str, when: Condition = ALWAYS) -> Rule:
    """The rule of what is added to the experts' scores when they are chosen, a tensor without ``.bias`` behind it."""
    return Rule(name, Role.FFN_EXP_PROBS_B, (EXPERTS,), when=when, tensor=True, part="bias")


def experts_of_either_layout(
    *, at: str = LAYER_PREFIX + "mlp.", when: Condition = ALWAYS, width: Dim = EXPERT_FF
) -> tuple[Rule, ...]:
    """The router, and experts with a tensor for each, as transformers 5 saves them, or fused, as they are published."""
    router, *each = experts(at=at, when=when, width=width)
    fused, halves = Is(_FUSED), (Split((width, width), axis=1),)
    gate_up, down = at + "experts.gate_up_proj", at + "experts.down_proj"
    gate_up_roles = (Role.FFN_GATE_EXPS, Role.FFN_UP_EXPS)
    return (
        router,
        *(replace(rule, when=when & ~fused) for rule in each),
        Rule(gate_up, gate_up_roles, (EXPERTS, 2 * width, EMBD), halves, when=when & fused, tensor=True),
        Rule(down, Role.FFN_DOWN_EXPS, (EXPERTS, EMBD, width), when=when & fused, tensor=True),
    )


def shared_expert(*, at: str, width: Dim, when: Condition = ALWAYS) -> tuple[Rule, ...]:
    """The expert that every token goes to."""
    return (
        Rule(at + "gate_proj", Role.FFN_GATE_SHEXP, (width, EMBD), when=when),
        Rule(at + "up_proj", Role.FFN_UP_SHEXP, (width, EMBD), when=when),
        Rule(at + "down_proj", Role.FFN_DOWN_SHEXP, (EMBD, width), when=when),
    )
