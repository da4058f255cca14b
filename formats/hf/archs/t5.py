"""T5 1.1 and Flan-T5: an encoder and a decoder; the encoders of T5 and UMT5 alone.

Sources: T5Config of transformers 5.23; conversion/t5.py of llama.cpp, which leaves out the scaling of the
decoder's output that the first T5 has.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import Role
from ..tables.dimensions import EMBD, FF, HEADS, LAYER_INDEX, LAYERS, VOCAB, Dim, Equal, Is, Q
from ..tables.extras import Copy, LeftOut
from ..tables.rows import Constant, Key
from ..tables.rules import Arch, HFClass, Rule

_COMMON = {
    "d_kv": 64, "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32, "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6, "initializer_factor": 1.0, "is_encoder_decoder": True, "is_decoder": False,
    "pad_token_id": 0, "eos_token_id": 1, "classifier_dropout": 0.0, "num_decoder_layers": None,
    "tie_word_embeddings": None,
}  # fmt: skip
_NAMES = {
    "d_model": "hidden_size", "d_ff": "intermediate_size", "d_kv": "head_dim", "num_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
}  # fmt: skip
_DEFAULTS = {_NAMES.get(key, key): value for key, value in _COMMON.items()}
_FIRST = Equal(LAYER_INDEX, Dim(0))


def _stack(name: str, layers: str, cross: bool) -> tuple[Rule, ...]:
    """The blocks of the encoder or the decoder."""
    at, stack = name + ".block.{layer}.layer.", name[:3] + "."

    def rule(hf: str, role: Role, shape: tuple[Dim, ...], only_first: bool = False) -> Rule:
        rule = Rule(at + hf, role, shape, stack=stack, layers=layers)
        return replace(rule, when=_FIRST) if only_first else rule

    feed = "2." if cross else "1."
    other = (
        rule("1.EncDecAttention.q", Role.CROSS_ATTN_Q, (Q, EMBD)),
        rule("1.EncDecAttention.k", Role.CROSS_ATTN_K, (Q, EMBD)),
        rule("1.EncDecAttention.v", Role.CROSS_ATTN_V, (Q, EMBD)),
        rule("1.EncDecAttention.o", Role.CROSS_ATTN_O, (EMBD, Q)),
        rule("1.layer_norm", Role.CROSS_ATTN_NORM, (EMBD,)),
    )
    return (
        rule("0.SelfAttention.q", Role.ATTN_Q, (Q, EMBD)),
        rule("0.SelfAttention.k", Role.ATTN_K, (Q, EMBD)),
        rule("0.SelfAttention.v", Role.ATTN_V, (Q, EMBD)),
        rule("0.SelfAttention.o", Role.ATTN_O, (EMBD, Q)),
        rule(
            "0.SelfAttention.relative_attention_bias",
            Role.ATTN_REL_B,
            (Dim("relative_attention_num_buckets"), HEADS),
            only_first=True,
        ),
        rule("0.layer_norm", Role.ATTN_NORM, (EMBD,)),
        *(other if cross else ()),
        rule(feed + "DenseReluDense.wi_0", Role.FFN_GATE, (FF, EMBD)),
        rule(feed + "DenseReluDense.wi_1", Role.FFN_UP, (FF, EMBD)),
        rule(feed + "DenseReluDense.wo", Role.FFN_DOWN, (EMBD, FF)),
        rule(feed + "layer_norm", Role.FFN_NORM, (EMBD,)),
        Rule(name + ".final_layer_norm", Role.OUTPUT_NORM, (EMBD,), stack=stack),
    )


_T5 = HFClass(
    "t5",
    _DEFAULTS
    | {"vocab_size": 32128, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}
    | {"num_attention_heads": 8, "feed_forward_proj": "relu"},
    _NAMES,
)
_UMT5 = replace(
    _T5,
    model_type="umt5",
    defaults={
        **_T5.defaults, "vocab_size": 250112, "intermediate_size": 1024, "num_hidden_layers": 8,
        "num_attention_heads": 6, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
    },
)  # fmt: skip
_EVERY = "every_layer_has_distances"  # of its own, as in UMT5
_FIXED = {"feed_forward_proj": "gated-gelu", "relative_attention_max_distance": 128}

_ENCODER = _stack("encoder", "num_hidden_layers", cross=False)
_OF_DECODER = ("decoder_block_count", "decoder_start_token_id")

T5 = Arch(
    name="t5",
    classes={"T5ForConditionalGeneration": _T5},
    config=(
        Constant("context_length", 512),
        Key("hidden_size", "embedding_length"),
        Key("intermediate_size", "feed_forward_length"),
        Key("num_hidden_layers", "block_count"),
        Key("num_decoder_layers", "decoder_block_count"),
        Key("num_attention_heads", "attention.head_count"),
        Key("head_dim", "attention.key_length"),
        Key("head_dim", "attention.value_length"),
        Key("layer_norm_epsilon", "attention.layer_norm_epsilon"),
        Key("relative_attention_num_buckets", "attention.relative_buckets_count"),
        Key("layer_norm_epsilon", "attention.layer_norm_rms_epsilon"),
        Key("decoder_start_token_id", "decoder_start_token_id", optional=True),
    ),
    rules=(
        Rule("shared", Role.TOKEN_EMBD, (VOCAB, EMBD)),
        *_ENCODER,
        *_stack("decoder", "num_decoder_layers", cross=True),
        Rule("lm_head", Role.OUTPUT, (VOCAB, EMBD), optional=True),
    ),
    fixed=_FIXED | {"is_encoder_decoder": True},
    # In old configs, transformers takes untied embeddings as the sign that the decoder's output is not scaled.
    needs={"scale_decoder_outputs": Is("scale_decoder_outputs", False) | Is("tie_word_embeddings", False)},
    implied={"num_decoder_layers": LAYERS},
    base="",
    extras=(
        # of the first T5s; transformers ignores it, too
        LeftOut("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", "bias without a use"),
        Copy("encoder.embed_tokens.weight", "shared.weight", key=None),
        Copy("decoder.embed_tokens.weight", "shared.weight", key=None),
        Copy("lm_head.weight", "shared.weight", key=None, kept=True),
    ),
)  # fmt: skip

# The encoder alone, of any of them: the scale that the first T5 has comes after the decoder.
T5_ENCODER = Arch(
    name="t5encoder",
    classes={"T5EncoderModel": replace(_T5, bare=True), "UMT5EncoderModel": replace(_UMT5, bare=True)},
    config=tuple(row for row in T5.config if getattr(row, "gguf", "") not in _OF_DECODER),
    rules=tuple(
        replace(rule, when=_FIRST | Is(_EVERY)) if rule.when is _FIRST else rule
        for rule in T5.rules[: 1 + len(_ENCODER)]
    ),
    fixed=_FIXED,
    implied=T5.implied,
    base="",
    layouts={_EVERY: "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"},
    refused={"UMT5ForConditionalGeneration": "llama.cpp leaves out the scale of its output"},
    extras=(Copy("encoder.embed_tokens.weight", "shared.weight", key=None),),
)
