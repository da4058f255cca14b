"""The weights of a model under transformers' parameter names, read one parameter at a time."""

from __future__ import annotations

from collections.abc import Container, Iterator
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..formats.errors import TokenizerError, UnknownArchitecture, UnmatchedTensor, located
from ..formats.gguf.names import tensor_name
from ..formats.hf.tables.ops import Transpose
from ..formats.hf.tables.rules import LANGUAGE_MODEL, further_number
from ..formats.ir import Model, Role, Tensor
from .carried import Carried
from .corpus import TextTokenizer
from .floats import Reader, read_floats
from .sums import RecordedWeight

if TYPE_CHECKING:
    import torch

    from ..formats.hf.tables.rules import Slot

# A layer's experts in transformers 5: two 3-D parameters, whatever the checkpoint's names were.
_EXPERT_STACKS = {
    "gate_up_proj": (Role.FFN_GATE_EXPS, Role.FFN_UP_EXPS),
    "up_proj": (Role.FFN_UP_EXPS,),  # of experts without a gate
    "down_proj": (Role.FFN_DOWN_EXPS,),
}
_STACKED = {role for roles in _EXPERT_STACKS.values() for role in roles}
# What transformers 5 keeps in one: the convolutions of Kimi Delta Attention, gate and up of a gated MLP.
_JOINED = {"conv1d": ("q_conv1d", "k_conv1d", "v_conv1d"), "gate_up_proj": ("gate_proj", "up_proj")}
_LOOKED_UP = (Role.PER_LAYER_TOKEN_EMBD,)
_BY_TOKEN = (Role.TOKEN_EMBD, Role.PER_LAYER_TOKEN_EMBD, Role.OUTPUT)  # read row by row


class Weights:
    """The weights of a model under transformers' parameter names.

    Args:
        model: its tensors must be of float types; ``as_float`` makes a quantized model such.

    Raises:
        UnknownArchitecture: the architecture cannot be mapped to transformers.
    """

    def __init__(self, model: Model) -> None:
        from ..formats.hf.save import arch_of_model

        self.arch, self.class_name = arch_of_model(model)
        self.model = model
        self.tensors = {tensor.name: tensor for tensor in model.tensors}

    @cached_property
    def _configs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        from ..formats.hf.save import restore_config

        return restore_config(self.arch, self.class_name, self.model)

    @property
    def config(self) -> dict[str, Any]:
        """The config under the names of ``formats/hf``, with all defaults filled in."""
        return self._configs[0]

    @cached_property
    def class_config(self) -> dict[str, Any]:
        """The content of config.json, under the model class's own names, with ``model_type``."""
        return self._configs[1]

    @property
    def n_layers(self) -> int:
        """How many blocks the model has, those of layers for further tokens among them."""
        return int(self.config["num_hidden_layers"])

    @cached_property
    def layers_path(self) -> str:
        """The name of the list of blocks in transformers' model, such as ``model.layers``.

        Raises:
            UnknownArchitecture: there are several, which do not run one after the other; or blocks are given more than
                hidden states by the first.
        """
        if any(rule.stack == "dec." for rule in self.arch.rules):
            problem = f"{self.arch.name} has an encoder and a decoder: their blocks do not run one after the other"
            raise UnknownArchitecture(problem, path=self.model.path, hint="collect with llama.cpp's llama-imatrix")
        if 0 < sum(tensor.role is Role.ATTN_REL_B for tensor in self.model.tensors) < self.n_layers:
            problem = f"the blocks of {self.arch.name} take what the first makes of distances: none runs alone"
            raise UnknownArchitecture(problem, path=self.model.path, hint="collect with llama.cpp's llama-imatrix")
        if any(Role.ALTUP_PROJ in rule.roles for rule in self.arch.rules):
            problem = f"the blocks of {self.arch.name} hand several predictions on, which a run block by block does not"
            raise UnknownArchitecture(problem, path=self.model.path, hint="collect with llama.cpp's llama-imatrix")
        for rule in self.arch.rules:
            if rule.after is not None:
                problem = f"the blocks of {self.arch.name} run several times, in turn: they cannot run one by one"
                raise UnknownArchitecture(problem, path=self.model.path, hint="collect with llama.cpp's llama-imatrix")
        for rule in self.arch.rules:
            if rule.per_layer:
                first = self._module(rule.modules[0]).format(layer=0, expert=0)
                return (self._renamed(first) if self.encodes else first).partition(".0.")[0]
        raise AssertionError("an architecture without blocks")

    @cached_property
    def encodes(self) -> bool:
        """Whether no model of the architecture predicts tokens: it gives hidden states, or what is made of them."""
        return all(cls.bare or cls.head or cls.without_head for cls in self.arch.classes.values())

    def check_predicts(self) -> None:
        """Check that there are predictions to judge.

        Raises:
            UnknownArchitecture: the model ``encodes``.
        """
        if self.encodes:
            raise UnknownArchitecture(f"{self.arch.name} predicts no tokens: nothing to judge", path=self.model.path)

    @property
    def bare_class(self) -> str:
        """The name of transformers' class without a head, of an architecture that ``encodes``."""
        wanted = self.class_config["model_type"]
        classes = ((name, cls) for name, cls in self.arch.classes.items() if cls.bare and cls.model_type == wanted)
        return next(name for name, cls in classes if not cls.without_head).partition("/")[0]

    @property
    def named(self) -> bool:
        """Whether the rules' names begin as those in a class with a head."""
        base = self.arch.base
        return bool(base) and any(rule.modules[0].startswith(base) for rule in self.arch.rules)

    @cached_property
    def wrapper(self) -> str | None:
        """The class with a head around the text model, if transformers has none of the text model alone."""
        wraps, classes = self.arch.classes[self.class_name].wraps, self.arch.classes.items()
        return next((name for name, cls in classes if wraps and cls.wraps == wraps and not cls.bare), None)

    def _module(self, name: str) -> str:
        """The name in transformers' model of what the checkpoint's names call so."""
        base, module = self.arch.base, LANGUAGE_MODEL if self.wrapper else self.arch.module
        return module + name.removeprefix(base) if module and name.startswith(base) else name

    @cached_property
    def tied(self) -> bool:
        """Whether the embedding is the output matrix too."""
        return "output.weight" not in self.tensors

    @property
    def hidden_width(self) -> int:
        """The width of what goes from block to block: of all residual streams, and of what a token carries."""
        return self.embedding.width * int(self.config.get("hc_mult") or 1) + self.carried.width

    @cached_property
    def carried(self) -> Carried:
        """What tokens carry beside their hidden states."""
        return Carried(self.config)

    @property
    def token_tables(self) -> dict[str, Tensor]:
        """The tables beside the embedding that are looked up by tokens, by their modules' names."""
        return {
            self._module(rule.modules[0]): self._tensor("per_layer_token_embd.weight")
            for rule in self.arch.rules
            if rule.roles == _LOOKED_UP and not rule.per_layer and rule.when(self.config)
        }

    @property
    def hashed_tables(self) -> dict[int, Tensor]:
        """The tables that blocks look hashes of n-grams up in, by the blocks' numbers."""
        found = (slot.layer for slot in self._slots if slot.rule.roles == _LOOKED_UP)
        return {layer: self._tensor("per_layer_token_embd.weight") for layer in found if layer is not None}

    @property
    def embedding(self) -> Tensor:
        """The token embedding."""
        return self._as_in_checkpoint(self._tensor("token_embd.weight"))

    @property
    def head(self) -> Tensor:
        """The output matrix, which is the embedding where they are tied."""
        return self._as_in_checkpoint(self._tensor("token_embd.weight" if self.tied else "output.weight"))

    @property
    def head_bias(self) -> NDArray[np.float32] | None:
        """What is added to the logits; None for most models."""
        return read_floats(self.tensors["output.bias"]) if "output.bias" in self.tensors else None

    def _as_in_checkpoint(self, tensor: Tensor) -> Tensor:
        """A tensor outside the blocks, under its name in GGUF, with the weights that the checkpoint has."""
        slot = next((slot for slot in self._slots if not slot.rule.key and slot.targets == (tensor.name,)), None)
        return tensor if slot is None else slot.to_hf((tensor,))[0]

    def _tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise UnmatchedTensor("the model has no such tensor", path=self.model.path, where=name)
        return self.tensors[name]

    def block(
        self, layer: int, module: torch.nn.Module, read: Reader | None = None
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        """Read a block's parameters and the buffers that checkpoints hold, such as what corrects experts' scores.

        Args:
            read: reads a matrix that is a tensor of its own; None for ``read_floats``.

        Yields:
            a name relative to the block, and what ``read`` gives, or float32 weights, in its shape.

        Raises:
            UnmatchedTensor: the model lacks a weight of the block, or has it in another shape.
        """
        wanted = {name: tuple(p.shape) for name, p in module.state_dict().items()}
        rest: dict[str, Tensor] = {}
        read = read or read_floats
        parameters = {name for name, _ in module.named_parameters()}
        for slot in self._slots:
            if slot.layer == layer and not (
                slot.rule.roles == _LOOKED_UP or (_is_stacked(slot) and self._is_converted(slot))
            ):
                for name, tensor in self._of_slot(slot):
                    short = self._in_block(name, layer, wanted)
                    if short in wanted:
                        how = read if short in parameters else read_floats
                        yield short, self._checked(tensor, wanted.pop(short), how)
                    else:
                        rest[short] = tensor
        for name, tensor in rest.items():
            if parts := tuple(part for part in self._chunks(name) if part in wanted):
                yield from zip(parts, np.split(read_floats(tensor), len(parts)), strict=True)
                for part in parts:
                    wanted.pop(part)
        for name in list(wanted):
            if (parts := _parts(name)) and rest.keys() >= {*parts}:
                wanted.pop(name)
                yield name, np.concatenate([read_floats(rest[part]) for part in parts])
        for name in [n for n in wanted if n.rpartition(".")[2] in _EXPERT_STACKS]:
            stacks = [read(self._tensor(stack)) for stack in self._stacks(name, layer)]
            wanted.pop(name)
            yield name, stacks[0] if len(stacks) == 1 else np.concatenate(stacks, axis=1)
        if wanted:
            raise UnmatchedTensor(
                f"the model has no weights for {', '.join(sorted(wanted))}", path=self.model.path, where=f"blk.{layer}"
            )

    def projection(self) -> dict[str, RecordedWeight]:
        """The matrix behind the last norm of a model that ``encodes``, by parameter name; {} if it has none."""
        if not self.encodes:
            return {}
        outer = (slot for slot in self._slots if slot.rule.role is Role.OUTPUT)
        return {self._module(slot.sources[0]): RecordedWeight(slot.targets) for slot in outer}

    def _stacks(self, name: str, layer: int) -> tuple[str, ...]:
        """The tensors that a block's stack of experts is made of; () for other parameters."""
        fused = tensor_name(Role.FFN_GATE_UP_EXPS, layer)
        last = name.rpartition(".")[2]
        if last == "gate_up_proj" and fused in self.tensors:
            return (fused,)
        return tuple(tensor_name(role, layer) for role in _EXPERT_STACKS.get(last, ()))

    def outer(self, module: torch.nn.Module) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Read the parameters outside the blocks, other than embedding and output matrix, under their full names."""
        wanted = {name: tuple(p.shape) for name, p in module.named_parameters()}
        for slot in self._slots:
            by_token = _BY_TOKEN[:-1] if self.encodes else _BY_TOKEN
            if slot.layer is None and slot.rule.role not in by_token:
                for source, tensor in self._of_slot(slot):
                    name = source if source in wanted else self._renamed(source)
                    if name in wanted:
                        yield name, self._checked(tensor, wanted[name])

    @cached_property
    def _slots(self) -> tuple[Slot, ...]:
        return tuple(self.arch.slots(self.config))

    def _of_slot(self, slot: Slot) -> Iterator[tuple[str, Tensor]]:
        from ..formats.hf.key_tensors import from_keys

        if slot.rule.key:
            number = from_keys(slot, self.model.metadata)
            yield from [] if number is None else [(self._module(number.name), number)]
            return
        made = tuple(self.tensors[name] for name in slot.targets if name in self.tensors)
        if len(made) == len(slot.targets):
            yield from zip(map(self._module, slot.sources), slot.to_hf(made), strict=True)

    def _in_block(self, name: str, layer: int, known: Container[str]) -> str:
        """The name that a block's module has for what a checkpoint calls ``name``: the same, or as it is renamed."""
        prefix = f"{self.layers_path}.{layer}."
        number = further_number(layer, self.config)
        if self.arch.further and number is not None and self.arch.further.at:
            start = self.arch.further.at.format(number=number)
            name = prefix + name.removeprefix(start) if name.startswith(start) else name
        plain = name.removeprefix(prefix)
        if plain in known:
            return plain
        return self._renamed(name).removeprefix(prefix)

    def _renamed(self, name: str) -> str:
        """A checkpoint's name as transformers 5 renames it."""
        from transformers.core_model_loading import rename_source_key

        return str(rename_source_key(name, self._renamings, [])[0])

    def _chunks(self, name: str) -> tuple[str, ...]:
        """The parameters that transformers 5 splits one of a checkpoint into, by equal numbers of rows."""
        from transformers.core_model_loading import Chunk, WeightConverter

        for step in self._loading:
            if isinstance(step, WeightConverter) and [type(one) for one in step.operations] == [Chunk]:
                (pattern,) = step.source_patterns
                if pattern in name:
                    return tuple(name.replace(pattern, target) for target in step.target_patterns)
        return ()

    @cached_property
    def _loading(self) -> tuple[Any, ...]:
        """What transformers 5 does with a checkpoint's tensors when it loads them, alone or in a model that sees."""
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        kind = str(self.class_config["model_type"])
        known = map(get_checkpoint_conversion_mapping, (kind, kind.removesuffix("_text")))
        return tuple(next((steps for steps in known if steps), ()))

    @cached_property
    def _renamings(self) -> list[Any]:
        from transformers.core_model_loading import WeightRenaming

        return [step for step in self._loading if isinstance(step, WeightRenaming)]

    def _is_converted(self, slot: Slot) -> bool:
        """Whether a module has a stack of experts in another way than the checkpoint."""
        from transformers.core_model_loading import WeightConverter

        leaf = slot.sources[0].rpartition(".")[2]
        converters = (step for step in self._loading if isinstance(step, WeightConverter))
        made = (str(pattern) for step in converters for pattern in step.target_patterns)
        return len(slot.sources) > 1 or any(pattern.rpartition(".")[2] == leaf for pattern in made)

    def _checked(self, tensor: Tensor, shape: tuple[int, ...], read: Reader | None = None) -> NDArray[Any]:
        if tensor.shape != shape:
            problem = f"has shape {list(tensor.shape)}, but its module has {list(shape)}"
            raise UnmatchedTensor(problem, path=self.model.path, where=tensor.name)
        return (read or read_floats)(tensor) if tensor.qtype.is_float else _whole_numbers(tensor)

    def recorded_weights(self, layer: int, module: torch.nn.Module) -> dict[str, RecordedWeight]:
        """Every matrix that a block multiplies with, by parameter name."""
        found = {}
        wanted = {name for name, _ in module.named_parameters()}
        by_name = {
            self._in_block(self._module(slot.sources[0]), layer, wanted): slot
            for slot in self._slots
            if slot.layer == layer and slot.part == "weight" and _has_one_input(slot) and len(slot.shape) > 1
        }
        # q, k and v have one input, which is seen where the first is multiplied
        first_chunks = {parts[0]: name for name in by_name if name not in wanted and (parts := self._chunks(name))}
        for name, parameter in module.named_parameters():
            parts, slot = _parts(name), by_name.get(name)
            turned = slot if slot and any(isinstance(op, Transpose) for op in slot.rule.ops) else None
            if parts and by_name.keys() >= {*parts}:
                found[name] = RecordedWeight(tuple(target for part in parts for target in by_name[part].targets))
            elif parameter.dim() == 3 and (stacks := self._stacks(name, layer)):
                turned = turned if turned and not self._is_converted(turned) else None
                found[name] = RecordedWeight(stacks, parameter.shape[0], turned=turned)
            elif slot is not None or name in first_chunks:
                slot = slot or by_name[first_chunks[name]]
                matrices = tuple(one for one in slot.targets if len(self._tensor(one).shape) > 1)
                n = self._tensor(matrices[0]).shape[0] if _is_stacked(slot) else 1
                found[name] = RecordedWeight(matrices, n, _columns(slot), _heads(slot), turned)
        return found

    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer, made from the files that transformers would load.

        Raises:
            TokenizerError: the model has none, or one of a kind that cannot be written.
        """
        from tokenizers import Tokenizer as Encoder

        from ..formats.gguf.vocab import tokenizer_of
        from ..formats.hf.tokenizer.write import write_tokenizer

        tokenizer = tokenizer_of(self.model)
        if tokenizer is None:
            raise TokenizerError("the model has no tokenizer", path=self.model.path)
        with TemporaryDirectory(prefix="quantmill-") as folder, located(self.model.path):
            write_tokenizer(tokenizer, Path(folder))
            encoder = Encoder.from_file(str(Path(folder) / "tokenizer.json"))
        bos = tokenizer.special.get("bos")
        starts = encoder.encode("a").ids[:1] == [bos]
        return TextTokenizer(encoder, bos if starts else None, self.embedding.shape[0])


def _is_stacked(slot: Slot) -> bool:
    return slot.rule.part == "weight" and bool(set(slot.rule.roles) & _STACKED)


def _parts(name: str) -> tuple[str, ...]:
    """The checkpoint's parameters that a module has in one, ``name``; () for other parameters."""
    module, _, leaf = name.rpartition(".")
    before, dot, last = module.rpartition(".")
    return tuple(f"{before}{dot}{part}.{leaf}" for part in _JOINED.get(last, ()))


def _has_one_input(slot: Slot) -> bool:
    """Whether what the first source is multiplied with is the input of all."""
    from ..formats.hf.tables.ops import Concat

    one_below_the_other = [(type(op), getattr(op, "axis", None)) for op in slot.rule.ops] == [(Concat, 0)]
    return len(slot.sources) == 1 or one_below_the_other


def _columns(slot: Slot) -> NDArray[np.intp] | None:
    from ..formats.hf.tables.ops import RegroupColumns

    moves = [op for op in slot.rule.ops if isinstance(op, RegroupColumns)]
    return moves[0].sources(slot.shape[-1], slot.config) if moves else None


def _heads(slot: Slot) -> tuple[int, int] | None:
    if slot.rule.roles != (Role.ATTN_K_B, Role.ATTN_V_B):
        return None
    from ..formats.hf.tables.dimensions import HEADS, Dim

    return HEADS(slot.config), Dim("qk_nope_head_dim")(slot.config)


def _whole_numbers(tensor: Tensor) -> NDArray[Any]:
    """Read a table, such as that of the experts of each token, in its shape."""
    rows = np.ascontiguousarray(tensor.rows(0, tensor.n_rows))
    numbers: NDArray[Any] = rows.view("<i8" if tensor.qtype.name == "I64" else "<i4").reshape(tensor.shape)
    return numbers


def unsupported(error: Exception, path: Path) -> UnknownArchitecture:
    """transformers' own error, in one line."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UnknownArchitecture(f"transformers cannot build this model: {first[:200]}", path=path)
