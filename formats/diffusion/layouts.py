"""The layouts of diffusion transformers, as data: by which tensors each is recognized, and who loads it.

Sources: ``arch_list`` of tools/convert.py in ComfyUI-GGUF at 795e451, whose names of architectures, whose names to look
for (``comfy``) and whose lists of tensors to keep or to leave these are; ``CHECKPOINT_KEY_NAMES`` and
``SINGLE_FILE_LOADABLE_CLASSES`` of diffusers 0.42 for the others. Chroma, FLUX.2 and Z-Image go under the names of the
architectures that ComfyUI-GGUF finds in them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """How a family of models names its tensors.

    Args:
        name: quantmill's name of it.
        arch: ``general.architecture`` in GGUF.
        title: what people call it.
        comfy: sets of tensors; a model with all of one set is of this architecture for ComfyUI-GGUF.
        also: further sets, by which it is told from others of the same architecture, or known where ``comfy`` looks for
            a block that small models lack.
        classes: the classes of diffusers that hold it.
        whole: parts of names of tensors that are always F32 (``keys_hiprec``).
        left: parts of names of tensors that are left out (``keys_ignore``).
        folded: whether matrices whose rows do not fit a super-block are laid out in rows of 256 (``shape_fix``).
    """

    name: str
    arch: str
    title: str
    comfy: tuple[tuple[str, ...], ...] = ()
    also: tuple[tuple[str, ...], ...] = ()
    classes: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    folded: bool = False

    @property
    def signs(self) -> tuple[tuple[str, ...], ...]:
        """The sets of tensors by which it is recognized."""
        return self.also + self.comfy


_FLUX = (("double_blocks.0.img_attn.proj.weight",),)
_LUMINA = (("cap_embedder.1.weight", "context_refiner.0.attention.qkv.weight"),)

# The first that fits is taken: those with more signs of the same architecture come before it.
LAYOUTS = (
    Layout(
        "chroma", "flux", "Chroma",
        also=(("double_blocks.0.img_attn.proj.weight", "distilled_guidance_layer.in_proj.weight"),),
        classes=("ChromaTransformer2DModel",),
    ),
    Layout(
        "flux2", "flux", "FLUX.2",
        also=(("double_blocks.0.img_attn.proj.weight", "double_stream_modulation_img.lin.weight"),),
        classes=("Flux2Transformer2DModel",),
    ),
    Layout("flux", "flux", "FLUX.1", comfy=_FLUX, classes=("FluxTransformer2DModel",)),
    Layout(
        "sd3", "sd3", "Stable Diffusion 3 and 3.5",
        comfy=(("joint_blocks.0.x_block.attn.qkv.weight",),),
        classes=("SD3Transformer2DModel",),
    ),
    Layout(
        "aura", "aura", "AuraFlow",
        comfy=(("double_layers.3.modX.1.weight",),),
        also=(("double_layers.0.attn.w2q.weight", "cond_seq_linear.weight", "t_embedder.mlp.0.weight"),),
        classes=("AuraFlowTransformer2DModel",),
    ),
    Layout(
        "hidream", "hidream", "HiDream-I1",
        comfy=(("caption_projection.0.linear.weight", "double_stream_blocks.0.block.ff_i.shared_experts.w3.weight"),),
        classes=("HiDreamImageTransformer2DModel",),
        whole=(".ff_i.gate.weight", "img_emb.emb_pos"),
    ),
    Layout(
        "cosmos", "cosmos", "Cosmos-Predict2",
        comfy=(("blocks.0.mlp.layer1.weight", "blocks.0.adaln_modulation_cross_attn.1.weight"),),
        classes=("CosmosTransformer3DModel",),
        whole=("pos_embedder",),
        left=("_extra_state", "accum_"),
    ),
    Layout(
        "ltxv", "ltxv", "LTX-Video",
        comfy=(
            (
                "adaln_single.emb.timestep_embedder.linear_2.weight", "transformer_blocks.27.scale_shift_table",
                "caption_projection.linear_2.weight",
            ),
        ),
        also=(("patchify_proj.weight", "adaln_single.linear.weight", "caption_projection.linear_2.weight"),),
        classes=("LTXVideoTransformer3DModel",),
        whole=("scale_shift_table",),
    ),
    Layout(
        "hyvid", "hyvid", "HunyuanVideo",
        comfy=(
            (
                "double_blocks.0.img_attn_proj.weight",
                "txt_in.individual_token_refiner.blocks.1.self_attn_qkv.weight",
            ),
        ),
        also=(
            (
                "double_blocks.0.img_attn_proj.weight",
                "txt_in.individual_token_refiner.blocks.0.self_attn_qkv.weight",
            ),
        ),
        classes=("HunyuanVideoTransformer3DModel",),
    ),
    Layout(
        "wan", "wan", "Wan 2.1 and 2.2",
        comfy=(("blocks.0.self_attn.norm_q.weight", "text_embedding.2.weight", "head.modulation"),),
        classes=("WanTransformer3DModel",),
        whole=(".modulation",),
    ),
    Layout(
        "sdxl", "sdxl", "Stable Diffusion XL",
        comfy=(
            ("down_blocks.0.downsamplers.0.conv.weight", "add_embedding.linear_1.weight"),
            (
                "input_blocks.3.0.op.weight", "input_blocks.6.0.op.weight", "output_blocks.2.2.conv.weight",
                "output_blocks.5.2.conv.weight",
            ),
            ("label_emb.0.0.weight",),
        ),
        folded=True,
    ),
    Layout(
        "sd1", "sd1", "Stable Diffusion 1",
        comfy=(
            ("down_blocks.0.downsamplers.0.conv.weight",),
            (
                "input_blocks.3.0.op.weight", "input_blocks.6.0.op.weight", "input_blocks.9.0.op.weight",
                "output_blocks.2.1.conv.weight", "output_blocks.5.2.conv.weight", "output_blocks.8.2.conv.weight",
            ),
        ),
        classes=("UNet2DConditionModel",),
        folded=True,
    ),
    Layout(
        "z_image", "lumina2", "Z-Image",
        also=((*_LUMINA[0], "x_pad_token", "cap_pad_token"),),
        classes=("ZImageTransformer2DModel",),
    ),
    Layout("lumina2", "lumina2", "Lumina-Image 2", comfy=_LUMINA, classes=("Lumina2Transformer2DModel",)),
    Layout(
        "qwen_image", "qwen_image", "Qwen-Image",
        also=(("transformer_blocks.0.img_mod.1.weight", "transformer_blocks.0.txt_mod.1.weight", "txt_norm.weight"),),
        classes=("QwenImageTransformer2DModel",),
    ),
)  # fmt: skip
BY_NAME = {layout.name: layout for layout in LAYOUTS}
BY_CLASS = {name: layout for layout in LAYOUTS for name in layout.classes}
