"""The layers that predict further tokens, run after all blocks for the inputs of their weights: llama-imatrix --nextn.

Such a layer takes at each position the token there and what the last norm of the model gave one position before, both
normed, side by side; ``nextn.eh_proj`` makes hidden states of them, which go through a block of the model's own kind,
another norm and, where the layer has one, a head of its own. Source: common/speculative.cpp and the ``graph_mtp`` of
src/models/*.cpp in llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from ..formats.gguf.names import tensor_name
from ..formats.hf.tables.rules import further_number
from ..formats.ir import Role
from ..formats.progress import Progress, StepDone, note
from .collect import Collector, NonFinite
from .floats import read_floats
from .record_inputs import record_inputs
from .runner import Runner
from .skeleton import embedding_rows
from .sums import RecordedWeight
from .weights import Weights


@torch.inference_mode()
def collect_further(runner: Runner, collector: Collector, progress: Progress | None = None) -> None:
    """Collect the inputs of the weights of layers that predict further tokens, if the model has any.

    Args:
        runner: after its last block; its activations stay as they are.
        collector: takes the inputs.
        progress: called with a ``StepDone`` after each batch, and with a ``Note`` about a layer that cannot run.

    Raises:
        QuantmillError: an activation is not finite, and such chunks may not be left out.
    """
    for layer in range(runner.n_layers, runner.weights.n_layers):
        like = same_kind(runner.weights, layer)
        if like is None:
            note(progress, f"blk.{layer} is like none of the model's own blocks: no importance for it", important=True)
            continue
        with runner.skeleton.block(layer, like) as module, runner.skeleton.last_norm() as last_norm:
            run = _FurtherLayer(runner, collector, layer, like, module, last_norm)
            for number, batch in enumerate(runner.batches):
                _run(run, [chunk for chunk in batch if chunk not in runner.dropped])
                if progress is not None:
                    progress(StepDone(f"further tokens, blk.{layer}", number + 1, len(runner.batches)))
        if collector.moments is not None:
            collector.moments.finish(f"{layer:05d}")


def same_kind(weights: Weights, layer: int) -> int | None:
    """The last of the model's own blocks that has the tensors of a further layer's block; None if none has."""
    kinds: dict[int | None, set[object]] = {}
    for tensor in weights.tensors.values():
        if (
            not tensor.role.value.startswith("nextn.") and tensor.role is not Role.LAYER_OUT_NORM
        ):  # Ling 3.0's, behind it
            kinds.setdefault(tensor.layer, set()).add((tensor.role, tensor.name.rpartition(".")[2], tensor.shape))
    own = (number for number in kinds if number is not None and further_number(number, weights.config) is None)
    return max((number for number in own if kinds[number] == kinds[layer]), default=None)


def _run(layer: _FurtherLayer, chunks: list[int]) -> None:
    if not chunks:
        return
    try:
        layer(chunks)
    except NonFinite as error:
        layer.collector.discard()
        if len(chunks) == 1:
            layer.runner.drop(chunks[0], error.name)
        else:  # to find out which chunk it is, run them one by one
            for chunk in chunks:
                _run(layer, [chunk])
        return
    layer.collector.commit()


class _FurtherLayer:
    """One such layer.

    Args:
        layer: its block's number.
        like: the number of a block of the same kind, whose other inputs it takes.
        module: the block, filled with its weights.
        last_norm: gives what the model's last norm makes of its activations.
    """

    def __init__(
        self,
        runner: Runner,
        collector: Collector,
        layer: int,
        like: int,
        module: torch.nn.Module,
        last_norm: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self.runner, self.collector, self.layer, self.like, self.module = runner, collector, layer, like, module
        self.last_norm = last_norm
        self.targets = runner.weights.recorded_weights(layer, module)
        config = runner.weights.config
        self.rms = config.get("rms_norm_eps") is not None
        self.eps = float(config["rms_norm_eps" if self.rms else "layer_norm_eps"])
        tensors = runner.weights.tensors
        self.embedding = tensors.get(tensor_name(Role.NEXTN_EMBED_TOKENS, layer), runner.weights.embedding)

    def __call__(self, chunks: list[int]) -> None:
        """Run some chunks through it."""
        hidden = self.last_norm(self.runner.activations.get(chunks))
        before = functional.pad(hidden[:, :-1], (0, 0, 1, 0))  # the first has no position before it
        ids = torch.from_numpy(self.runner.corpus.inputs[chunks]).long()
        tokens = embedding_rows(self.embedding, ids).to(hidden)
        joined = torch.cat([self._norm(Role.NEXTN_ENORM, tokens), self._norm(Role.NEXTN_HNORM, before)], dim=-1)
        name = tensor_name(Role.NEXTN_EH_PROJ, self.layer)
        self.collector.see(RecordedWeight((name,)), 0, joined)
        carried = self.runner.skeleton.carried
        entering = carried.joined(functional.linear(joined, self._weight(name)), [])
        inputs = self.runner.inputs_for(chunks, self.like)
        with record_inputs(self.module, self.targets, self.collector.see, by_head=True):
            out = carried.hidden(self.runner.skeleton.run_block(self.module, entering, inputs))
        head = tensor_name(Role.NEXTN_SHARED_HEAD_HEAD, self.layer)
        if head in self.runner.weights.tensors:
            self.collector.see(RecordedWeight((head,)), 0, self._norm(Role.NEXTN_SHARED_HEAD_NORM, out))

    def _norm(self, role: Role, x: torch.Tensor) -> torch.Tensor:
        name = tensor_name(role, self.layer)
        name = name if name in self.runner.weights.tensors else tensor_name(Role.OUTPUT_NORM)
        norm = functional.rms_norm if self.rms else functional.layer_norm
        return norm(x.float(), x.shape[-1:], weight=self._weight(name).float(), eps=self.eps).to(x)

    def _weight(self, name: str) -> torch.Tensor:
        skeleton = self.runner.skeleton
        values = read_floats(self.runner.weights.tensors[name])
        return torch.from_numpy(values).to(skeleton.device, skeleton.dtype)
