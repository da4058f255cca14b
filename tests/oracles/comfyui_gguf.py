"""The rules of ComfyUI-GGUF at 795e451, as facts: what its converter looks for, and the types that its patched
llama-quantize gives. Written for the tests from tools/convert.py and tools/lcpp.patch; it shares no code with the
package, whose tables are compared with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

VERSION = "ComfyUI-GGUF 795e45156ece99afbc3efef911e63fcb46e6a20d"
IMAGE_ARCHS = [
    "flux",
    "sd1",
    "sdxl",
    "sd3",
    "aura",
    "hidream",
    "cosmos",
    "ltxv",
    "hyvid",
    "wan",
    "lumina2",
    "qwen_image",
]

# ``keys_detect`` in the order of ``arch_list``, without the sets of diffusers' names that its converter refuses.
DETECT: list[tuple[str, list[list[str]]]] = [
    ("flux", [["double_blocks.0.img_attn.proj.weight"]]),
    ("sd3", [["joint_blocks.0.x_block.attn.qkv.weight"]]),
    ("aura", [["double_layers.3.modX.1.weight"]]),
    (
        "hidream",
        [["caption_projection.0.linear.weight", "double_stream_blocks.0.block.ff_i.shared_experts.w3.weight"]],
    ),
    ("cosmos", [["blocks.0.mlp.layer1.weight", "blocks.0.adaln_modulation_cross_attn.1.weight"]]),
    (
        "ltxv",
        [
            [
                "adaln_single.emb.timestep_embedder.linear_2.weight",
                "transformer_blocks.27.scale_shift_table",
                "caption_projection.linear_2.weight",
            ]
        ],
    ),
    (
        "hyvid",
        [
            [
                "double_blocks.0.img_attn_proj.weight",
                "txt_in.individual_token_refiner.blocks.1.self_attn_qkv.weight",
            ]
        ],
    ),
    ("wan", [["blocks.0.self_attn.norm_q.weight", "text_embedding.2.weight", "head.modulation"]]),
    (
        "sdxl",
        [
            ["down_blocks.0.downsamplers.0.conv.weight", "add_embedding.linear_1.weight"],
            [
                "input_blocks.3.0.op.weight",
                "input_blocks.6.0.op.weight",
                "output_blocks.2.2.conv.weight",
                "output_blocks.5.2.conv.weight",
            ],
            ["label_emb.0.0.weight"],
        ],
    ),
    (
        "sd1",
        [
            ["down_blocks.0.downsamplers.0.conv.weight"],
            [
                "input_blocks.3.0.op.weight",
                "input_blocks.6.0.op.weight",
                "input_blocks.9.0.op.weight",
                "output_blocks.2.1.conv.weight",
                "output_blocks.5.2.conv.weight",
                "output_blocks.8.2.conv.weight",
            ],
        ],
    ),
    ("lumina2", [["cap_embedder.1.weight", "context_refiner.0.attention.qkv.weight"]]),
]
HIPREC = {
    "hidream": [".ff_i.gate.weight", "img_emb.emb_pos"],
    "cosmos": ["pos_embedder"],
    "wan": [".modulation"],
    "ltxv": ["scale_shift_table"],
}

# What is not quantized: parts of names, and after the bar whole names.
KEPT = {
    "flux": "txt_in. img_in. time_in. vector_in. guidance_in. final_layer.",
    "sd1": "class_embedding. time_embedding. add_embedding. time_embed. label_emb. conv_in. conv_out. "
    "| input_blocks.0.0.weight out.2.weight",
    "sd3": "final_layer. time_text_embed. context_embedder. t_embedder. y_embedder. x_embedder. "
    "| proj_out.weight pos_embed",
    "aura": "t_embedder. init_x_linear. | modF.1.weight cond_seq_linear.weight final_linear.weight "
    "positional_encoding register_tokens",
    "ltxv": "adaln_single. caption_projection. patchify_proj. proj_out. scale_shift_table",
    "hyvid": "txt_in. img_in. time_in. vector_in. guidance_in. final_layer.",
    "wan": "modulation. patch_embedding. text_embedding. time_projection. time_embedding. img_emb. head.",
    "hidream": "p_embedder. t_embedder. x_embedder. final_layer. .ff_i.gate.weight caption_projection.",
    "cosmos": "p_embedder. t_embedder. t_embedding_norm. x_embedder. pos_embedder. final_layer.",
    "lumina2": "t_embedder. x_embedder. final_layer. cap_embedder. context_refiner. noise_refiner.",
}
KEPT["sdxl"] = KEPT["sd1"]

VALUES = ["attn_v.weight", ".to_v.weight", ".v.weight", ".attn.w1v.weight", ".attn.w2v.weight", "_attn.v_proj.weight"]
FUSED = ["attn_qkv.weight", "attn.qkv.weight", "attention.qkv.weight"]
DOWN = [
    "ffn_down",
    ".ffn.2.weight",
    ".ff.net.2.weight",
    ".mlp.layer2.weight",
    ".adaln_modulation_mlp.2.weight",
    ".feed_forward.w2.weight",
]
# Level -> default, for values (first few, how many they are, others), fused, down.
TYPES: dict[str, tuple[str, tuple[str, int, str], str, str]] = {
    "Q2_K": ("Q2_K", ("", 0, "Q3_K"), "Q2_K", "Q2_K"),
    "Q3_K_S": ("Q3_K", ("", 0, "Q3_K"), "Q3_K", "Q3_K"),
    "Q3_K_M": ("Q3_K", ("Q5_K", 2, "Q4_K"), "Q4_K", "Q4_K"),
    "Q3_K_L": ("Q3_K", ("", 0, "Q5_K"), "Q4_K", "Q5_K"),
    "Q4_0": ("Q4_0", ("", 0, "Q4_0"), "Q4_0", "Q4_1"),
    "Q4_1": ("Q4_1", ("", 0, "Q4_1"), "Q4_1", "Q4_1"),
    "Q4_K_S": ("Q4_K", ("Q5_K", 4, "Q4_K"), "Q4_K", "Q5_K"),
    "Q4_K_M": ("Q4_K", ("", 0, "Q6_K"), "Q5_K", "Q6_K"),
    "Q5_0": ("Q5_0", ("", 0, "Q5_0"), "Q5_0", "Q5_1"),
    "Q5_1": ("Q5_1", ("", 0, "Q5_1"), "Q5_1", "Q5_1"),
    "Q5_K_S": ("Q5_K", ("", 0, "Q5_K"), "Q5_K", "Q5_K"),
    "Q5_K_M": ("Q5_K", ("", 0, "Q6_K"), "Q6_K", "Q6_K"),
    "Q6_K": ("Q6_K", ("", 0, "Q6_K"), "Q6_K", "Q6_K"),
    "Q8_0": ("Q8_0", ("", 0, "Q8_0"), "Q8_0", "Q8_0"),
}


def detected(names: Iterable[str]) -> str | None:
    """The architecture that the converter finds."""
    have = set(names)
    return next((arch for arch, sets in DETECT if any(have.issuperset(one) for one in sets)), None)


def types_at(level: str, arch: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """The type of each tensor of a BF16 checkpoint, converted and then quantized, in the file's order."""
    default, (first, count, others), fused, down = TYPES[level]
    parts, _, whole = KEPT[arch].partition("|")
    seen, found = 0, {}
    for name, shape in shapes.items():
        dims = len([n for i, n in enumerate(shape) if n != 1 or any(m != 1 for m in shape[:i])])
        kept = any(part in name for part in parts.split()) or name in whole.split()
        if not (name.endswith("weight") and dims == 2 and not kept):
            small = len(shape) == 1 or prod(shape) <= 1024 or any(part in name for part in HIPREC.get(arch, []))
            found[name] = "F32" if small else "BF16"
            continue
        kind = default
        if any(part in name for part in VALUES):
            kind = first if seen < count else others
            seen += 1
        elif any(part in name for part in FUSED):
            kind = fused
        elif any(part in name for part in DOWN) or ("experts." in name and ".w2.weight" in name):
            kind = down
        found[name] = "F16" if kind.endswith("_K") and shape[-1] % 256 else kind
    return found
