"""Tiny models of diffusers' classes, and what they compute. A program for the client's Python; see ``diffusers.py``.

Its first word is a JSON file of jobs, its second the folder for the outputs, an .npy for each job. A job is
``{"make": ARCH, "folder": FOLDER}``, or ``{"load": ARCH, "file": FILE, "folder": FOLDER, "halves": BOOL}``, where FILE
is loaded from a single file, or is "" to load FOLDER itself. Diffusers multiplies scales in half precision as it
decodes (0.42 gives its functions no dtype); without ``halves`` it does so in float32.
"""

from __future__ import annotations

import inspect
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import GGUFQuantizationConfig
from diffusers.loaders import single_file_model, single_file_utils
from diffusers.quantizers.gguf import utils as gguf_utils

torch.set_num_threads(1)
ROPE = (16, 24, 24)
DIT: dict[str, Any] = {"attention_head_dim": 64, "num_attention_heads": 4, "joint_attention_dim": 256}
FLUX: dict[str, Any] = {**DIT, "patch_size": 1, "in_channels": 16, "axes_dims_rope": ROPE}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "flux": (
        "FluxTransformer2DModel",
        {**FLUX, "num_layers": 2, "num_single_layers": 2, "pooled_projection_dim": 256, "guidance_embeds": True},
    ),
    "chroma": (
        "ChromaTransformer2DModel",
        {**FLUX, "num_layers": 1, "num_single_layers": 1, "approximator_num_channels": 64,
         "approximator_hidden_dim": 256, "approximator_layers": 2},
    ),
    "flux2": (
        "Flux2Transformer2DModel",
        {**FLUX, "num_layers": 1, "num_single_layers": 1, "timestep_guidance_channels": 256,
         "axes_dims_rope": (16, 16, 16, 16)},
    ),
    "sd3": (
        "SD3Transformer2DModel",
        {**DIT, "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3,
         "caption_projection_dim": 256, "pooled_projection_dim": 256, "pos_embed_max_size": 12,
         "dual_attention_layers": (0,), "qk_norm": "rms_norm"},
    ),
    "wan": (
        "WanTransformer3DModel",
        {"patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 128, "in_channels": 16,
         "out_channels": 16, "text_dim": 256, "freq_dim": 256, "ffn_dim": 512, "num_layers": 3,
         "rope_max_seq_len": 32},
    ),
    "qwen_image": (
        "QwenImageTransformer2DModel",
        {**DIT, "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2, "axes_dims_rope": ROPE},
    ),
    "z_image": (
        "ZImageTransformer2DModel",
        {"all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 4, "dim": 256, "n_layers": 2,
         "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 4, "cap_feat_dim": 256, "axes_dims": ROPE,
         "axes_lens": (64, 64, 64)},
    ),
    "lumina2": (
        "Lumina2Transformer2DModel",
        {"sample_size": 16, "patch_size": 2, "in_channels": 4, "hidden_size": 256, "num_layers": 2,
         "num_refiner_layers": 1, "num_attention_heads": 4, "num_kv_heads": 2, "multiple_of": 256,
         "axes_dim_rope": ROPE, "axes_lens": (64, 64, 64), "cap_feat_dim": 256},
    ),
    "hyvid": (
        "HunyuanVideoTransformer3DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 128, "num_layers": 1,
         "num_single_layers": 1, "num_refiner_layers": 1, "patch_size": 2, "patch_size_t": 1, "guidance_embeds": True,
         "text_embed_dim": 256, "pooled_projection_dim": 256, "rope_axes_dim": (32, 48, 48)},
    ),
    "ltxv": (
        "LTXVideoTransformer3DModel",
        {"in_channels": 8, "out_channels": 8, "num_attention_heads": 4, "attention_head_dim": 64,
         "cross_attention_dim": 256, "num_layers": 2, "caption_channels": 256},
    ),
    "aura": (
        "AuraFlowTransformer2DModel",
        {**DIT, "sample_size": 8, "patch_size": 2, "in_channels": 4, "num_mmdit_layers": 1,
         "num_single_dit_layers": 1, "caption_projection_dim": 256, "out_channels": 4, "pos_embed_max_size": 64},
    ),
    "cosmos": (
        "CosmosTransformer3DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 128, "num_layers": 2,
         "mlp_ratio": 2.0, "text_embed_dim": 256, "adaln_lora_dim": 64, "max_size": (4, 16, 16),
         "patch_size": (1, 2, 2), "concat_padding_mask": False, "extra_pos_embed_type": None},
    ),
}  # fmt: skip
# Diffusers splits the tensors of these at the width of the published models: written into the function, here replaced.
WIDTHS = {
    "flux": {"3072": "256"},
    "chroma": {"3072": "256"},
    "hyvid": {"3072": "256"},
    "lumina2": {"2304": "256", "768": "128"},
}


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def inputs(arch: str) -> dict[str, Any]:
    """One step's inputs, always the same."""
    torch.manual_seed(7)
    time = torch.tensor([0.5])
    ids = {"img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(5, 3)}
    ids["img_ids"][:, 1] = torch.arange(16) // 4
    ids["img_ids"][:, 2] = torch.arange(16) % 4
    text = {"encoder_hidden_states": floats(1, 5, 256)}
    packed = {"hidden_states": floats(1, 16, 16), "timestep": time, **text}
    image = {"hidden_states": floats(1, 4, 8, 8), "timestep": time * 1000, **text}
    mask = torch.ones(1, 5, dtype=torch.bool)
    found: dict[str, dict[str, Any]] = {
        "flux": {**packed, **ids, "pooled_projections": floats(1, 256), "guidance": torch.tensor([3.5])},
        "chroma": {**packed, **ids},
        "flux2": {
            **packed, "img_ids": torch.nn.functional.pad(ids["img_ids"], (0, 1)), "txt_ids": torch.zeros(5, 4),
            "guidance": torch.tensor([3.5]),
        },
        "sd3": {**image, "pooled_projections": floats(1, 256)},
        "wan": {"hidden_states": floats(1, 16, 2, 8, 8), "timestep": time * 1000, **text},
        "qwen_image": {**packed, "encoder_hidden_states_mask": mask, "img_shapes": [[(1, 4, 4)]]},
        "z_image": {"x": [floats(4, 1, 8, 8)], "t": time, "cap_feats": [floats(5, 256)]},
        "lumina2": {**image, "timestep": time, "encoder_attention_mask": mask},
        "hyvid": {
            "hidden_states": floats(1, 4, 1, 8, 8), "timestep": torch.tensor([500]), **text,
            "encoder_attention_mask": mask, "pooled_projections": floats(1, 256), "guidance": torch.tensor([3.5]),
        },
        "ltxv": {
            "hidden_states": floats(1, 16, 8), "timestep": time * 1000, **text, "encoder_attention_mask": mask,
            "num_frames": 1, "height": 4, "width": 4,
        },
        "aura": {**image, "timestep": time},
        "cosmos": {
            "hidden_states": floats(1, 4, 1, 8, 8), "timestep": time, **text,
        },
    }  # fmt: skip
    return found[arch]


def run(arch: str, model: Any) -> np.ndarray:
    with torch.inference_mode():
        out = model.eval()(**inputs(arch), return_dict=False)[0]
    return (out[0] if isinstance(out, (list, tuple)) else out).float().numpy()


def make(arch: str, folder: str) -> np.ndarray:
    """Save a model of random weights, BF16 as published ones are, and give its output."""
    name, config = CONFIGS[arch]
    torch.manual_seed(11)
    model = getattr(diffusers, name)(**config)
    for name, weight in model.named_parameters():
        noise = torch.randn_like(weight) * (0.5 / weight.shape[-1] ** 0.5 if weight.dim() > 1 else 0.02)
        weight.data = noise + 1 if weight.dim() == 1 and "norm" in name and name.endswith("weight") else noise
    model = model.to(torch.bfloat16)
    model.save_pretrained(folder)
    return load(arch, "", folder, False)  # buffers are not saved, and not rounded then


def narrow(arch: str) -> None:
    """Make diffusers' function from original names to its own one for the width of the tiny model."""
    table = single_file_model.SINGLE_FILE_LOADABLE_CLASSES[CONFIGS[arch][0]]
    function = table["checkpoint_mapping_fn"]
    source = textwrap.dedent(inspect.getsource(function))
    for wide, small in WIDTHS[arch].items():
        assert source.count(wide) == 1, (arch, wide)
        source = source.replace(wide, small)
    space = vars(single_file_utils).copy()
    exec(source, space)
    table["checkpoint_mapping_fn"] = space[function.__name__]


DECODERS = gguf_utils.dequantize_functions.copy()


def in_halves(halves: bool) -> None:
    """Let diffusers decode as it does, or in float32."""
    for type, function in DECODERS.items():
        precise = lambda blocks, size, nbytes, dtype=None, f=function: f(blocks, size, nbytes, torch.float32)  # noqa: E731
        gguf_utils.dequantize_functions[type] = function if halves else precise


def load(arch: str, file: str, folder: str, halves: bool) -> np.ndarray:
    kind = getattr(diffusers, CONFIGS[arch][0])
    if not file:
        return run(arch, kind.from_pretrained(folder, torch_dtype=torch.float32))
    in_halves(halves)
    config = GGUFQuantizationConfig(compute_dtype=torch.float32)
    model = kind.from_single_file(file, config=folder, quantization_config=config, torch_dtype=torch.float32)
    absent = [name for name, weight in model.named_parameters() if weight.is_meta]
    assert not absent, absent
    return run(arch, model)


def main() -> None:
    """Do the jobs."""
    outputs = Path(sys.argv[2])
    for arch in WIDTHS:
        narrow(arch)
    for number, job in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        if "make" in job:
            out = make(job["make"], job["folder"])
        else:
            out = load(job["load"], job["file"], job["folder"], job["halves"])
        np.save(outputs / f"{number}.npy", out)


if __name__ == "__main__":
    main()
