"""A model of transformers without weights, which is filled part by part; transformers' modules do the arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from ..formats.ir import Tensor
from .encoders import Named, without_pooler
from .floats import Reader, read_bf16, read_floats
from .weights import Weights, unsupported

_KEPT_HEAD = 256 << 20  # bytes; a larger output matrix is read again, in slices, whenever it is used
_HEAD_ROWS = 16384


class Skeleton:
    """The modules of a model. Only those that are running have weights.

    Args:
        weights: where they come from.
        dtype: ``torch.float32`` or ``torch.bfloat16``, of weights and activations.
        device: where it runs.

    Raises:
        UnknownArchitecture: transformers does not have the architecture, or refuses the config; or blocks do not run
            alone.

    Attributes:
        model: transformers' model.
        layers: its blocks.
    """

    def __init__(self, weights: Weights, dtype: torch.dtype, device: str) -> None:
        import transformers
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

        self.weights, self.dtype, self.device = weights, dtype, device
        self.carried = weights.carried
        config: dict[str, Any] = _with_floats(weights.class_config)
        tables = weights.hashed_tables
        if tables:  # their modules are replaced: small ones need no memory
            config["ngram_vocab_size_base"] = 1
        try:
            built = AutoConfig.for_model(config.pop("model_type"), **config)
            # eager experts are plain linear products, which imatrix/record_inputs.py can record
            built._experts_implementation = built.get_text_config()._experts_implementation = "eager"
            listed = not (weights.encodes or weights.wrapper) and type(built) in MODEL_FOR_CAUSAL_LM_MAPPING
            own = weights.bare_class if weights.encodes else weights.wrapper or next(iter(weights.arch.classes))
            cls = MODEL_FOR_CAUSAL_LM_MAPPING[type(built)] if listed else getattr(transformers, own)
            make = AutoModelForCausalLM.from_config if listed else cls._from_config
            attention = "sdpa" if cls._supports_sdpa else "eager"
            with _parameters_on_meta():
                self.model = make(built, attn_implementation=attention, dtype=dtype)
        except (KeyError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
            raise unsupported(error, weights.model.path) from error
        self.model.eval()
        if weights.encodes:
            self.model = without_pooler(self.model)
            if weights.named:
                self.model = Named(self.model, weights.arch.base)
        self._streams: tuple[int, ...] = ()  # known once something was embedded
        parent, _, self._list_name = weights.layers_path.rpartition(".")
        self.base = self.model.get_submodule(parent)
        self._entry = self.model if weights.encodes else self.base  # what takes tokens
        self.layers = list(getattr(self.base, self._list_name))
        for layer, table in tables.items():
            for name, part in [*self.layers[layer].named_modules()]:
                if isinstance(part, nn.Embedding):
                    self.layers[layer].set_submodule(name, _HashedTable(table, dtype, device))
        for name, buffer in list(self.model.named_buffers()):
            owner, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(owner), leaf, buffer.to(device))

    def embed(self, batches: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, list[BlockInputs]]]:
        """Compute, for each batch int64 [chunks, n_ctx], what enters the first block, and each block's other inputs."""
        tables = [(self.model.get_input_embeddings(), self.weights.embedding)]
        tables += [(self.model.get_submodule(name), table) for name, table in self.weights.token_tables.items()]
        used, positions = np.unique(torch.cat([b.reshape(-1) for b in batches]).numpy(), return_inverse=True)
        for module, table in tables:
            module.weight = self._parameter(_rows(table, used))
            module.padding_idx = None  # type: ignore[assignment]  # another row's now; it matters in training only
        self._fill(self.model, self.weights.outer(self.model))
        recorders = [_RecordInput(layer) for layer in self.layers]
        start = 0
        try:
            for batch in batches:
                ids = torch.from_numpy(positions.reshape(-1)[start : start + batch.numel()]).reshape(batch.shape)
                start += batch.numel()
                with self._instead_of_layers(recorders):
                    self._entry(**self._entering(ids.to(self.device)), use_cache=False)
                hidden = recorders[0].hidden
                self._streams = tuple(hidden.shape[2:-1])
                own = [each.inputs.args[0] for each in recorders] if self.carried.own else []
                inputs = [each.inputs.with_tokens(batch.to(self.device)) for each in recorders]
                for layer, one in enumerate(inputs):
                    one.layer = layer
                yield self.carried.joined(hidden.flatten(2), own), inputs
        finally:
            for module, _ in tables:  # but keep the buffers
                module.weight = nn.Parameter(torch.empty_like(module.weight, device="meta"), requires_grad=False)

    def _entering(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The arguments for tokens, by their rows in the table.

        Encoders are given the embeddings: some would take the number of a row for the padding's, and count positions by
        it, which llama.cpp does not.
        """
        if self.weights.encodes:
            return {"inputs_embeds": self.model.get_input_embeddings()(rows)}
        return {"input_ids": rows}

    @contextmanager
    def block(self, layer: int, like: int | None = None) -> Iterator[nn.Module]:
        """A block with its weights, which are dropped when the context ends.

        Args:
            like: the number of the block whose module it takes; None for its own.
        """
        module = self.layers[layer if like is None else like]
        self._fill(module, self.weights.block(layer, module, self._read))
        try:
            yield module
        finally:
            module.to("meta")

    def refill(self, layer: int, module: nn.Module) -> None:
        """Read the weights of a block that ``block`` gave again, after some of them were replaced."""
        self._fill(module, self.weights.block(layer, module, self._read))

    def run_block(self, module: nn.Module, hidden: torch.Tensor, inputs: BlockInputs) -> torch.Tensor:
        """Run hidden states [chunks, n_ctx, width], of all residual streams side by side, through a block.

        Args:
            module: from ``block``.
            hidden: what enters it.
            inputs: its other inputs, from ``embed``.
        """
        if self.carried.width:
            hidden = hidden.to(self.device)
            return self.carried.run(module, hidden, inputs.layer, inputs.args, inputs.kwargs, self.apart)
        out = module(self.apart(hidden).to(self.device), *inputs.args, **inputs.kwargs)
        result: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return result.flatten(2)

    def apart(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states as the modules have them: where there are several residual streams, in an axis of their own."""
        return hidden.reshape(*hidden.shape[:2], *self._streams, -1) if self._streams else hidden

    @contextmanager
    def head(self, keep: int, see: Callable[[torch.Tensor], None] | None = None) -> Iterator[Head]:
        """What comes after the blocks: the last norm and the output matrix.

        Args:
            keep: compute logits only for this many positions at the end of each chunk.
            see: called with the output matrix's input at all positions.

        Raises:
            UnknownArchitecture: the model predicts no tokens.
        """
        self.weights.check_predicts()
        own = self.model.get_output_embeddings()
        product = _HeadProduct(self.weights.head, self.weights.head_bias, self.dtype, self.device, keep, see)
        self.model.set_output_embeddings(product)
        try:
            yield Head(self)
        finally:
            self.model.set_output_embeddings(own)

    @contextmanager
    def last_norm(self) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        """What the last norm gives, of what left the last block, both [chunks, n_ctx, width].

        Of a model without a head that is all it gives, after a projection where it has one.
        """
        if self.weights.encodes:
            yield Head(self)
            return
        own, kept = self.model.get_output_embeddings(), _KeepInput()
        self.model.set_output_embeddings(kept)
        try:
            head = Head(self)
            yield lambda hidden: (head(hidden), kept.hidden)[1]
        finally:
            self.model.set_output_embeddings(own)

    @contextmanager
    def _instead_of_layers(self, modules: list[Any]) -> Iterator[None]:
        setattr(self.base, self._list_name, nn.ModuleList(modules))
        try:
            yield
        finally:
            setattr(self.base, self._list_name, nn.ModuleList(self.layers))

    def _fill(self, module: nn.Module, named: Iterator[tuple[str, np.ndarray[Any, Any]]]) -> None:
        for name, values in named:
            owner, _, leaf = name.rpartition(".")
            part = module.get_submodule(owner)
            if leaf in part._buffers:  # in its own type, which transformers does not round
                setattr(part, leaf, torch.from_numpy(values).to(self.device, part.get_buffer(leaf).dtype))
            else:
                setattr(part, leaf, self._parameter(values))

    def _parameter(self, values: np.ndarray[Any, Any]) -> nn.Parameter:
        """A parameter in memory of torch's own: how a product is rounded may depend on how its factors are aligned."""
        bits = values.dtype == np.uint16  # as ``read_bf16`` gives them
        tensor = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16) if bits else torch.from_numpy(values)
        return nn.Parameter(tensor.to(self.device, self.dtype, copy=True), requires_grad=False)

    @property
    def _read(self) -> Reader:
        return read_bf16 if self.dtype == torch.bfloat16 else read_floats


class Head:
    """What comes after the blocks as one function; see ``Skeleton.head`` and ``Skeleton.last_norm``."""

    def __init__(self, skeleton: Skeleton) -> None:
        self.skeleton = skeleton

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute logits [chunks, keep, vocab] from what left the last block, [chunks, n_ctx, width].

        Of a model without a head the last hidden states, [chunks, n_ctx, width].
        """
        skeleton = self.skeleton
        hidden = skeleton.apart(skeleton.carried.hidden(hidden)).to(skeleton.device)
        one = hidden if hidden.dim() == 3 else hidden[:, :, 0]  # instead of embeddings, which nothing reads
        n, width = skeleton.carried.n_layers, skeleton.carried.own
        given = width and not skeleton.weights.encodes
        own = {"per_layer_inputs": one.new_zeros(*one.shape[:2], n, width)} if given else {}
        if skeleton.weights.hashed_tables:
            own["ple_input_ids"] = torch.zeros(one.shape[:2], dtype=torch.long, device=skeleton.device)
        stand_ins = [_ReplaceInput(layer, hidden) for layer in skeleton.layers]
        with skeleton._instead_of_layers(stand_ins):
            out = skeleton.model(inputs_embeds=one, use_cache=False, **own)
        result: torch.Tensor = out.last_hidden_state if skeleton.weights.encodes else out.logits
        return result.as_subclass(torch.Tensor)  # where nothing comes after the blocks, it is a stand-in's


class BlockInputs:
    """What a block is given besides the hidden states: masks, positions, rotary tables."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs
        self.layer = 0

    def with_tokens(self, tokens: torch.Tensor) -> BlockInputs:
        """The same for these tokens, of a model whose blocks are given them."""
        given = [key for key in ("input_ids", "ple_input_ids") if self.kwargs.get(key) is not None]
        if not given:
            return self
        made = BlockInputs(self.args, {**self.kwargs, **dict.fromkeys(given, tokens)})
        made.layer = self.layer
        return made


class _BlockOutput(torch.Tensor):
    """Hidden states that a model may also take for a pair with no attention weights, as some blocks return one."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # results are plain

    def __iter__(self) -> Iterator[Any]:
        return iter((self.as_subclass(torch.Tensor), None))

    def __getitem__(self, at: Any) -> Any:
        return tuple(self)[at] if isinstance(at, int) else self.as_subclass(torch.Tensor)[at]


class _LayerStandIn(nn.Module):
    """Takes a block's place in the model; all attributes other than ``forward`` are the block's."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.__dict__["layer"] = layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)


class _RecordInput(_LayerStandIn):
    """Keeps what the block would be given."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.__dict__["hidden"], self.__dict__["inputs"] = hidden_states, BlockInputs(args, kwargs)
        return hidden_states.as_subclass(_BlockOutput)


class _ReplaceInput(_LayerStandIn):
    """Returns fixed hidden states, whatever it is given."""

    def __init__(self, layer: nn.Module, hidden: torch.Tensor) -> None:
        super().__init__(layer)
        self.__dict__["hidden"] = hidden

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        hidden: torch.Tensor = self.__dict__["hidden"]
        return hidden.as_subclass(_BlockOutput)


class _HashedTable(nn.Module):
    """Takes the place of an embedding that is larger than memory: the rows that are looked up are read."""

    def __init__(self, tensor: Tensor, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self.tensor, self.dtype = tensor, dtype
        self.weight = torch.empty(0, device=device)  # whose device is where the numbers are wanted

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        used, positions = np.unique(numbers.cpu().numpy(), return_inverse=True)
        rows = np.concatenate([read_floats(self.tensor, row, row + 1).reshape(1, -1) for row in used.tolist()])
        return torch.from_numpy(rows[positions.reshape(numbers.shape)]).to(numbers.device, self.dtype)


class _KeepInput(nn.Module):
    """Takes the output matrix's place and keeps what it is given."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.hidden = hidden
        return hidden


class _HeadProduct(nn.Module):
    """The product with the output matrix, which is kept if it is small, and else read in slices of rows."""

    def __init__(
        self,
        tensor: Tensor,
        bias: np.ndarray[Any, Any] | None,
        dtype: torch.dtype,
        device: str,
        keep: int,
        see: Callable[[torch.Tensor], None] | None,
    ) -> None:
        super().__init__()
        self.tensor, self.dtype, self.device, self.keep, self.see = tensor, dtype, device, keep, see
        small = tensor.n_weights * dtype.itemsize <= _KEPT_HEAD
        self.kept = _whole(tensor, dtype).to(device) if small else None
        self.bias = None if bias is None else torch.from_numpy(bias).to(device, dtype)
        self.weight = torch.empty(0, dtype=dtype, device=device)  # whose type is what Mamba makes the hidden states

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.see is not None:
            self.see(hidden)
        hidden = hidden[:, -self.keep :]
        if self.kept is not None:
            return nn.functional.linear(hidden, self.kept, self.bias)
        out = hidden.new_empty(*hidden.shape[:-1], self.tensor.n_rows)
        for a in range(0, self.tensor.n_rows, _HEAD_ROWS):
            b = min(a + _HEAD_ROWS, self.tensor.n_rows)
            rows = torch.from_numpy(read_floats(self.tensor, a, b).reshape(b - a, -1)).to(self.device, self.dtype)
            out[..., a:b] = nn.functional.linear(hidden, rows, None if self.bias is None else self.bias[a:b])
        return out


def _whole(tensor: Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.bfloat16:
        return torch.from_numpy(read_bf16(tensor).view(np.int16)).view(dtype)
    return torch.from_numpy(read_floats(tensor)).to(dtype)


def embedding_rows(embedding: Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The rows of an embedding, float32 [..., width], for the tokens int64 [...]."""
    used, positions = np.unique(ids.numpy(), return_inverse=True)
    return torch.from_numpy(_rows(embedding, used)[positions.reshape(ids.shape)])


def _rows(tensor: Tensor, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Read the rows with the given numbers, which rise: float32 [len(numbers), width]."""
    out = np.empty((len(numbers), tensor.width), np.float32)
    at = 0
    for start in range(0, tensor.n_rows, _HEAD_ROWS):
        stop = min(start + _HEAD_ROWS, tensor.n_rows)
        end = int(np.searchsorted(numbers, stop))
        if end > at:
            out[at:end] = read_floats(tensor, start, stop).reshape(stop - start, -1)[numbers[at:end] - start]
        at = end
    return out


def _with_floats(value: Any) -> Any:
    """A config.json's content with the floats that transformers 5 writes as objects, since JSON has none such."""
    if isinstance(value, dict):
        special = value.get("__float__")
        return float(special) if special is not None else {key: _with_floats(one) for key, one in value.items()}
    return [_with_floats(one) for one in value] if isinstance(value, list) else value


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules made inside have their parameters on the meta device, but their buffers (rotary tables) in memory."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
