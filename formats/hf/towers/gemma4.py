"""Gemma 4's towers.

Sources: Gemma4VisionConfig and Gemma4VisionModel of transformers 5.23; conversion/gemma.py of llama.cpp, which names no
activation, so that llama.cpp computes quick-GELU with its files; ours name that of the model, GELU by tanh.
"""

from __future__ import annotations

from ..dimensions import EMBD, FF, HEAD_DIM, HEADS, Condition, Dim, Equal, Is
from ..ops import RegroupColumns, Reshape
from ..rows import Constant, Key
from ..rules import HFClass, Rule
from ..tower import PROCESSOR, Tower
from .shared import BLOCK, COLOURS, ENCODER, GELU, HEADER, PATCH, TEXT_WIDTH, norm

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


def _axial(kind: str) -> Condition:
    return Is("rope_parameters", {"rope_theta": 100.0, "rope_type": kind})


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
        Constant("vision.image_size", 224),  # llama.cpp scales an image by its number of tokens
        Key("patch_size", "vision.patch_size"),
        *ENCODER,
        *COLOURS,
        GELU,
        Key("rms_norm_eps", "vision.attention.layer_norm_epsilon"),
    ),
    rules=(
        Rule(_EMBED + "embedding_projection", "mm.input_projection", (TEXT_WIDTH, EMBD)),
        norm(_LAYER + "input_layernorm", BLOCK + "ln1", bias=None),
        *_clipped(_LAYER + "mlp.down_proj", BLOCK + "ffn_down", EMBD, FF),
        *_clipped(_LAYER + "mlp.gate_proj", BLOCK + "ffn_gate", FF, EMBD),
        *_clipped(_LAYER + "mlp.up_proj", BLOCK + "ffn_up", FF, EMBD),
        norm(_LAYER + "post_attention_layernorm", BLOCK + "attn_post_norm", bias=None),
        norm(_LAYER + "post_feedforward_layernorm", BLOCK + "ffn_post_norm", bias=None),
        norm(_LAYER + "pre_feedforward_layernorm", BLOCK + "ln2", bias=None),
        norm(_LAYER + "self_attn.k_norm", BLOCK + "attn_k_norm", HEAD_DIM, bias=None),
        *_clipped(_LAYER + "self_attn.k_proj", BLOCK + "attn_k", EMBD, EMBD),
        *_clipped(_LAYER + "self_attn.o_proj", BLOCK + "attn_out", EMBD, EMBD),
        norm(_LAYER + "self_attn.q_norm", BLOCK + "attn_q_norm", HEAD_DIM, bias=None),
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
        f"{PROCESSOR}.image_mean": [0.0] * 3, f"{PROCESSOR}.image_std": [1.0] * 3,
    },
    needs={
        "rope_parameters": ~Is("rope_parameters") | _axial("axial") | _axial("default"),
        "head_dim": Equal(HEAD_DIM, EMBD // HEADS),
        "num_key_value_heads": Equal(Dim("num_key_value_heads"), HEADS),
    },
    implied={"num_key_value_heads": HEADS, "head_dim": EMBD // HEADS},
    owns=("*vision_tower.*", "*embed_vision.*"),
)  # fmt: skip
