"""Small image models in their original layouts: names and shapes, and files of random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from quantmill.formats.gguf.keys import typed
from quantmill.formats.ir import Bytes, Model, Role, Tensor
from quantmill.formats.qtypes import BF16

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, out: int, width: int) -> Shapes:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def flux(width: int = 256, double: int = 2, single: int = 2, channels: int = 64, text: int = 4096) -> Shapes:
    """FLUX.1-dev is width 3072 with 19 double and 38 single blocks."""
    found = linear("img_in", width, channels) | linear("txt_in", width, text)
    for name, size in (("time_in", 256), ("vector_in", 768), ("guidance_in", 256)):
        found |= linear(f"{name}.in_layer", width, size) | linear(f"{name}.out_layer", width, width)
    for i in range(double):
        for side in ("img", "txt"):
            at = f"double_blocks.{i}.{side}"
            found |= linear(f"{at}_mod.lin", 6 * width, width) | linear(f"{at}_attn.qkv", 3 * width, width)
            found |= linear(f"{at}_attn.proj", width, width)
            found |= {f"{at}_attn.norm.{part}_norm.scale": (width // 2,) for part in ("query", "key")}
            found |= linear(f"{at}_mlp.0", 4 * width, width) | linear(f"{at}_mlp.2", width, 4 * width)
    for i in range(single):
        at = f"single_blocks.{i}"
        found |= linear(f"{at}.linear1", 7 * width, width) | linear(f"{at}.linear2", width, 5 * width)
        found |= linear(f"{at}.modulation.lin", 3 * width, width)
        found |= {f"{at}.norm.{part}_norm.scale": (width // 2,) for part in ("query", "key")}
    return (
        found
        | linear("final_layer.linear", channels, width)
        | linear("final_layer.adaLN_modulation.1", 2 * width, width)
    )


def wan(width: int = 256, blocks: int = 6) -> Shapes:
    found = linear("patch_embedding", width, 16) | {"patch_embedding.weight": (width, 16, 1, 2, 2)}
    for name, size in (("text_embedding.0", 512), ("text_embedding.2", width), ("time_embedding.0", 256)):
        found |= linear(name, width, size)
    found |= linear("time_projection.1", 6 * width, width) | linear("head.head", 64, width)
    found["head.modulation"] = (1, 2, width)
    for i in range(blocks):
        at = f"blocks.{i}"
        found[f"{at}.modulation"] = (1, 6, width)
        for kind in ("self_attn", "cross_attn"):
            for part in "qkvo":
                found |= linear(f"{at}.{kind}.{part}", width, width)
            found |= {f"{at}.{kind}.norm_{part}.weight": (width,) for part in "qk"}
        found |= linear(f"{at}.ffn.0", 2 * width, width) | linear(f"{at}.ffn.2", width, 2 * width)
    return found


def sd1(width: int = 64) -> Shapes:
    """A few tensors of a UNet: enough to be recognized, with convolutions that are folded and one that is not."""
    found: Shapes = {"input_blocks.0.0.weight": (width, 4, 3, 3), "input_blocks.0.0.bias": (width,)}
    found |= {f"input_blocks.{i}.0.op.weight": (width, width, 3, 3) for i in (3, 6, 9)}
    found |= {f"output_blocks.{i}.{j}.conv.weight": (width, width, 3, 3) for i, j in ((2, 1), (5, 2), (8, 2))}
    at = "input_blocks.1.1.transformer_blocks.0"
    found |= {f"{at}.attn1.to_{part}.weight": (256, 256) for part in "qkv"}
    found |= {f"{at}.ff.net.2.weight": (256, 1024), "out.2.weight": (4, width, 3, 3), "odd.weight": (7, 3, 3, 3)}
    return found | linear("time_embed.0", 256, width)


def shapes_only(arch: str, shapes: Mapping[str, tuple[int, ...]], path: str = "model.safetensors") -> Model:
    """A BF16 checkpoint's model without weights."""

    def read(a: int, b: int) -> Bytes:
        raise AssertionError("a plan reads no weights")

    tensors = tuple(Tensor(name, Role.OTHER, None, shape, BF16, read) for name, shape in shapes.items())
    metadata = {"general.architecture": typed("general.architecture", arch)}
    return Model(arch, metadata, tensors, Path(path), from_checkpoint=True)


def save(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype = torch.bfloat16, prefix: str = ""
) -> Path:
    """Write random weights to a safetensors file."""
    torch.manual_seed(3)
    save_file({prefix + name: (torch.randn(shape) * 0.1).to(dtype) for name, shape in shapes.items()}, path)
    return path
