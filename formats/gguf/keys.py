"""The well-known metadata keys, their types, and the short forms that people type.

Names and types are those of gguf-py's ``Keys`` and ``GGUFWriter`` (gguf 0.19), which the converters use; ids of
``general.file_type`` are ``llama_ftype`` in llama.h.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from ..errors import QuantmillError
from ..ir import Value, ValueType
from ..json_types import shown

GENERAL_ALIGNMENT = "general.alignment"
GENERAL_ARCHITECTURE = "general.architecture"
GENERAL_FILE_TYPE = "general.file_type"
GENERAL_QUANTIZATION_VERSION = "general.quantization_version"
QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION, ggml.h

# Level -> general.file_type. 4-6 and 33-35 were formats that have been removed.
FILE_TYPES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q2_K": 10,
    "Q3_K_S": 11,
    "Q3_K_M": 12,
    "Q3_K_L": 13,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "IQ2_XXS": 19,
    "IQ2_XS": 20,
    "Q2_K_S": 21,
    "IQ3_XS": 22,
    "IQ3_XXS": 23,
    "IQ1_S": 24,
    "IQ4_NL": 25,
    "IQ3_S": 26,
    "IQ3_M": 27,
    "IQ2_S": 28,
    "IQ2_M": 29,
    "IQ4_XS": 30,
    "IQ1_M": 31,
    "BF16": 32,
    "TQ1_0": 36,
    "TQ2_0": 37,
    "MXFP4": 38,  # quantmill's own level; llama.cpp has no number for dense files and guesses this one
    "MXFP4_MOE": 38,
    "NVFP4": 39,
    "Q1_0": 40,
    "Q2_0": 41,
}
LEVEL_OF_FILE_TYPE = {number: level for level, number in FILE_TYPES.items()}

# The keys of each type. "[]" marks arrays; a key of another type may also be an array with a value for each layer.
_KEYS = {
    "general.": {
        "STRING": "type architecture name author version organization finetune basename description quantized_by "
        "size_label license license.name license.link url doi uuid repo_url source.url source.doi source.uuid "
        "source.repo_url sampling.sequence",
        "UINT32": "alignment file_type quantization_version base_model.count dataset.count",
        "INT32": "sampling.top_k sampling.penalty_last_n sampling.mirostat",
        "FLOAT32": "sampling.top_p sampling.min_p sampling.xtc_probability sampling.xtc_threshold sampling.temp "
        "sampling.penalty_repeat sampling.mirostat_tau sampling.mirostat_eta",
        "STRING[]": "tags languages",
    },
    "tokenizer.": {
        "STRING": "ggml.model ggml.pre chat_template huggingface.json",
        "STRING[]": "ggml.tokens ggml.merges chat_templates",
        "INT32[]": "ggml.token_type ggml.suppress_tokens",
        "FLOAT32[]": "ggml.scores",
        "UINT8[]": "ggml.precompiled_charsmap",
        "UINT32": "ggml.token_type_count ggml.bos_token_id ggml.eos_token_id ggml.eot_token_id ggml.eom_token_id "
        "ggml.unknown_token_id ggml.seperator_token_id ggml.padding_token_id ggml.mask_token_id ggml.cls_token_id "
        "ggml.fim_pre_token_id ggml.fim_suf_token_id ggml.fim_mid_token_id ggml.fim_pad_token_id "
        "ggml.fim_rep_token_id ggml.fim_sep_token_id ggml.prefix_token_id ggml.suffix_token_id ggml.middle_token_id",
        "BOOL": "ggml.add_bos_token ggml.add_eos_token ggml.add_sep_token ggml.add_space_prefix "
        "ggml.remove_extra_whitespaces ggml.normalizer.lowercase ggml.normalizer.strip_accents",
    },
    "{arch}.": {
        "STRING": "tensor_data_layout hidden_activation rope.scaling.type",
        "UINT32": "vocab_size context_length embedding_length embedding_length_out features_length block_count "
        "dense_2_feat_in dense_2_feat_out dense_3_feat_in dense_3_feat_out "
        "leading_dense_block_count feed_forward_length expert_feed_forward_length expert_shared_feed_forward_length "
        "expert_chunk_feed_forward_length expert_count expert_used_count expert_shared_count expert_group_count "
        "expert_group_used_count expert_gating_func experts_per_group moe_every_n_layers nextn_predict_layers "
        "interleave_moe_layer_step full_attention_interval pooling_type classifier.pooling_type decoder_start_token_id "
        "n_deepstack_layers decoder_block_count embedding_length_per_layer_input altup.active_idx altup.num_inputs "
        "rescale_every_n_layers "
        "time_mix_extra_dim time_decay_extra_dim token_shift_count "
        "attention.head_count attention.head_count_kv attention.key_length attention.value_length "
        "attention.key_length_mla attention.value_length_mla attention.key_length_swa attention.value_length_swa "
        "attention.key_length_mla_swa attention.value_length_mla_swa attention.kv_lora_rank_swa "
        "attention.q_lora_rank attention.kv_lora_rank attention.group_norm_groups attention.relative_buckets_count "
        "attention.sliding_window attention.sliding_window_pattern attention.shared_kv_layers "
        "attention.temperature_length attention.indexer.head_count attention.indexer.key_length "
        "attention.indexer.top_k attention.indexer.block_size attention.indexer.local_blocks "
        "rope.dimension_count rope.dimension_count_swa "
        "rope.scaling.original_context_length ssm.conv_kernel ssm.inner_size ssm.state_size ssm.time_step_rank "
        "ssm.group_count "
        "hrm.layers_per_stack hrm.h_cycles hrm.l_cycles "
        "wkv.head_size shortconv.l_cache kda.head_dim hash_layer_count hyper_connection.count "
        "hyper_connection.sinkhorn_iterations hyper_connection.low_rank ple.ngram_size ple.heads_per_ngram "
        "ple.conv_kernel ple.eos_token_id ple.image_token_id attention.output_group_count attention.output_lora_rank "
        "attention.indexer.kpool moe_latent_size",
        "FLOAT32": "expert_weights_scale expert_group_scale logit_scale attn_logit_softcapping "
        "router_logit_softcapping final_logit_softcapping residual_scale embedding_scale attention.max_alibi_bias "
        "attention.clamp_kqv attention.layer_norm_epsilon attention.layer_norm_rms_epsilon "
        "attention.group_norm_epsilon attention.scale attention.output_scale attention.value_scale "
        "attention.temperature_scale rope.freq_base rope.freq_base_swa rope.scaling.factor rope.scaling.alpha "
        "rope.scaling.attn_factor rope.scaling.yarn_log_multiplier rope.scaling.yarn_ext_factor "
        "rope.scaling.yarn_attn_factor rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow "
        "attention.compress_rope_freq_base hyper_connection.epsilon hyper_connection.magnitude kda.gate_lower_bound",
        "BOOL": "use_parallel_residual expert_weights_norm swin_norm attention.causal rope.scaling.finetuned "
        "ssm.dt_b_c_rms hrm.prefix_lm kda.safe_gate attention.indexer.kpool_select_tail",
        "INT32[]": "rope.dimension_sections attention.compress_ratios ple.layers",
        "UINT64[]": "ple.layer_multipliers ple.head_offsets ple.head_vocab_sizes",
        "FLOAT32[]": "activation_sparsity_scale swiglu_clamp_exp swiglu_clamp_shexp",
        "BOOL[]": "attention.recurrent_layers attention.rope_pattern attention.indexer.types",
        "STRING[]": "classifier.output_labels",
    },
    "clip.": {
        "STRING": "projector_type vision.projector_type audio.projector_type",
        "UINT32": "vision.image_size vision.image_min_pixels vision.image_max_pixels vision.preproc_image_size "
        "vision.preproc_min_tiles vision.preproc_max_tiles vision.patch_size vision.embedding_length "
        "vision.feed_forward_length vision.projection_dim vision.block_count vision.spatial_merge_size "
        "vision.n_wa_pattern vision.window_size vision.attention.head_count vision.attention.head_count_kv "
        "vision.projector.scale_factor "
        "audio.num_mel_bins audio.embedding_length audio.feed_forward_length audio.projection_dim audio.block_count "
        "audio.attention.head_count audio.projector.stack_factor",
        "FLOAT32": "vision.attention.layer_norm_epsilon audio.attention.layer_norm_epsilon",
        "FLOAT32[]": "vision.image_mean vision.image_std",
        "BOOL": "has_vision_encoder has_audio_encoder use_gelu use_silu",
        "BOOL[]": "vision.is_deepstack_layers",
        "INT32[]": "vision.feature_layer",
    },
    "": {
        "STRING": "adapter.type adapter.lora.task_name adapter.lora.prompt_prefix",
        "FLOAT32": "adapter.lora.alpha",
        "UINT32": "imatrix.chunk_count imatrix.chunk_size",
        "STRING[]": "imatrix.datasets",
        "UINT16": "split.no split.count",
        "INT32": "split.tensors.count",
        "FLOAT32[]": "xielu.alpha_n xielu.alpha_p xielu.beta xielu.eps",
    },
}

ARCH, CLIP = "{arch}.", "clip."

KeyType = tuple[ValueType, ValueType | None]  # the type, and for arrays the type of their items


def parse_type(text: str) -> KeyType:
    """Parse a type such as ``uint32`` or ``uint32[]``, in upper or lower case; short names (u32, f32, str) work, too.

    Raises:
        QuantmillError: there is no such type.

    Example:
        >>> from quantmill.formats.gguf.keys import parse_type
        >>> parse_type("u32[]")
        (<ValueType.ARRAY: 9>, <ValueType.UINT32: 4>)
    """
    name = text.upper().removesuffix("[]")
    name = _SHORT_TYPES.get(name, name)
    if name not in ValueType.__members__ or name == "ARRAY":
        known = ", ".join(t.name.lower() for t in ValueType if t is not ValueType.ARRAY)
        raise QuantmillError(f"unknown metadata type {text!r}", hint=f"one of {known}; add [] for an array")
    scalar = ValueType[name]
    return (ValueType.ARRAY, scalar) if text.endswith("[]") else (scalar, None)


_SHORT_TYPES = {"U8": "UINT8", "I8": "INT8", "U16": "UINT16", "I16": "INT16", "U32": "UINT32", "I32": "INT32"} | {
    "U64": "UINT64", "I64": "INT64", "F32": "FLOAT32", "F64": "FLOAT64", "STR": "STRING", "INT": "INT32",
    "FLOAT": "FLOAT32", "DOUBLE": "FLOAT64",
}  # fmt: skip

KEY_TYPES: dict[str, KeyType] = {
    prefix + name: parse_type(type_name)
    for prefix, rows in _KEYS.items()
    for type_name, names in rows.items()
    for name in names.split()
}


def type_name(type: ValueType, item: ValueType | None = None) -> str:
    """The name of a type in messages: ``uint32``, ``string[]``."""
    return f"{item.name.lower()}[]" if type is ValueType.ARRAY and item is not None else type.name.lower()


def key_type(key: str) -> KeyType | None:
    """The type of a well-known key, given in full (``llama.context_length``) or without the architecture; else None."""
    for known in (key, ARCH + key, ARCH + key.partition(".")[2], CLIP + key):
        if known in KEY_TYPES:
            return KEY_TYPES[known]
    if key.startswith("tokenizer.chat_template."):
        return ValueType.STRING, None
    if key.startswith(("general.base_model.", "general.dataset.")):
        return ValueType.STRING, None
    return (ValueType.UINT32, None) if is_token_id(key) else None


def typed(key: str, data: Any) -> Value:
    """Make a metadata value of the type that llama.cpp's converters give its key.

    Args:
        key: a full key, or the part after ``{arch}.``.
        data: a bool, number, str, bytes, or a sequence of them. For an unknown key, and for a sequence given for a key
            of one value (``head_count`` with a value for each layer), the type is inferred as gguf-py infers it.

    Raises:
        QuantmillError: the value does not fit the type, or no type can be inferred.

    Example:
        >>> from quantmill.formats.gguf.keys import typed
        >>> typed("llama.context_length", 4096)
        Value(type=<ValueType.UINT32: 4>, data=4096, item=None)
    """
    row = key_type(key)
    sequence = isinstance(data, (list, tuple, np.ndarray, bytes))
    if row is None or (sequence and row[0] is not ValueType.ARRAY):
        row = (ValueType.ARRAY, _infer(key, data)) if sequence else (_infer(key, data), None)
    return make_value(row, data, key)


def make_value(type: KeyType, data: Any, where: str) -> Value:
    """Check data and make it a ``Value`` of a type; ``where`` names it in errors."""
    kind, item = type
    if kind is not ValueType.ARRAY:
        return Value(kind, _scalar(kind, data, where))
    assert item is not None
    items = list(data) if isinstance(data, (list, tuple, bytes)) else data.tolist() if hasattr(data, "tolist") else None
    if items is None:
        raise QuantmillError(f"expected an array of {item.name.lower()}, not {shown(data)}", where=where)
    checked = [_scalar(item, one, f"{where}[{i}]") for i, one in enumerate(items)]
    if item is ValueType.STRING:
        return Value(kind, tuple(text for text in checked if isinstance(text, str)), item)
    return Value(kind, np.array(checked, NUMPY_TYPES[item]), item)


NUMPY_TYPES: dict[ValueType, np.dtype[Any]] = {
    ValueType.UINT8: np.dtype("u1"),
    ValueType.INT8: np.dtype("i1"),
    ValueType.UINT16: np.dtype("<u2"),
    ValueType.INT16: np.dtype("<i2"),
    ValueType.UINT32: np.dtype("<u4"),
    ValueType.INT32: np.dtype("<i4"),
    ValueType.FLOAT32: np.dtype("<f4"),
    ValueType.BOOL: np.dtype("?"),
    ValueType.UINT64: np.dtype("<u8"),
    ValueType.INT64: np.dtype("<i8"),
    ValueType.FLOAT64: np.dtype("<f8"),
}


def _scalar(type: ValueType, data: Any, where: str) -> bool | int | float | str:
    def wrong() -> QuantmillError:
        return QuantmillError(f"{shown(data)} is not a valid {type.name.lower()}", where=where)

    if type is ValueType.STRING:
        if not isinstance(data, str):
            raise wrong()
        return data
    if type is ValueType.BOOL:
        if not isinstance(data, (bool, np.bool_)):
            raise wrong()
        return bool(data)
    if isinstance(data, (bool, np.bool_)) or not isinstance(data, (int, float, np.number)):
        raise wrong()
    if isinstance(data, int) and abs(data) >= 1 << 128:  # no type holds it, and float() and NumPy overflow
        raise wrong()
    if type in (ValueType.FLOAT32, ValueType.FLOAT64):
        number = float(data)
        if type is ValueType.FLOAT32 and np.isfinite(number) and abs(number) > float(np.finfo(np.float32).max):
            raise wrong()
        return number
    if not math.isfinite(data) or int(data) != data:
        raise wrong()
    limits = np.iinfo(NUMPY_TYPES[type])
    if not limits.min <= data <= limits.max:
        raise QuantmillError(f"{data} is outside {type.name.lower()}: {limits.min} to {limits.max}", where=where)
    return int(data)


def _infer(key: str, data: Any) -> ValueType:
    """Infer a type as gguf-py's ``GGUFValueType.get_type`` does."""
    first = data
    if isinstance(data, bytes):
        return ValueType.UINT8
    if isinstance(data, (list, tuple, np.ndarray)):
        if len(data) == 0:
            raise QuantmillError("an empty array has no type", where=key)
        first = data[0]
    for types, inferred in (
        ((bool, np.bool_), ValueType.BOOL),
        ((int, np.integer), ValueType.INT32),
        ((float, np.floating), ValueType.FLOAT32),
        ((str,), ValueType.STRING),
    ):
        if isinstance(first, types):
            return inferred
    raise QuantmillError(f"no metadata type fits {shown(first)}", where=key)


# Hugging Face's names for keys that GGUF names otherwise ("seperator" is how GGUF spells it).
_ALIASES = {
    "unk_token_id": "tokenizer.ggml.unknown_token_id",
    "sep_token_id": "tokenizer.ggml.seperator_token_id",
    "separator_token_id": "tokenizer.ggml.seperator_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
    "rope_theta": "{arch}.rope.freq_base",
    "rms_norm_eps": "{arch}.attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "{arch}.context_length",
    "n_ctx": "{arch}.context_length",
}
_NAMESPACES = ("general.", "tokenizer.ggml.", "tokenizer.", ARCH, ARCH + "attention.", ARCH + "rope.")


def expand_key(short: str, arch: str, present: Container[str] = ()) -> str:
    """Expand a short form to the full key: ``eos_token_id`` to ``tokenizer.ggml.eos_token_id``.

    Args:
        short: a full key, or a short form.
        arch: the file's architecture.
        present: the file's keys. One of them is preferred, then a well-known key; anything else is returned as it is.

    Example:
        >>> from quantmill.formats.gguf.keys import expand_key
        >>> expand_key("context_length", "llama")
        'llama.context_length'
    """
    candidates = [short, *(ns + short for ns in _NAMESPACES)]
    if short in _ALIASES:
        candidates.append(_ALIASES[short])
    named = [(key, key.replace(ARCH, f"{arch}.")) for key in candidates]
    for _, key in named:
        if key in present:
            return key
    for pattern, key in named:
        if pattern in KEY_TYPES:
            return key
    return short


def nearest_keys(key: str, present: Sequence[str]) -> list[str]:
    """Up to three keys of the file that are similar to ``key``, as a whole or in their last word."""
    tails = {name.rpartition(".")[2]: name for name in present}
    near = get_close_matches(key, present, n=3, cutoff=0.6)
    near += [tails[tail] for tail in get_close_matches(key.rpartition(".")[2], tails, n=3, cutoff=0.7)]
    return list(dict.fromkeys(near))[:3]


def is_token_id(key: str) -> bool:
    """Whether the key holds the id of a token."""
    return key.startswith("tokenizer.ggml.") and key.endswith("_token_id")
