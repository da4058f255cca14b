"""The text models of Qwen2-VL, 2.5-VL and 3-VL, Qwen2.5-Omni and 3-Omni, and Qwen3-ASR.

Sources: their config classes in transformers 5.23; conversion/qwenvl.py and qwen3vl.py of llama.cpp. transformers has
no class of these text models with a head: the way back writes the class around them, without its towers. llama.cpp's
qwen2vl has 1e-6 in its norms whatever a file says, and its qwen3vl leaves the last two pairs of a head unturned, which
in Qwen3-VL turn by 0.1 over the whole context.
"""

from __future__ import annotations

from dataclasses import replace

from ..tables.dimensions import ALWAYS, EMBD, EXPERT_FF, EXPERTS, Equal, Is
from ..tables.extras import LeftOut
from ..tables.ops import Transpose
from ..tables.rows import Constant, Key, Rope
from ..tables.rules import LANGUAGE_MODEL, Arch, HFClass, Shaped
from ..tables.wrapper_rows import Deepstack
from .qwen import NAMES
from .shared import (
    ATTN_NORM,
    AUDIO,
    EMBEDDING,
    EPS_KEY,
    EXPERT_KEYS,
    FFN_NORM,
    FINAL_NORM,
    FUSED_EXPERTS,
    HEAD,
    HEAD_DIM_KEYS,
    PROJECTOR,
    SIZE_KEYS,
    TEXT_ROOTS,
    THINKER,
    THINKER_ROOTS,
    VISUAL,
    attention,
    experts_of_either_layout,
    gated_mlp,
    qk_norm,
)

_ROOTS = TEXT_ROOTS | THINKER_ROOTS
_FIXED = {"hidden_act": "silu"}
_NO_WINDOW = {"use_sliding_window": (False, None)}

_QWEN2_VL = HFClass(
    "qwen2_vl_text",
    {
        "vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "rope_theta": 1e6, "bos_token_id": 151643, "eos_token_id": 151645,
    },
    wraps="qwen2_vl",
)  # fmt: skip
_OMNI = replace(
    _QWEN2_VL,
    model_type="qwen2_5_omni_text",
    defaults={key: value for key, value in _QWEN2_VL.defaults.items() if "token_id" not in key}
    | {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "rms_norm_eps": 1e-6},
    wraps="qwen2_5_omni_thinker",
)
_THINKER2 = "Qwen2_5OmniThinkerForConditionalGeneration"

QWEN2VL = Arch(
    name="qwen2vl",
    classes={
        "Qwen2VLForConditionalGeneration": _QWEN2_VL,
        "Qwen2_5_VLForConditionalGeneration": replace(_QWEN2_VL, model_type="qwen2_5_vl_text", wraps="qwen2_5_vl"),
        _THINKER2: _OMNI,
        "Qwen2_5OmniForConditionalGeneration": replace(_OMNI, text_of=_THINKER2),
        "Qwen2_5OmniModel": replace(_OMNI, text_of=_THINKER2),  # as it is published
    },
    config=(*SIZE_KEYS, Rope(sections=(16, 24, 24), interleaved=False), EPS_KEY),
    rules=(EMBEDDING, ATTN_NORM, *attention(bias=ALWAYS), FFN_NORM, *gated_mlp(), FINAL_NORM, HEAD),
    fixed=_FIXED | _NO_WINDOW | {"rms_norm_eps": 1e-6},
    roots=_ROOTS,
    extras=(*VISUAL, *AUDIO, *THINKER),
)

_QWEN3_VL = HFClass(
    "qwen3_vl_text",
    {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "hidden_act": "silu",
        "max_position_embeddings": 128000, "rms_norm_eps": 1e-6, "rope_theta": 5e5, "attention_bias": False,
    },
    wraps="qwen3_vl",
    root=LANGUAGE_MODEL,
)  # fmt: skip
_QWEN3_ASR = replace(
    _QWEN3_VL,
    model_type="qwen3",
    defaults={key: value for key, value in _QWEN3_VL.defaults.items() if key != "rope_theta"}
    | {"max_position_embeddings": 32768, "tie_word_embeddings": False},
    wraps="qwen3_asr",
    ties=True,
)
_ROPE = Rope(sections=(24, 20, 20))
_DEEP = Deepstack((8, 16, 24))
_NO_DEEP = Constant("n_deepstack_layers", 0)
_DENSE_KEYS = (*SIZE_KEYS, _ROPE, EPS_KEY, *HEAD_DIM_KEYS)

QWEN3VL = Arch(
    name="qwen3vl",
    classes={"Qwen3VLForConditionalGeneration": _QWEN3_VL},
    config=(*_DENSE_KEYS, _DEEP),
    rules=(EMBEDDING, ATTN_NORM, *attention(), *qk_norm(), FFN_NORM, *gated_mlp(), FINAL_NORM, HEAD),
    fixed=_FIXED | {"attention_bias": False},
    roots=TEXT_ROOTS,
    extras=VISUAL,
)
QWEN3ASR = replace(
    QWEN3VL,
    name="qwen3asr",
    gguf_name="qwen3vl",
    classes={"Qwen3ASRForConditionalGeneration": _QWEN3_ASR},
    config=(*_DENSE_KEYS, _NO_DEEP),
    fixed={**QWEN3VL.fixed, **_NO_WINDOW},
    roots=_ROOTS,
    extras=(*AUDIO, *PROJECTOR, LeftOut("thinker.audio_*", "audio tower")),
)

_QWEN3_VL_MOE = HFClass(
    "qwen3_vl_moe_text",
    {
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 128000, "rms_norm_eps": 1e-6,
        "hidden_act": "silu", "rope_theta": 5e5, "attention_bias": False, "decoder_sparse_step": 1,
        "moe_intermediate_size": 1408, "num_experts_per_tok": 4, "num_local_experts": 60, "output_router_logits": False,
        "router_aux_loss_coef": 0.001, "mlp_only_layers": None, "tie_word_embeddings": True,
    },
    NAMES,
    wraps="qwen3_vl_moe",
    root=LANGUAGE_MODEL,
)  # fmt: skip
_QWEN3_OMNI = HFClass(
    "qwen3_omni_moe_text",
    {key: value for key, value in _QWEN3_VL_MOE.defaults.items() if key != "tie_word_embeddings"}
    | {"vocab_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "max_position_embeddings": 32768, "rope_theta": 1e6, "moe_intermediate_size": 768}
    | {"num_experts_per_tok": 8, "num_local_experts": 128, "norm_topk_prob": True, "sliding_window": None},
    NAMES,
    wraps="qwen3_omni_moe_thinker",
)
_THINKER3 = "Qwen3OmniMoeThinkerForConditionalGeneration"
_MOE_KEYS = (
    *SIZE_KEYS,
    _ROPE,
    EPS_KEY,
    *EXPERT_KEYS,
    *HEAD_DIM_KEYS,
    Key("moe_intermediate_size", "expert_feed_forward_length"),
)
_MOE_FIXED = _FIXED | {"attention_bias": False, "decoder_sparse_step": 1, "mlp_only_layers": ([], None)}
_PLAIN = "experts_are_not_transposed"  # as transformers 5 has them in memory: [E, 2I, H] and [E, H, I]
_ROUTER, *_, _GATE_UP, _DOWN = (replace(rule, when=Is(_PLAIN)) for rule in experts_of_either_layout())
# As they are published: [E, H, 2I] and [E, I, H].
_TURNED = tuple(
    replace(rule, shape=(rule.shape[0], *rule.shape[:0:-1]), ops=(Transpose(), *rule.ops), when=~Is(_PLAIN))
    for rule in (_GATE_UP, _DOWN)
)

QWEN3VLMOE = Arch(
    name="qwen3vlmoe",
    classes={"Qwen3VLMoeForConditionalGeneration": _QWEN3_VL_MOE},
    config=(*_MOE_KEYS, _DEEP),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        *qk_norm(),
        FFN_NORM,
        replace(_ROUTER, when=ALWAYS),
        *_TURNED,
        _GATE_UP,
        _DOWN,
        FINAL_NORM,
        HEAD,
    ),
    fixed=_MOE_FIXED,
    roots=TEXT_ROOTS,
    # transformers goes by the shapes, which would be the same
    needs={"moe_intermediate_size": ~(Equal(EMBD, 2 * EXPERT_FF) | Equal(EMBD, EXPERT_FF))},
    layouts={_PLAIN: Shaped("*.mlp.experts.gate_up_proj", (EXPERTS, 2 * EXPERT_FF, EMBD))},
    extras=VISUAL,
)
QWEN3OMNIMOE = replace(
    QWEN3VLMOE,
    name="qwen3omnimoe",
    gguf_name="qwen3vlmoe",
    classes={_THINKER3: _QWEN3_OMNI, "Qwen3OmniMoeForConditionalGeneration": replace(_QWEN3_OMNI, text_of=_THINKER3)},
    config=(*_MOE_KEYS, _NO_DEEP),
    rules=(
        EMBEDDING,
        ATTN_NORM,
        *attention(),
        *qk_norm(),
        FFN_NORM,
        *experts_of_either_layout(),
        FINAL_NORM,
        HEAD,
    ),
    needs={},
    roots=_ROOTS,
    layouts=FUSED_EXPERTS,
    extras=(*VISUAL, *AUDIO, *THINKER),
    fixed=_MOE_FIXED | {"norm_topk_prob": True},
)
