"""The rows of ``naming.py``: an original name, and diffusers' names of its parts."""

from __future__ import annotations


def _fused(template: str, *parts: str) -> str:
    """The parts of a tensor, by what stands at ``{}`` in their names."""
    return " + ".join(f"{template.format(part)}.@" for part in parts)


_TO_QKV = _fused("transformer_blocks.*.attn.to_{}", *"qkv")
_TO_QKV_2 = _fused("transformer_blocks.*.attn2.to_{}", *"qkv")
_ADD_QKV = _fused("transformer_blocks.*.attn.add_{}_proj", *"qkv")
_SINGLE = _fused("single_transformer_blocks.*.{}", "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
_TXT, _REFINER = "txt_in.individual_token_refiner.blocks", "context_embedder.token_refiner.refiner_blocks"
_REFINER_QKV = _fused(f"{_REFINER}.*.attn.to_{{}}", *"qkv")

_FLUX_DOUBLE = f"""
    double_blocks.*.img_attn.qkv.@ = {_TO_QKV}
    double_blocks.*.txt_attn.qkv.@ = {_ADD_QKV}
    double_blocks.*.img_attn.norm.query_norm.scale = transformer_blocks.*.attn.norm_q.weight
    double_blocks.*.img_attn.norm.key_norm.scale = transformer_blocks.*.attn.norm_k.weight
    double_blocks.*.txt_attn.norm.query_norm.scale = transformer_blocks.*.attn.norm_added_q.weight
    double_blocks.*.txt_attn.norm.key_norm.scale = transformer_blocks.*.attn.norm_added_k.weight
    double_blocks.*.img_attn.proj.@ = transformer_blocks.*.attn.to_out.0.@
    double_blocks.*.txt_attn.proj.@ = transformer_blocks.*.attn.to_add_out.@
"""
_FLUX_MLP = """
    double_blocks.*.img_mlp.0.@ = transformer_blocks.*.ff.net.0.proj.@
    double_blocks.*.img_mlp.2.@ = transformer_blocks.*.ff.net.2.@
    double_blocks.*.txt_mlp.0.@ = transformer_blocks.*.ff_context.net.0.proj.@
    double_blocks.*.txt_mlp.2.@ = transformer_blocks.*.ff_context.net.2.@
"""
_FLUX_SINGLE = f"""
    single_blocks.*.linear1.@ = {_SINGLE}
    single_blocks.*.linear2.@ = single_transformer_blocks.*.proj_out.@
    single_blocks.*.norm.query_norm.scale = single_transformer_blocks.*.attn.norm_q.weight
    single_blocks.*.norm.key_norm.scale = single_transformer_blocks.*.attn.norm_k.weight
"""
_FLUX_ENDS = """
    img_in.@ = x_embedder.@
    txt_in.@ = context_embedder.@
    final_layer.linear.@ = proj_out.@
"""
_FLUX = f"""
    {_FLUX_ENDS}
    time_in.in_layer.@ = time_text_embed.timestep_embedder.linear_1.@
    time_in.out_layer.@ = time_text_embed.timestep_embedder.linear_2.@
    vector_in.in_layer.@ = time_text_embed.text_embedder.linear_1.@
    vector_in.out_layer.@ = time_text_embed.text_embedder.linear_2.@
    guidance_in.in_layer.@ = time_text_embed.guidance_embedder.linear_1.@
    guidance_in.out_layer.@ = time_text_embed.guidance_embedder.linear_2.@
    double_blocks.*.img_mod.lin.@ = transformer_blocks.*.norm1.linear.@
    double_blocks.*.txt_mod.lin.@ = transformer_blocks.*.norm1_context.linear.@
    single_blocks.*.modulation.lin.@ = single_transformer_blocks.*.norm.linear.@
    {_FLUX_DOUBLE} {_FLUX_MLP} {_FLUX_SINGLE}
    final_layer.adaLN_modulation.1.@ = ~ norm_out.linear.@
"""
_CHROMA = f"""
    {_FLUX_ENDS} {_FLUX_DOUBLE} {_FLUX_MLP} {_FLUX_SINGLE}
    distilled_guidance_layer.in_proj.@ = distilled_guidance_layer.in_proj.@
    distilled_guidance_layer.out_proj.@ = distilled_guidance_layer.out_proj.@
    distilled_guidance_layer.layers.*.in_layer.@ = distilled_guidance_layer.layers.*.linear_1.@
    distilled_guidance_layer.layers.*.out_layer.@ = distilled_guidance_layer.layers.*.linear_2.@
    distilled_guidance_layer.norms.*.scale = distilled_guidance_layer.norms.*.weight
"""
_FLUX2 = f"""
    {_FLUX_ENDS} {_FLUX_DOUBLE}
    time_in.in_layer.@ = time_guidance_embed.timestep_embedder.linear_1.@
    time_in.out_layer.@ = time_guidance_embed.timestep_embedder.linear_2.@
    guidance_in.in_layer.@ = time_guidance_embed.guidance_embedder.linear_1.@
    guidance_in.out_layer.@ = time_guidance_embed.guidance_embedder.linear_2.@
    double_stream_modulation_img.lin.@ = double_stream_modulation_img.linear.@
    double_stream_modulation_txt.lin.@ = double_stream_modulation_txt.linear.@
    single_stream_modulation.lin.@ = single_stream_modulation.linear.@
    double_blocks.*.img_mlp.0.@ = transformer_blocks.*.ff.linear_in.@
    double_blocks.*.img_mlp.2.@ = transformer_blocks.*.ff.linear_out.@
    double_blocks.*.txt_mlp.0.@ = transformer_blocks.*.ff_context.linear_in.@
    double_blocks.*.txt_mlp.2.@ = transformer_blocks.*.ff_context.linear_out.@
    single_blocks.*.linear1.@ = single_transformer_blocks.*.attn.to_qkv_mlp_proj.@
    single_blocks.*.linear2.@ = single_transformer_blocks.*.attn.to_out.@
    single_blocks.*.norm.query_norm.scale = single_transformer_blocks.*.attn.norm_q.weight
    single_blocks.*.norm.key_norm.scale = single_transformer_blocks.*.attn.norm_k.weight
    final_layer.adaLN_modulation.1.@ = ~ norm_out.linear.@
"""
_SD3 = f"""
    pos_embed = pos_embed.pos_embed
    x_embedder.proj.@ = pos_embed.proj.@
    t_embedder.mlp.0.@ = time_text_embed.timestep_embedder.linear_1.@
    t_embedder.mlp.2.@ = time_text_embed.timestep_embedder.linear_2.@
    y_embedder.mlp.0.@ = time_text_embed.text_embedder.linear_1.@
    y_embedder.mlp.2.@ = time_text_embed.text_embedder.linear_2.@
    context_embedder.@ = context_embedder.@
    joint_blocks.*.x_block.attn.qkv.@ = {_TO_QKV}
    joint_blocks.*.context_block.attn.qkv.@ = {_ADD_QKV}
    joint_blocks.*.x_block.attn.ln_q.weight = transformer_blocks.*.attn.norm_q.weight
    joint_blocks.*.x_block.attn.ln_k.weight = transformer_blocks.*.attn.norm_k.weight
    joint_blocks.*.context_block.attn.ln_q.weight = transformer_blocks.*.attn.norm_added_q.weight
    joint_blocks.*.context_block.attn.ln_k.weight = transformer_blocks.*.attn.norm_added_k.weight
    joint_blocks.*.x_block.attn.proj.@ = transformer_blocks.*.attn.to_out.0.@
    joint_blocks.*.context_block.attn.proj.@ = transformer_blocks.*.attn.to_add_out.@
    joint_blocks.*.x_block.attn2.qkv.@ = {_TO_QKV_2}
    joint_blocks.*.x_block.attn2.ln_q.weight = transformer_blocks.*.attn2.norm_q.weight
    joint_blocks.*.x_block.attn2.ln_k.weight = transformer_blocks.*.attn2.norm_k.weight
    joint_blocks.*.x_block.attn2.proj.@ = transformer_blocks.*.attn2.to_out.0.@
    joint_blocks.*.x_block.adaLN_modulation.1.@ = transformer_blocks.*.norm1.linear.@
    joint_blocks.*.context_block.adaLN_modulation.1.@ = ~last transformer_blocks.*.norm1_context.linear.@
    joint_blocks.*.x_block.mlp.fc1.@ = transformer_blocks.*.ff.net.0.proj.@
    joint_blocks.*.x_block.mlp.fc2.@ = transformer_blocks.*.ff.net.2.@
    joint_blocks.*.context_block.mlp.fc1.@ = transformer_blocks.*.ff_context.net.0.proj.@
    joint_blocks.*.context_block.mlp.fc2.@ = transformer_blocks.*.ff_context.net.2.@
    final_layer.linear.@ = proj_out.@
    final_layer.adaLN_modulation.1.@ = ~ norm_out.linear.@
"""
_AURA = """
    register_tokens = register_tokens
    positional_encoding = pos_embed.pos_embed
    init_x_linear.@ = pos_embed.proj.@
    t_embedder.mlp.0.@ = time_step_proj.linear_1.@
    t_embedder.mlp.2.@ = time_step_proj.linear_2.@
    cond_seq_linear.@ = context_embedder.@
    double_layers.*.mlpX.c_fc1.@ = joint_transformer_blocks.*.ff.linear_1.@
    double_layers.*.mlpX.c_fc2.@ = joint_transformer_blocks.*.ff.linear_2.@
    double_layers.*.mlpX.c_proj.@ = joint_transformer_blocks.*.ff.out_projection.@
    double_layers.*.mlpC.c_fc1.@ = joint_transformer_blocks.*.ff_context.linear_1.@
    double_layers.*.mlpC.c_fc2.@ = joint_transformer_blocks.*.ff_context.linear_2.@
    double_layers.*.mlpC.c_proj.@ = joint_transformer_blocks.*.ff_context.out_projection.@
    double_layers.*.modX.1.@ = joint_transformer_blocks.*.norm1.linear.@
    double_layers.*.modC.1.@ = joint_transformer_blocks.*.norm1_context.linear.@
    double_layers.*.attn.w2q.@ = joint_transformer_blocks.*.attn.to_q.@
    double_layers.*.attn.w2k.@ = joint_transformer_blocks.*.attn.to_k.@
    double_layers.*.attn.w2v.@ = joint_transformer_blocks.*.attn.to_v.@
    double_layers.*.attn.w2o.@ = joint_transformer_blocks.*.attn.to_out.0.@
    double_layers.*.attn.w1q.@ = joint_transformer_blocks.*.attn.add_q_proj.@
    double_layers.*.attn.w1k.@ = joint_transformer_blocks.*.attn.add_k_proj.@
    double_layers.*.attn.w1v.@ = joint_transformer_blocks.*.attn.add_v_proj.@
    double_layers.*.attn.w1o.@ = joint_transformer_blocks.*.attn.to_add_out.@
    single_layers.*.mlp.c_fc1.@ = single_transformer_blocks.*.ff.linear_1.@
    single_layers.*.mlp.c_fc2.@ = single_transformer_blocks.*.ff.linear_2.@
    single_layers.*.mlp.c_proj.@ = single_transformer_blocks.*.ff.out_projection.@
    single_layers.*.modCX.1.@ = single_transformer_blocks.*.norm1.linear.@
    single_layers.*.attn.w1q.@ = single_transformer_blocks.*.attn.to_q.@
    single_layers.*.attn.w1k.@ = single_transformer_blocks.*.attn.to_k.@
    single_layers.*.attn.w1v.@ = single_transformer_blocks.*.attn.to_v.@
    single_layers.*.attn.w1o.@ = single_transformer_blocks.*.attn.to_out.0.@
    final_linear.@ = proj_out.@
    modF.1.@ = ~ norm_out.linear.@
"""
_COSMOS = """
    x_embedder.proj.1.@ = patch_embed.proj.@
    t_embedder.1.linear_1.@ = time_embed.t_embedder.linear_1.@
    t_embedder.1.linear_2.@ = time_embed.t_embedder.linear_2.@
    t_embedding_norm.@ = time_embed.norm.@
    blocks.*.adaln_modulation_self_attn.1.@ = transformer_blocks.*.norm1.linear_1.@
    blocks.*.adaln_modulation_self_attn.2.@ = transformer_blocks.*.norm1.linear_2.@
    blocks.*.adaln_modulation_cross_attn.1.@ = transformer_blocks.*.norm2.linear_1.@
    blocks.*.adaln_modulation_cross_attn.2.@ = transformer_blocks.*.norm2.linear_2.@
    blocks.*.adaln_modulation_mlp.1.@ = transformer_blocks.*.norm3.linear_1.@
    blocks.*.adaln_modulation_mlp.2.@ = transformer_blocks.*.norm3.linear_2.@
    blocks.*.self_attn.q_proj.@ = transformer_blocks.*.attn1.to_q.@
    blocks.*.self_attn.k_proj.@ = transformer_blocks.*.attn1.to_k.@
    blocks.*.self_attn.v_proj.@ = transformer_blocks.*.attn1.to_v.@
    blocks.*.self_attn.output_proj.@ = transformer_blocks.*.attn1.to_out.0.@
    blocks.*.self_attn.q_norm.@ = transformer_blocks.*.attn1.norm_q.@
    blocks.*.self_attn.k_norm.@ = transformer_blocks.*.attn1.norm_k.@
    blocks.*.cross_attn.q_proj.@ = transformer_blocks.*.attn2.to_q.@
    blocks.*.cross_attn.k_proj.@ = transformer_blocks.*.attn2.to_k.@
    blocks.*.cross_attn.v_proj.@ = transformer_blocks.*.attn2.to_v.@
    blocks.*.cross_attn.output_proj.@ = transformer_blocks.*.attn2.to_out.0.@
    blocks.*.cross_attn.q_norm.@ = transformer_blocks.*.attn2.norm_q.@
    blocks.*.cross_attn.k_norm.@ = transformer_blocks.*.attn2.norm_k.@
    blocks.*.mlp.layer1.@ = transformer_blocks.*.ff.net.0.proj.@
    blocks.*.mlp.layer2.@ = transformer_blocks.*.ff.net.2.@
    final_layer.adaln_modulation.1.@ = norm_out.linear_1.@
    final_layer.adaln_modulation.2.@ = norm_out.linear_2.@
    final_layer.linear.@ = proj_out.@
"""
_LTXV = """
    patchify_proj.@ = proj_in.@
    adaln_single.emb.timestep_embedder.linear_1.@ = time_embed.emb.timestep_embedder.linear_1.@
    adaln_single.emb.timestep_embedder.linear_2.@ = time_embed.emb.timestep_embedder.linear_2.@
    adaln_single.linear.@ = time_embed.linear.@
    caption_projection.linear_1.@ = caption_projection.linear_1.@
    caption_projection.linear_2.@ = caption_projection.linear_2.@
    scale_shift_table = scale_shift_table
    proj_out.@ = proj_out.@
    transformer_blocks.*.scale_shift_table = transformer_blocks.*.scale_shift_table
    transformer_blocks.*.attn*.q_norm.@ = transformer_blocks.*.attn*.norm_q.@
    transformer_blocks.*.attn*.k_norm.@ = transformer_blocks.*.attn*.norm_k.@
    transformer_blocks.*.attn*.to_q.@ = transformer_blocks.*.attn*.to_q.@
    transformer_blocks.*.attn*.to_k.@ = transformer_blocks.*.attn*.to_k.@
    transformer_blocks.*.attn*.to_v.@ = transformer_blocks.*.attn*.to_v.@
    transformer_blocks.*.attn*.to_out.0.@ = transformer_blocks.*.attn*.to_out.0.@
    transformer_blocks.*.ff.net.0.proj.@ = transformer_blocks.*.ff.net.0.proj.@
    transformer_blocks.*.ff.net.2.@ = transformer_blocks.*.ff.net.2.@
"""
_HYVID = f"""
    img_in.proj.@ = x_embedder.proj.@
    time_in.mlp.0.@ = time_text_embed.timestep_embedder.linear_1.@
    time_in.mlp.2.@ = time_text_embed.timestep_embedder.linear_2.@
    guidance_in.mlp.0.@ = time_text_embed.guidance_embedder.linear_1.@
    guidance_in.mlp.2.@ = time_text_embed.guidance_embedder.linear_2.@
    vector_in.in_layer.@ = time_text_embed.text_embedder.linear_1.@
    vector_in.out_layer.@ = time_text_embed.text_embedder.linear_2.@
    txt_in.input_embedder.@ = context_embedder.proj_in.@
    txt_in.t_embedder.mlp.0.@ = context_embedder.time_text_embed.timestep_embedder.linear_1.@
    txt_in.t_embedder.mlp.2.@ = context_embedder.time_text_embed.timestep_embedder.linear_2.@
    txt_in.c_embedder.linear_1.@ = context_embedder.time_text_embed.text_embedder.linear_1.@
    txt_in.c_embedder.linear_2.@ = context_embedder.time_text_embed.text_embedder.linear_2.@
    {_TXT}.*.norm1.@ = {_REFINER}.*.norm1.@
    {_TXT}.*.norm2.@ = {_REFINER}.*.norm2.@
    {_TXT}.*.self_attn_qkv.@ = {_REFINER_QKV}
    {_TXT}.*.self_attn_proj.@ = {_REFINER}.*.attn.to_out.0.@
    {_TXT}.*.mlp.fc1.@ = {_REFINER}.*.ff.net.0.proj.@
    {_TXT}.*.mlp.fc2.@ = {_REFINER}.*.ff.net.2.@
    {_TXT}.*.adaLN_modulation.1.@ = {_REFINER}.*.norm_out.linear.@
    double_blocks.*.img_attn_qkv.@ = {_TO_QKV}
    double_blocks.*.txt_attn_qkv.@ = {_ADD_QKV}
    double_blocks.*.img_attn_q_norm.@ = transformer_blocks.*.attn.norm_q.@
    double_blocks.*.img_attn_k_norm.@ = transformer_blocks.*.attn.norm_k.@
    double_blocks.*.txt_attn_q_norm.@ = transformer_blocks.*.attn.norm_added_q.@
    double_blocks.*.txt_attn_k_norm.@ = transformer_blocks.*.attn.norm_added_k.@
    double_blocks.*.img_attn_proj.@ = transformer_blocks.*.attn.to_out.0.@
    double_blocks.*.txt_attn_proj.@ = transformer_blocks.*.attn.to_add_out.@
    double_blocks.*.img_mod.linear.@ = transformer_blocks.*.norm1.linear.@
    double_blocks.*.txt_mod.linear.@ = transformer_blocks.*.norm1_context.linear.@
    double_blocks.*.img_mlp.fc1.@ = transformer_blocks.*.ff.net.0.proj.@
    double_blocks.*.img_mlp.fc2.@ = transformer_blocks.*.ff.net.2.@
    double_blocks.*.txt_mlp.fc1.@ = transformer_blocks.*.ff_context.net.0.proj.@
    double_blocks.*.txt_mlp.fc2.@ = transformer_blocks.*.ff_context.net.2.@
    single_blocks.*.linear1.@ = {_SINGLE}
    single_blocks.*.linear2.@ = single_transformer_blocks.*.proj_out.@
    single_blocks.*.q_norm.@ = single_transformer_blocks.*.attn.norm_q.@
    single_blocks.*.k_norm.@ = single_transformer_blocks.*.attn.norm_k.@
    single_blocks.*.modulation.linear.@ = single_transformer_blocks.*.norm.linear.@
    final_layer.linear.@ = proj_out.@
    final_layer.adaLN_modulation.1.@ = ~ norm_out.linear.@
"""
_WAN = """
    patch_embedding.@ = patch_embedding.@
    text_embedding.0.@ = condition_embedder.text_embedder.linear_1.@
    text_embedding.2.@ = condition_embedder.text_embedder.linear_2.@
    time_embedding.0.@ = condition_embedder.time_embedder.linear_1.@
    time_embedding.2.@ = condition_embedder.time_embedder.linear_2.@
    time_projection.1.@ = condition_embedder.time_proj.@
    img_emb.proj.0.@ = condition_embedder.image_embedder.norm1.@
    img_emb.proj.1.@ = condition_embedder.image_embedder.ff.net.0.proj.@
    img_emb.proj.3.@ = condition_embedder.image_embedder.ff.net.2.@
    img_emb.proj.4.@ = condition_embedder.image_embedder.norm2.@
    img_emb.emb_pos = condition_embedder.image_embedder.pos_embed
    blocks.*.modulation = blocks.*.scale_shift_table
    blocks.*.norm3.@ = blocks.*.norm2.@
    blocks.*.ffn.0.@ = blocks.*.ffn.net.0.proj.@
    blocks.*.ffn.2.@ = blocks.*.ffn.net.2.@
    blocks.*.self_attn.q.@ = blocks.*.attn1.to_q.@
    blocks.*.self_attn.k.@ = blocks.*.attn1.to_k.@
    blocks.*.self_attn.v.@ = blocks.*.attn1.to_v.@
    blocks.*.self_attn.o.@ = blocks.*.attn1.to_out.0.@
    blocks.*.self_attn.norm_q.@ = blocks.*.attn1.norm_q.@
    blocks.*.self_attn.norm_k.@ = blocks.*.attn1.norm_k.@
    blocks.*.cross_attn.q.@ = blocks.*.attn2.to_q.@
    blocks.*.cross_attn.k.@ = blocks.*.attn2.to_k.@
    blocks.*.cross_attn.v.@ = blocks.*.attn2.to_v.@
    blocks.*.cross_attn.o.@ = blocks.*.attn2.to_out.0.@
    blocks.*.cross_attn.norm_q.@ = blocks.*.attn2.norm_q.@
    blocks.*.cross_attn.norm_k.@ = blocks.*.attn2.norm_k.@
    blocks.*.cross_attn.k_img.@ = blocks.*.attn2.add_k_proj.@
    blocks.*.cross_attn.v_img.@ = blocks.*.attn2.add_v_proj.@
    blocks.*.cross_attn.norm_k_img.@ = blocks.*.attn2.norm_added_k.@
    head.head.@ = proj_out.@
    head.modulation = scale_shift_table
"""


def _lumina_block(block: str, modulated: bool) -> str:
    """A block of Lumina-Image 2; those of ``context_refiner`` have no modulation."""
    norm = f"{block}.*.norm1.norm.weight" if modulated else f"{block}.*.norm1.weight"
    rows = [
        f"{block}.*.attention.qkv.@ = " + " + ".join(f"{block}.*.attn.to_{part}.@" for part in "qkv"),
        f"{block}.*.attention.out.@ = {block}.*.attn.to_out.0.@",
        f"{block}.*.attention.q_norm.@ = {block}.*.attn.norm_q.@",
        f"{block}.*.attention.k_norm.@ = {block}.*.attn.norm_k.@",
        f"{block}.*.attention_norm1.weight = {norm}",
        f"{block}.*.attention_norm2.@ = {block}.*.norm2.@",
        f"{block}.*.ffn_norm1.@ = {block}.*.ffn_norm1.@",
        f"{block}.*.ffn_norm2.@ = {block}.*.ffn_norm2.@",
        *(f"{block}.*.feed_forward.w{n}.@ = {block}.*.feed_forward.linear_{n}.@" for n in (1, 2, 3)),
    ]
    rows += [f"{block}.*.adaLN_modulation.1.@ = {block}.*.norm1.linear.@"] if modulated else []
    return "\n".join(rows)


def _z_image_block(block: str) -> str:
    rows = [
        f"{block}.*.attention.qkv.@ = " + " + ".join(f"{block}.*.attention.to_{part}.@" for part in "qkv"),
        f"{block}.*.attention.out.@ = {block}.*.attention.to_out.0.@",
        f"{block}.*.attention.q_norm.@ = {block}.*.attention.norm_q.@",
        f"{block}.*.attention.k_norm.@ = {block}.*.attention.norm_k.@",
        *(
            f"{block}.*.{name}.@ = {block}.*.{name}.@"
            for name in (
                "attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2", "feed_forward.w1", "feed_forward.w2",
                "feed_forward.w3", "adaLN_modulation.0",
            )
        ),
    ]  # fmt: skip
    return "\n".join(rows)


_LUMINA2 = f"""
    x_embedder.@ = x_embedder.@
    cap_embedder.0.@ = time_caption_embed.caption_embedder.0.@
    cap_embedder.1.@ = time_caption_embed.caption_embedder.1.@
    t_embedder.mlp.0.@ = time_caption_embed.timestep_embedder.linear_1.@
    t_embedder.mlp.2.@ = time_caption_embed.timestep_embedder.linear_2.@
    {_lumina_block("context_refiner", False)}
    {_lumina_block("noise_refiner", True)}
    {_lumina_block("layers", True)}
    final_layer.adaLN_modulation.1.@ = norm_out.linear_1.@
    final_layer.linear.@ = norm_out.linear_2.@
"""
_Z_IMAGE = f"""
    x_embedder.@ = all_x_embedder.2-1.@
    final_layer.linear.@ = all_final_layer.2-1.linear.@
    final_layer.adaLN_modulation.1.@ = all_final_layer.2-1.adaLN_modulation.1.@
    cap_embedder.0.@ = cap_embedder.0.@
    cap_embedder.1.@ = cap_embedder.1.@
    t_embedder.mlp.0.@ = t_embedder.mlp.0.@
    t_embedder.mlp.2.@ = t_embedder.mlp.2.@
    x_pad_token = x_pad_token
    cap_pad_token = cap_pad_token
    {_z_image_block("context_refiner")}
    {_z_image_block("noise_refiner")}
    {_z_image_block("layers")}
"""

# By the layout's name. HiDream, Qwen-Image and the UNets are loaded under diffusers' own names.
ROWS = {
    "flux": _FLUX,
    "chroma": _CHROMA,
    "flux2": _FLUX2,
    "sd3": _SD3,
    "aura": _AURA,
    "cosmos": _COSMOS,
    "ltxv": _LTXV,
    "hyvid": _HYVID,
    "wan": _WAN,
    "lumina2": _LUMINA2,
    "z_image": _Z_IMAGE,
}
