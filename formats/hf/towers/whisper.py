"""Encoders of sound in the way of Whisper's: Qwen2-Audio, Audio Flamingo 3, Qwen3-ASR.

Sources: their configs and models in transformers 5.23; conversion/ultravox.py of llama.cpp, which rounds Qwen2-Audio's
convolutions to F16 in every file; ours has them in F32 where all is, which llama.cpp takes as well. llama.cpp hears 30
seconds, as Whisper does, and what follows the end of a shorter sound is silence that its encoder hears, too.
"""

from __future__ import annotations

from ..tables.dimensions import ALWAYS, EMBD, FF, Condition, Dim, Equal
from ..tables.ops import Op, Reshape
from ..tables.rows import Constant, Key
from ..tables.rules import HFClass, Rule
from ..tables.tower import OUTER, Tower
from ..tables.tower_ops import BeforeWaves
from .shared import SOUND_HEADER, TEXT_WIDTH, linear, norm

_AT, _PROJECTOR = "audio_tower.", "multi_modal_projector."
_LAYER, _BLOCK = _AT + "layers.{layer}.", "a.blk.{layer}."
_BINS = Dim("num_mel_bins")

_KEYS = (
    *SOUND_HEADER,
    Key("hidden_size", "audio.embedding_length"),
    Key("intermediate_size", "audio.feed_forward_length"),
    Key("num_hidden_layers", "audio.block_count"),
    Key("num_attention_heads", "audio.attention.head_count"),
    Key("num_mel_bins", "audio.num_mel_bins"),
    Constant("audio.attention.layer_norm_epsilon", 1e-5),
)
_NAMES = {
    "d_model": "hidden_size", "encoder_ffn_dim": "intermediate_size", "encoder_layers": "num_hidden_layers",
    "encoder_attention_heads": "num_attention_heads",
}  # fmt: skip
_DEFAULTS = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "num_mel_bins": 128, "max_source_positions": 1500, "activation_function": "gelu", "scale_embedding": False,
}  # fmt: skip
_FIXED = {"max_source_positions": 1500, "activation_function": "gelu", "scale_embedding": False}
_COLUMN: tuple[Op, ...] = (Reshape((EMBD,), (EMBD, Dim(1))),)


def _convolution(number: int, channels: Dim) -> tuple[Rule, ...]:
    """The rules of a convolution, whose bias stands as a column."""
    hf, gguf = f"{_AT}conv{number}", f"a.conv1d.{number}"
    return (
        Rule(hf + ".bias", gguf + ".bias", (EMBD,), _COLUMN, tensor=True, part=""),
        Rule(hf, gguf, (EMBD, channels, Dim(3))),
    )


def _encoder_layer(at: str, key_bias: Condition | None = None) -> tuple[Rule, ...]:
    """The rules of a block, whose names begin with ``at``."""
    return (
        linear(at + "fc1", _BLOCK + "ffn_up", FF, EMBD),
        linear(at + "fc2", _BLOCK + "ffn_down", EMBD, FF),
        norm(at + "final_layer_norm", _BLOCK + "ln2"),
        linear(at + "self_attn.k_proj", _BLOCK + "attn_k", EMBD, EMBD, bias=key_bias),
        linear(at + "self_attn.out_proj", _BLOCK + "attn_out", EMBD, EMBD),
        linear(at + "self_attn.q_proj", _BLOCK + "attn_q", EMBD, EMBD),
        linear(at + "self_attn.v_proj", _BLOCK + "attn_v", EMBD, EMBD),
        norm(at + "self_attn_layer_norm", _BLOCK + "ln1"),
    )


_ENCODER = (
    *_convolution(1, _BINS),
    *_convolution(2, EMBD),
    Rule(_AT + "embed_positions", "a.position_embd", (Dim("max_source_positions"), EMBD)),
    norm(_AT + "layer_norm", "a.post_ln"),
    *_encoder_layer(_LAYER),
)
_ROOTS = {"model.audio_tower.": _AT, "model.multi_modal_projector.": _PROJECTOR}
_TEXT = {"model.": "language_model.model.", "lm_head.": "language_model.lm_head."}
_OWNS = ("*audio_tower.*", "*multi_modal_projector.*")

QWEN2_AUDIO = Tower(
    name="qwen2a",
    modality="audio",
    at="audio_config",
    processor="feature_extractor",
    classes={
        "Qwen2AudioForConditionalGeneration": HFClass("qwen2_audio_encoder", _DEFAULTS, _NAMES, wraps="qwen2_audio")
    },
    config=_KEYS,
    rules=(*_ENCODER, linear(_PROJECTOR + "linear", "mm.a.fc", TEXT_WIDTH, EMBD)),
    fixed=_FIXED,
    roots=_ROOTS,
    text=_TEXT,
    owns=_OWNS,
)

AUDIO_FLAMINGO3 = Tower(
    name="musicflamingo",
    modality="audio",
    at="audio_config",
    processor="feature_extractor",
    classes={
        "AudioFlamingo3ForConditionalGeneration": HFClass(
            "audioflamingo3_encoder",
            _DEFAULTS | {f"{OUTER}.projector_bias": True, f"{OUTER}.projector_hidden_act": "gelu"},
            wraps="audioflamingo3",
        )
    },
    config=_KEYS,
    rules=(
        *_ENCODER,
        linear(_PROJECTOR + "linear_1", "mm.a.mlp.1", TEXT_WIDTH, EMBD),
        linear(_PROJECTOR + "linear_2", "mm.a.mlp.2", TEXT_WIDTH, TEXT_WIDTH),
    ),
    fixed=_FIXED | {f"{OUTER}.projector_bias": True, f"{OUTER}.projector_hidden_act": "gelu"},
    roots=_ROOTS,
    text=_TEXT,
    owns=_OWNS,
)

_HEARS = "model.audio_tower."
_HEARS_LAYER = _HEARS + "layers.{layer}."
_WAVES = BeforeWaves(1500, EMBD)
_DOWN = Dim("downsample_hidden_size")


def _image_convolution(number: int, channels: Dim) -> tuple[Rule, ...]:
    """The rules of a convolution over frames and bins; beside the first stand the positions, which HF computes."""
    hf, gguf = f"{_HEARS}conv2d{number}", f"a.conv2d.{number}"
    bias, pillar = f"{gguf}.bias", Reshape((_DOWN,), (_DOWN, 1, 1))
    targets, ops = (bias, (pillar,)) if number > 1 else (("a.position_embd.weight", bias), (pillar, _WAVES))
    return (
        Rule(hf + ".bias", targets, (_DOWN,), ops, tensor=True, part=""),
        Rule(hf, gguf, (_DOWN, channels, Dim(3), Dim(3))),
    )


QWEN3_AUDIO = Tower(
    name="qwen3a",
    projector_key="clip.audio.projector_type",
    modality="audio",
    at="audio_config",
    processor="feature_extractor",
    also=("qwen3_asr_audio_encoder",),
    classes={
        "Qwen3ASRForConditionalGeneration": HFClass(
            "qwen3_asr_encoder",
            {key: value for key, value in _DEFAULTS.items() if key != "max_source_positions"}
            | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
            | {"n_window": 50, "n_window_infer": 800, "output_dim": 3584, "downsample_hidden_size": 480},
            _NAMES,
            wraps="qwen3_asr",
        )
    },
    config=_KEYS,
    rules=(
        *_image_convolution(1, Dim(1)),
        *_image_convolution(2, _DOWN),
        *_image_convolution(3, _DOWN),
        linear(_HEARS + "conv_out", "a.conv_out", EMBD, _DOWN * ((_BINS + 7) // 8), bias=None),
        *_encoder_layer(_HEARS_LAYER, key_bias=ALWAYS),
        norm(_HEARS + "ln_post", "a.post_ln"),
        linear("model.multi_modal_projector.linear_1", "mm.a.mlp.1", EMBD, EMBD),
        linear("model.multi_modal_projector.linear_2", "mm.a.mlp.2", Dim("output_dim"), EMBD),
    ),
    # llama.cpp takes windows of 100 frames, and attends within 800, whatever a config says
    fixed={"activation_function": "gelu", "scale_embedding": False, "n_window": 50, "n_window_infer": 800},
    needs={"output_dim": Equal(Dim("output_dim"), TEXT_WIDTH)},
    roots={
        "thinker.audio_tower.proj1.": "model.multi_modal_projector.linear_1.",
        "thinker.audio_tower.proj2.": "model.multi_modal_projector.linear_2.",
        "thinker.audio_tower.": _HEARS,
    },
    owns=("*audio_tower.*", "*multi_modal_projector.*"),
)
