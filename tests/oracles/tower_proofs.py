"""The tiny models that prove the towers: one module of ``PROOFS`` a family in ``oracles/towers``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantmill.formats.gguf.keys import typed

if TYPE_CHECKING:
    import torch

# Of every text model, unless a proof says otherwise.
TEXT = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
COLOURS = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}


@dataclass(frozen=True)
class TowerProof:
    """A tiny config of transformers for a tower, and how its features are asked for.

    Args:
        tower: the name of ours.
        model: transformers' model class.
        config: of the wrapper, with a config for each of its parts.
        size: height and width of the image.
        sound: the number of samples at 16 kHz, for a tower that hears.
        own_mel: the features are also made of a mel spectrogram [frames, bins], and asked of llama.cpp's own: its
            spectrogram differs from transformers' by more than towers do.
        features: what transformers makes of the model and of pixels [1, 3, height, width], or samples [n]: float32
            [tokens, width].
        case: where a tower has several proofs, what this one is about.
        processor: what preprocessor_config.json holds.
        files: what other JSON files of the folder hold, by name.
        published: what the encoder's object of config.json says in published checkpoints and not in saved ones.
        around: the key of config.json that published checkpoints have around all parts.
        spread: standard deviation of the random weights.
        limit: the largest difference from transformers', in parts of the range.
        min_tokens: llama.cpp's ``image_min_tokens``, for towers that scale small images up.
        lost: patterns of names that neither file holds, as llama.cpp has no place for these parts.
        renamed: beginnings of tensors' names as transformers saves them, and as they are published.
        old_names: beginnings of tensors' names, and those that llama.cpp's converter knows in their place.
    """

    tower: str
    model: str
    config: Mapping[str, Any]
    features: Callable[[Any, torch.Tensor], torch.Tensor]
    size: tuple[int, int] = (64, 64)
    sound: int = 0
    own_mel: bool = False
    case: str = ""
    processor: Mapping[str, Any] = field(default_factory=lambda: dict(COLOURS))
    files: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Any] = field(default_factory=dict)
    around: str = ""
    spread: float = 0.15
    limit: float = 1e-3
    min_tokens: int = -1
    renamed: Mapping[str, str] = field(default_factory=dict)
    old_names: Mapping[str, str] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.tower}-{self.case}" if self.case else self.tower

    @property
    def golden(self) -> str:
        """The name of what llama.cpp's converter makes of it."""
        return f"mmproj-{self.id}"


def all_tower_proofs() -> tuple[TowerProof, ...]:
    names = sorted(path.stem for path in (Path(__file__).parent / "towers").glob("*.py"))
    return tuple(proof for name in names for proof in import_module(f"oracles.towers.{name}").PROOFS)


def save_tower_proof(proof: TowerProof, folder: Path) -> torch.nn.Module:
    """The model with random weights in a folder, as transformers saves it, with a preprocessor config."""
    import torch
    import transformers

    cls = getattr(transformers, proof.model)
    torch.manual_seed(17)
    model = cls(cls.config_class(**proof.config))
    generator = np.random.default_rng(17)
    with torch.no_grad():
        for _, weight in model.named_parameters():
            centre = 1.0 if float(weight.mean()) > 0.5 else 0.0
            width = proof.spread if weight.dim() > 1 and not centre else 0.2
            values = generator.standard_normal(tuple(weight.shape)) * width + centre
            weight.copy_(torch.from_numpy(np.asarray(values, np.float32)))
        kept = model.state_dict().keys()
        for buffer in (buffer for name, buffer in model.named_buffers() if name in kept):
            if buffer.is_floating_point():
                if buffer.isinf().all():  # a bound, which random weights shall reach
                    buffer.fill_(3.0 if buffer > 0 else -2.5)
                else:
                    buffer.copy_(torch.from_numpy(generator.standard_normal(tuple(buffer.shape)) * 0.2 + 0.5))
    model.eval()
    model.save_pretrained(folder)
    if proof.renamed:
        rename(folder, proof.renamed)
    for name, content in {"preprocessor_config.json": proof.processor, **proof.files}.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return model


def rename(folder: Path, names: Mapping[str, str]) -> None:
    """Give tensors of a checkpoint names with other beginnings."""
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {}
    for name, weight in load_file(path).items():
        for start, other in names.items():
            name = other + name.removeprefix(start) if name.startswith(start) else name
        tensors[name] = weight
    save_file(tensors, path, {"format": "pt"})


def publish(proof: TowerProof, folder: Path) -> None:
    """Make of a saved checkpoint one of the names and places that published ones have."""
    rename(folder, proof.old_names)
    config = json.loads((folder / "config.json").read_text())
    if proof.published:
        config["vision_config"] |= proof.published
    if proof.around:
        outside = {key: config.pop(key) for key in ("architectures", "model_type")}
        config = outside | {proof.around: config}
    (folder / "config.json").write_text(json.dumps(config))


def image_of(proof: TowerProof) -> NDArray[np.uint8]:
    """uint8 [height, width, 3]: noise over a slope, so that neighbours differ and so do far parts."""
    height, width = proof.size
    noise = np.random.default_rng(3).integers(0, 128, (height, width, 3))
    slope = np.linspace(0, 127, height)[:, None, None] * np.linspace(0, 1, width)[None, :, None]
    return (noise + slope).astype(np.uint8)


def pixels_of(proof: TowerProof) -> NDArray[np.float32]:
    """The image as transformers' processors hand it on: float32 [1, 3, height, width]."""
    mean, std = (np.array(proof.processor[key], np.float32) for key in ("image_mean", "image_std"))
    values = (image_of(proof).astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def patches(pixels: torch.Tensor, vision: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """An image as Qwen's processors hand it on: two equal frames cut into patches, those that are merged side by side.

    Returns:
        float32 [patches, 3 * 2 * patch * patch], and the numbers of frames, rows and columns of patches [1, 3].
    """
    import torch

    p, m = vision.patch_size, vision.spatial_merge_size
    rows, columns = pixels.shape[2] // p, pixels.shape[3] // p
    frames = pixels[0][None].expand(2, -1, -1, -1)
    parts = frames.reshape(1, 2, 3, rows // m, m, p, columns // m, m, p).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return parts.reshape(rows * columns, -1), torch.tensor([[1, rows, columns]])


def rows_of_patches(pixels: torch.Tensor, vision: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """An image cut into patches row by row, each [3, patch, patch], and the numbers of frames, rows and columns."""
    import torch

    p = vision.patch_size
    rows, columns = pixels.shape[2] // p, pixels.shape[3] // p
    parts = pixels.reshape(3, rows, p, columns, p).permute(1, 3, 0, 2, 4).reshape(-1, 3, p, p)
    return parts, torch.tensor([[1, rows, columns]])


def sound_of(proof: TowerProof) -> NDArray[np.float32]:
    """float32 [samples]: a rising tone in noise."""
    at = np.arange(proof.sound) / 16000
    tone = np.sin(2 * np.pi * (300 + 200 * at) * at)
    noise = np.random.default_rng(5).standard_normal(proof.sound)
    return (0.3 * tone + 0.05 * noise).astype(np.float32)


def run_tower_proof(
    proof: TowerProof, model: torch.nn.Module, mel: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """transformers' features: float32 [tokens, width].

    Args:
        mel: what the sound became in llama.cpp; without, transformers makes its own.
    """
    import torch

    given = torch.from_numpy(mel if mel is not None else sound_of(proof) if proof.sound else pixels_of(proof))
    with torch.no_grad():
        found: NDArray[np.float32] = proof.features(model, given).float().numpy()
    return found


def vocabulary_for_towers(path: Path) -> Path:
    """A GGUF with a vocabulary of bytes alone, beside which mtmd loads every tower."""
    from oracles.vocab_gguf import write_vocab_gguf  # llama.cpp's own gguf-py, where its converter has been imported

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    values = {
        "model": "llama", "tokens": tokens, "scores": [0.0] * len(tokens), "token_type": [2, 3, 3] + [6] * 256,
        "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0,
    }  # fmt: skip
    keys = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    return write_vocab_gguf(path, {key: typed(key, value) for key, value in keys.items()})
