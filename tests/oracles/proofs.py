"""The tiny models that prove the architectures: one module of ``PROOFS`` a family in ``oracles/archs``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from oracles.llama import Llama

Tensors = Mapping[str, NDArray[Any]]
N_TOKENS = 64
# Every proof's, unless it says otherwise; a config class takes what it knows.
SMALL = {
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "max_position_embeddings": 128,
    "initializer_range": 0.05,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Further:
    """A layer for further tokens, which published checkpoints hold and transformers neither loads nor saves.

    Args:
        at: what the names of its tensors begin with.
        like: what those begin with in the layer of the model that it is like.
        own: the shapes of the tensors that only it has, by their names.
        without: the ends of the names of tensors that it lacks.
        alone: llama.cpp's converter writes it only if it is asked for, and then alone.
        beside: llama.cpp's converter writes it beside the model only, and refuses to write it alone.
    """

    at: str
    like: str
    own: Mapping[str, tuple[int, ...]]
    without: tuple[str, ...] = ()
    alone: bool = False
    beside: bool = False


@dataclass(frozen=True)
class Proof:
    """A tiny config of transformers, with as many features of the architecture switched on as one config can have.

    Args:
        arch: the name of ours.
        model: transformers' model class; its config class is the one it names.
        config: beside, or instead of, ``SMALL``; a key that is None here is not passed at all.
        case: where an architecture has several proofs, what this one is about.
        spread: standard deviation of the random weights. Norms are 1 +- 0.2, biases 0 +- 0.2.
        embeds: the model has no logits: its last hidden states are compared.
        pooling: the model has one embedding for the text, so pooled (``mean``), or a classifier's results (``rank``).
        softmax: llama.cpp gives the classifier's results as probabilities.
        encodes: an encoder reads the tokens, a decoder the same from last to first.
        nulls: keys that are passed as None.
        published: what config.json says in published checkpoints and not in those that transformers 5.23 saves, for the
            proof by the converter: both converters read it. A key that is None here is one that they lack.
        renamed: what tensors are called in published checkpoints, where transformers saves them under other names:
            patterns of ``re.sub`` and what they become, for the proof by the converter.
        as_loaded: saved with the tensors that the model has in memory, not with those that its class saves.
        turned: a pattern of tensors whose last two axes published checkpoints have the other way round.
        unsaved: a pattern of tensors that its folder does not have: those of a part that llama.cpp has no place for.
        modules: those of sentence-transformers in published folders, after the model itself.
        options: further options of llama.cpp's converter there.
        layout: makes of a checkpoint's tensors those that are published, before they are renamed.
        flash: llama.cpp needs flash attention for it.
        towers: for a class around a text model, which ``config`` is then of: the configs of its towers, and what else
            stands in the outer config.
        further: a layer for further tokens beside the model's.
        other_logits: llama.cpp computes another model, so that only its converter proves the file.
    """

    arch: str
    model: str
    config: Mapping[str, Any] = field(default_factory=dict)
    case: str = ""
    spread: float = 0.05
    embeds: bool = False
    pooling: str = ""
    softmax: bool = False
    encodes: bool = False
    nulls: tuple[str, ...] = ()
    published: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    as_loaded: bool = False
    turned: str = ""
    unsaved: str = ""
    modules: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    layout: Callable[[Tensors], dict[str, NDArray[Any]]] | None = None
    flash: bool = False
    towers: Mapping[str, Any] = field(default_factory=dict)
    further: Further | None = None
    other_logits: bool = False

    @property
    def predicts(self) -> bool:
        """Whether the model predicts tokens."""
        return not (self.embeds or self.pooling)

    @property
    def id(self) -> str:
        return f"{self.arch}-{self.case}" if self.case else self.arch


def all_proofs() -> tuple[Proof, ...]:
    names = sorted(path.stem for path in (Path(__file__).parent / "archs").glob("*.py"))
    return tuple(proof for name in names for proof in import_module(f"oracles.archs.{name}").PROOFS)


def tokens_of(proof: Proof) -> list[int]:
    vocab = int({**SMALL, **proof.config}["vocab_size"])
    return [int(token) for token in np.random.default_rng(1).integers(3, vocab, N_TOKENS)]


def save_proof(proof: Proof, folder: Path) -> torch.nn.Module:
    """The model with random weights in a folder, as transformers saves it."""
    import torch
    import transformers

    cls = getattr(transformers, proof.model)
    whole = cls.config_class
    blank = whole().text_config if proof.towers else whole()
    small = {key: value for key, value in SMALL.items() if hasattr(blank, key)}
    settings = {key: value for key, value in {**small, **proof.config}.items() if value is not None}
    settings |= dict.fromkeys(proof.nulls)
    torch.manual_seed(17)
    model = cls(whole(text_config=settings, **proof.towers) if proof.towers else whole(**settings))
    generator = np.random.default_rng(17)  # torch's own numbers depend on the processor
    saved = model.state_dict().keys()
    buffers = ((name, b) for name, b in model.named_buffers() if name in saved and b.is_floating_point())
    with torch.no_grad():
        for _, weight in (*model.named_parameters(), *buffers):
            _randomise(weight, proof.spread, generator)
        for name, table in model.named_buffers():
            if name in saved and table.dim() > 1 and not table.is_floating_point():  # the experts of each token
                order = generator.random((table.shape[0], model.config.num_local_experts)).argsort(1)
                table.copy_(torch.from_numpy(order[:, : table.shape[1]]))
    model.eval()
    model.save_pretrained(folder, save_original_format=not proof.as_loaded)
    if proof.unsaved:
        _leave_out(proof.unsaved, folder / "model.safetensors")
    if proof.turned:
        _turn(proof.turned, folder / "model.safetensors")
    if proof.further:
        add_further(folder, proof.further, generator)
    return model


def _leave_out(pattern: str, path: Path) -> None:
    """Take tensors out of a checkpoint's file."""
    from fnmatch import fnmatchcase

    from safetensors.torch import load_file, save_file

    weights = {name: weight for name, weight in load_file(path).items() if not fnmatchcase(name, pattern)}
    save_file(weights, path, metadata={"format": "pt"})


def add_further(folder: Path, further: Further, generator: np.random.Generator) -> None:
    """Add the layer's tensors to a checkpoint's file: those of the layer that it is like, smaller, and random ones."""
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    names = [name for name in weights if name.startswith(further.like) and not name.endswith(tuple(further.without))]
    like = {name.removeprefix(further.like): weights[name] for name in names}
    assert like
    layer = {further.at + name: 0.75 * w for name, w in like.items()}
    for name, shape in further.own.items():
        values = generator.standard_normal(shape) * 0.05 + (len(shape) == 1)
        layer[name] = torch.from_numpy(values.astype(np.float32))
    assert not layer.keys() & weights.keys()
    weights |= layer
    save_file(weights, path, metadata={"format": "pt"})


def _turn(pattern: str, path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    turned = {name: w.mT.contiguous() for name, w in weights.items() if fnmatchcase(name, pattern)}
    save_file(weights | turned, path, metadata={"format": "pt"})


def _randomise(weight: torch.Tensor, spread: float, generator: np.random.Generator) -> None:
    """Ones and zeros of the usual initialization would hide mistakes."""
    import torch

    centre = 1.0 if float(weight.mean()) > 0.5 else 0.0  # what it was made as: norms of ones stay about one
    width = spread if weight.dim() > 1 and not centre else 0.2
    values = np.asarray(generator.standard_normal(tuple(weight.shape)) * width + centre, np.float32)
    weight.copy_(torch.from_numpy(values))


def text_weights(proof: Proof, folder: Path) -> dict[str, torch.Tensor]:
    """A saved model's weights, without those of towers, which the text model is computed without."""
    from safetensors.torch import load_file

    from quantmill.formats.hf.archs import BY_CLASS
    from quantmill.formats.hf.settle import extra_of

    weights = load_file(folder / "model.safetensors")
    if not proof.towers:
        return weights
    arch = BY_CLASS[proof.model]
    config = {**SMALL, **proof.config}
    return {name: weight for name, weight in weights.items() if not extra_of(arch, config, name)}


def run_proof(proof: Proof, model: torch.nn.Module) -> np.ndarray:
    """transformers' logits, or last hidden states: float32 [64, width]; [1, width] where they are pooled."""
    import torch

    with torch.no_grad():
        tokens = torch.tensor([tokens_of(proof)])
        out = model(tokens, decoder_input_ids=tokens.flip(1)) if proof.encodes else model(tokens)
    if proof.pooling == "rank":
        scores = out.logits.float()
        return np.asarray(scores.softmax(-1) if proof.softmax else scores)
    hidden = out.last_hidden_state if proof.embeds or proof.pooling else out.logits
    found: np.ndarray = hidden[0].float().numpy()
    return found.mean(axis=0, keepdims=True) if proof.pooling == "mean" else found


def same_logits(proof: Proof, model: torch.nn.Module, expected: np.ndarray) -> bool:
    """Whether a model gives the numbers of another whose weights are the same bits, but lie at other addresses: some
    processors' products are rounded otherwise there."""
    difference = np.abs(run_proof(proof, model) - expected).max()
    return bool(difference <= 1e-5 * np.ptp(expected))


def ask(llama: Llama, proof: Proof) -> np.ndarray:
    """The same of llama.cpp."""
    tokens = tokens_of(proof)
    if proof.pooling:
        return llama.pooled([tokens], proof.pooling)
    if proof.encodes:
        return llama.decoded(tokens, tokens[::-1])
    return llama.embeddings(tokens) if proof.embeds else llama.logits(tokens)
