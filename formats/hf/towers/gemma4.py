"""Gemma 4's towers, and those of Gemma 4 Unified, which are projectors alone.

Sources: the configs and models of both in transformers 5.23; conversion/gemma.py of llama.cpp, which
names no activation, so that llama.cpp computes quick-GELU with its files; ours name that of the model, GELU by tanh.
"""

from __future__ import annotations

from ..tables.dimensions import ALWAYS, EMBD, FF, HEAD_DIM, HEADS, Condition, Dim, Equal, Is
from ..tables.ops import Regroup, RegroupColumns, Reshape
from ..tables.rows import Computed, Constant, Key
from ..tables.rules import HFClass, Rule
from ..tables.tower import PROCESSOR, Tower
from ..tables.values import Softplus
from .shared import BLOCK, COLOURS, ENCODER, GELU, HEADER, PATCH, SOUND_HEADER, TEXT_WIDTH, norm

_AT, _EMBED = "model.vision_tower.", "model.embed_vision."
_LAYER = _AT + "encoder.layers.{layer}."
_PIXELS = PATCH * PATCH


def _vector(hf: str, gguf: str, shape: tuple[Dim, ...], when: Condition) -> Rule:
    """The rule of a tensor that is called the same in GGUF, without ``weight``; a scalar is a vector of one there."""
    ops = () if shape else (Reshape((), (1,)),)
    return Rule(hf, gguf, shape, ops, when=when, tensor=True, part="")


def _clipped(hf: str, gguf: str, rows: Dim, columns: Dim) -> tuple[Rule, ...]:
    """The rules of a linear layer with bounds of what comes in and of what goes out."""
    before, after = (
        tuple(_vector(f"{hf}.{end}", f"{gguf}.{end}", (), Is("use_clipped_linears")) for end in ends)
        for ends in (("input_max", "input_min"), ("output_max", "output_min"))
    )
    return (*before, Rule(hf + ".linear", gguf, (rows, columns)), *after)


def _norm(hf: str, gguf: str, width: Dim = EMBD) -> Rule:
    return norm(hf, gguf, width, bias=None)


def _axial(kind: str) -> Condition:
    return Is("rope_parameters", {"rope_theta": 100.0, "rope_type": kind})


_AS_THEY_ARE = {f"{PROCESSOR}.image_mean": [0.0] * 3, f"{PROCESSOR}.image_std": [1.0] * 3}
# llama.cpp scales an image by its number of tokens: the size that stands here limits nothing.
_SIZE = (Constant("vision.image_size", 224), Key("patch_size", "vision.patch_size"))
_EPS = "attention.layer_norm_epsilon"

GEMMA4_VISION = Tower(
    name="gemma4v",
    projector_key="clip.vision.projector_type",
    classes={
        "Gemma4ForConditionalGeneration": HFClass(
            "gemma4_vision",
            {
                "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16, "num_attention_heads": 12,
                "num_key_value_heads": 12, "head_dim": 64, "hidden_activation": "gelu_pytorch_tanh",
                "rms_norm_eps": 1e-6, "attention_bias": False, "pooling_kernel_size": 3, "patch_size": 16,
                "position_embedding_size": 10240, "use_clipped_linears": False, "standardize": False,
            },
            wraps="gemma4",
        )
    },
    config=(
        *HEADER,
        *_SIZE,
        *ENCODER,
        *COLOURS,
        GELU,
        Key("rms_norm_eps", f"vision.{_EPS}"),
    ),
    rules=(
        Rule(_EMBED + "embedding_projection", "mm.input_projection", (TEXT_WIDTH, EMBD)),
        _norm(_LAYER + "input_layernorm", BLOCK + "ln1"),
        *_clipped(_LAYER + "mlp.down_proj", BLOCK + "ffn_down", EMBD, FF),
        *_clipped(_LAYER + "mlp.gate_proj", BLOCK + "ffn_gate", FF, EMBD),
        *_clipped(_LAYER + "mlp.up_proj", BLOCK + "ffn_up", FF, EMBD),
        _norm(_LAYER + "post_attention_layernorm", BLOCK + "attn_post_norm"),
        _norm(_LAYER + "post_feedforward_layernorm", BLOCK + "ffn_post_norm"),
        _norm(_LAYER + "pre_feedforward_layernorm", BLOCK + "ln2"),
        _norm(_LAYER + "self_attn.k_norm", BLOCK + "attn_k_norm", HEAD_DIM),
        *_clipped(_LAYER + "self_attn.k_proj", BLOCK + "attn_k", EMBD, EMBD),
        *_clipped(_LAYER + "self_attn.o_proj", BLOCK + "attn_out", EMBD, EMBD),
        _norm(_LAYER + "self_attn.q_norm", BLOCK + "attn_q_norm", HEAD_DIM),
        *_clipped(_LAYER + "self_attn.q_proj", BLOCK + "attn_q", EMBD, EMBD),
        *_clipped(_LAYER + "self_attn.v_proj", BLOCK + "attn_v", EMBD, EMBD),
        Rule(
            _AT + "patch_embedder.input_proj",
            "v.patch_embd",
            (EMBD, 3 * _PIXELS),
            # a patch's pixels, each with its colours, become colours, each with its pixels
            (
                RegroupColumns((_PIXELS, 3), (1, 0)),
                Reshape((EMBD, 3 * _PIXELS), (EMBD, Dim(3), PATCH, PATCH)),
            ),
        ),
        Rule(
            _AT + "patch_embedder.position_embedding_table",
            "v.position_embd.weight",
            (Dim(2), Dim("position_embedding_size"), EMBD),
            tensor=True,
            part="",
        ),
        _vector(_AT + "std_bias", "v.std_bias", (EMBD,), Is("standardize")),
        _vector(_AT + "std_scale", "v.std_scale", (EMBD,), Is("standardize")),
    ),
    fixed={
        "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "pooling_kernel_size": 3,
        # llama.cpp does as the model does: pixels of -1 to 1, whatever a processor says
        **_AS_THEY_ARE,
    },
    needs={
        "rope_parameters": ~Is("rope_parameters") | _axial("axial") | _axial("default"),
        "head_dim": Equal(HEAD_DIM, EMBD // HEADS),
        "num_key_value_heads": Equal(Dim("num_key_value_heads"), HEADS),
    },
    implied={"num_key_value_heads": HEADS, "head_dim": EMBD // HEADS},
    owns=("*vision_tower.*", "*embed_vision.*"),
)  # fmt: skip

_SOUND = "model.audio_tower."
_HEARS = _SOUND + "layers.{layer}."
_EAR = "a.blk.{layer}."
_CHANNELS = (Dim(128), Dim(32))
_MEL = Constant("audio.num_mel_bins", 128)


def _feed_forward(number: int, end: str) -> tuple[Rule, ...]:
    at = f"{_HEARS}feed_forward{number}."
    return (
        *_clipped(at + "ffw_layer_1", f"{_EAR}ffn_up{end}", 4 * EMBD, EMBD),
        *_clipped(at + "ffw_layer_2", f"{_EAR}ffn_down{end}", EMBD, 4 * EMBD),
        _norm(at + "post_layer_norm", f"{_EAR}ffn_post_norm{end}"),
        _norm(at + "pre_layer_norm", f"{_EAR}ffn_norm{end}"),
    )


def _convolution(number: int, channels: Dim) -> tuple[Rule, ...]:
    at = f"{_SOUND}subsample_conv_projection.layer{number}."
    return (
        Rule(at + "conv", f"a.conv1d.{number}", (_CHANNELS[number], channels, Dim(3), Dim(3))),
        _norm(at + "norm", f"a.conv1d.{number}.norm", _CHANNELS[number]),
    )


GEMMA4_AUDIO = Tower(
    name="gemma4a",
    projector_key="clip.audio.projector_type",
    modality="audio",
    at="audio_config",
    processor="feature_extractor",
    classes={
        "Gemma4ForConditionalGeneration": HFClass(
            "gemma4_audio",
            {
                "hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 8, "hidden_act": "silu",
                "subsampling_conv_channels": [128, 32], "conv_kernel_size": 5, "residual_weight": 0.5,
                "attention_chunk_size": 12, "attention_context_left": 13, "attention_context_right": 0,
                "attention_logit_cap": 50.0, "use_clipped_linears": True, "rms_norm_eps": 1e-6,
                "gradient_clipping": 1e10, "output_proj_dims": 1536,
            },
            wraps="gemma4",
        )
    },
    config=(
        *SOUND_HEADER,
        Key("hidden_size", "audio.embedding_length"),
        Computed("audio.feed_forward_length", 4 * EMBD),
        Key("num_hidden_layers", "audio.block_count"),
        Key("num_attention_heads", "audio.attention.head_count"),
        _MEL,
        Key("rms_norm_eps", f"audio.{_EPS}"),
    ),
    rules=(
        *_feed_forward(1, ""),
        *_feed_forward(2, "_1"),
        _norm(_HEARS + "lconv1d.conv_norm", _EAR + "norm_conv"),
        Rule(
            _HEARS + "lconv1d.depthwise_conv1d",
            _EAR + "conv_dw",
            (EMBD, Dim(1), Dim("conv_kernel_size")),
            (Reshape((EMBD, Dim(1), Dim("conv_kernel_size")), (EMBD, Dim("conv_kernel_size"))),),
        ),
        *_clipped(_HEARS + "lconv1d.linear_end", _EAR + "conv_pw2", EMBD, EMBD),
        *_clipped(_HEARS + "lconv1d.linear_start", _EAR + "conv_pw1", 2 * EMBD, EMBD),
        _norm(_HEARS + "lconv1d.pre_layer_norm", _EAR + "conv_norm"),
        _norm(_HEARS + "norm_out", _EAR + "ln2"),
        _norm(_HEARS + "norm_post_attn", _EAR + "attn_post_norm"),
        _norm(_HEARS + "norm_pre_attn", _EAR + "attn_pre_norm"),
        *_clipped(_HEARS + "self_attn.k_proj", _EAR + "attn_k", EMBD, EMBD),
        Rule(
            _HEARS + "self_attn.per_dim_scale",
            _EAR + "per_dim_scale.weight",
            (EMBD // HEADS,),
            (Softplus(),),
            tensor=True,
            part="",
        ),
        *_clipped(_HEARS + "self_attn.post", _EAR + "attn_out", EMBD, EMBD),
        *_clipped(_HEARS + "self_attn.q_proj", _EAR + "attn_q", EMBD, EMBD),
        Rule(_HEARS + "self_attn.relative_k_proj", _EAR + "attn_k_rel", (EMBD, EMBD)),
        *_clipped(_HEARS + "self_attn.v_proj", _EAR + "attn_v", EMBD, EMBD),
        Rule(_SOUND + "output_proj", "a.pre_encode.out", (Dim("output_proj_dims"), EMBD), bias=ALWAYS),
        Rule(_SOUND + "subsample_conv_projection.input_proj_linear", "a.input_projection", (EMBD, Dim(1024))),
        *_convolution(0, Dim(1)),
        *_convolution(1, _CHANNELS[0]),
        Rule(
            "model.embed_audio.embedding_projection", "mm.a.input_projection", (TEXT_WIDTH, Dim("output_proj_dims"))
        ),
    ),
    fixed={
        "hidden_act": "silu", "subsampling_conv_channels": [128, 32], "residual_weight": 0.5,
        "attention_chunk_size": 12, "attention_context_left": 13, "attention_context_right": 0,
        "attention_logit_cap": 50.0, "gradient_clipping": 1e10,
    },
    owns=("*audio_tower.*", "*embed_audio.*"),
)  # fmt: skip

_EMBEDDER = "model.vision_embedder."
_POSITIONS = Dim("mm_posemb_size")
_ALL_PIXELS = 9 * _PIXELS  # of the patches that are joined to one


def _nothing(what: str) -> tuple[Constant, ...]:
    """The sizes of an encoder that is none."""
    return tuple(Constant(f"{what}.{key}", 0) for key in ("feed_forward_length", "block_count", "attention.head_count"))


GEMMA4_UNIFIED_VISION = Tower(
    name="gemma4uv",
    projector_key="clip.vision.projector_type",
    classes={
        "Gemma4UnifiedForConditionalGeneration": HFClass(
            "gemma4_unified_vision",
            {
                "hidden_size": 3840, "output_proj_dims": 3840, "mm_posemb_size": 1120, "patch_size": 16,
                "pooling_kernel_size": 3, "rms_norm_eps": 1e-6,
            },
            {"mm_embed_dim": "hidden_size"},
            wraps="gemma4_unified",
        )
    },
    config=(
        *HEADER,
        *_SIZE,
        Key("hidden_size", "vision.embedding_length"),
        *_nothing("vision"),
        *COLOURS,
        Key("rms_norm_eps", f"vision.{_EPS}"),
    ),
    rules=(
        Rule(_EMBED + "embedding_projection", "mm.input_projection", (TEXT_WIDTH, EMBD)),
        _vector(_EMBEDDER + "patch_dense.bias", "v.patch_embd.bias", (EMBD,), ALWAYS),
        # as in Gemma 4, colours come to stand around pixels
        Rule(_EMBEDDER + "patch_dense", "v.patch_embd", (EMBD, 3 * _ALL_PIXELS), (RegroupColumns((-1, 3), (1, 0)),)),
        Rule(
            _EMBEDDER + "patch_ln1", "v.patch_norm.1", (3 * _ALL_PIXELS,), (Regroup((_ALL_PIXELS, 3), (1, 0)),),
            bias=ALWAYS,
        ),
        norm(_EMBEDDER + "patch_ln2", "v.patch_norm.2"),
        Rule(
            _EMBEDDER + "pos_embedding",
            "v.position_embd.weight",
            (_POSITIONS, Dim(2), EMBD),
            (
                Reshape((_POSITIONS, Dim(2), EMBD), (2 * _POSITIONS, EMBD)),
                Regroup((_POSITIONS, 2), (1, 0)),
                Reshape((2 * _POSITIONS, EMBD), (Dim(2), _POSITIONS, EMBD)),
            ),
            tensor=True,
            part="",
        ),
        norm(_EMBEDDER + "pos_norm", "v.patch_norm.3"),
    ),
    fixed={"pooling_kernel_size": 3, **_AS_THEY_ARE},
    needs={"output_proj_dims": Equal(Dim("output_proj_dims"), EMBD)},
    implied={"output_proj_dims": EMBD},
    owns=("*embed_vision.*", "*vision_embedder.*"),
)  # fmt: skip

GEMMA4_UNIFIED_AUDIO = Tower(
    name="gemma4ua",
    projector_key="clip.audio.projector_type",
    modality="audio",
    at="audio_config",
    processor="feature_extractor",
    classes={
        "Gemma4UnifiedForConditionalGeneration": HFClass(
            "gemma4_unified_audio",
            {"hidden_size": 640, "rms_norm_eps": 1e-6},
            {"audio_embed_dim": "hidden_size"},
            wraps="gemma4_unified",
        )
    },
    config=(
        *SOUND_HEADER,
        Key("hidden_size", "audio.embedding_length"),
        *_nothing("audio"),
        _MEL,
        Key("rms_norm_eps", f"audio.{_EPS}"),
    ),
    rules=(Rule("model.embed_audio.embedding_projection", "mm.a.input_projection", (TEXT_WIDTH, EMBD)),),
    fixed={"hidden_size": 640},  # llama.cpp makes a token of 640 samples
    owns=("*embed_audio.*",),
)
