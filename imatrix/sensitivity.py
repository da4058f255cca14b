"""Measure how much a model's predictions change with errors in each matrix, by a forward and a backward pass.

To second order, KL(model || model with errors e) = 1/2 sum_rj G_rj e_rj^2 for each token, if the errors are
independent. G_rj is the mean square of the gradient, with respect to weight rj, of the log-likelihood of a text whose
tokens are drawn from the model's own predictions: the diagonal of the Fisher information. The positions of one text add
up in the gradient before it is squared, because one weight's error is the same at all of them, and attention gathers
it. The mean of G over a matrix turns importance-weighted error into nats. Rows with large weights count more in it,
since their errors are larger too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..formats.arrays import tensor_from_array
from ..formats.ir import Tensor
from ..formats.progress import Progress, StepDone
from .corpus import Corpus
from .floats import read_floats
from .skeleton import BlockInputs, Skeleton
from .sums import RecordedWeight
from .weights import Weights

_SEED = 0x51  # for drawing tokens; the same text gives the same figures
_SAMPLED_ROWS = 512  # of a large embedding, to estimate the size of its weights


@dataclass
class MeasuredSensitivity:
    """How sensitive a model's predictions are to errors e of one tensor.

    Args:
        scales: float64 [n_matrices], the nats per token for each unit of sum_rj c_j e_rj^2, where the importance c_j of
            the columns has a mean of 1.
        columns: float64 [width], c_j where it was measured here; None where an importance matrix has it.
    """

    scales: NDArray[np.float64]
    columns: NDArray[np.float64] | None = None


def measure_sensitivity(
    weights: Weights, corpus: Corpus, device: str = "cpu", progress: Progress | None = None
) -> dict[str, MeasuredSensitivity]:
    """Measure the sensitivity of every matrix in the blocks, of the embedding and of the output matrix, by GGUF name.

    One block's weights are in memory at a time, and the activations between all blocks: chunks * n_ctx * width float32
    numbers for each block.

    Args:
        weights: the model.
        corpus: a text; a few thousand tokens are enough.
        device: a torch device.
        progress: called with a ``StepDone`` for every block forward, and every chunk of a block back.

    Raises:
        UnknownArchitecture: the model predicts no tokens.
    """
    weights.check_predicts()
    skeleton = Skeleton(weights, torch.float32, device)
    n = len(skeleton.layers)
    chunks = range(corpus.n_chunks)
    entering, inputs = _forward(skeleton, corpus, progress)
    figures: dict[str, MeasuredSensitivity] = {}
    gradients = _backward_head(skeleton, entering.pop(), weights.head.name, figures)
    n_tokens = corpus.n_chunks * corpus.n_ctx
    for layer in reversed(range(n)):
        hidden = entering.pop()
        with skeleton.block(layer) as module:
            targets = weights.recorded_weights(layer, module)
            watched = {name: p for name, p in module.named_parameters() if name in targets}
            for parameter in watched.values():
                parameter.requires_grad_(True)
            for chunk in chunks:
                given = inputs[layer].with_tokens(_tokens(corpus, chunk, skeleton))
                gradients[chunk] = _back(skeleton, module, hidden[chunk], given, gradients[chunk])
                for name, parameter in watched.items():
                    _add(figures, weights, targets[name], parameter, n_tokens)
                if progress is not None:
                    progress(StepDone(f"back {n - layer}/{n}", chunk + 1, corpus.n_chunks))
    _add_embedding(weights, corpus, gradients, figures)
    return figures


def _add(
    figures: dict[str, MeasuredSensitivity],
    weights: Weights,
    weight: RecordedWeight,
    parameter: torch.Tensor,
    n_tokens: int,
) -> None:
    """Add one chunk's share to the figures of a parameter, and drop its gradient."""
    gradient, parameter.grad = parameter.grad, None
    if gradient is None:  # no token was routed there
        return
    tensors = [weights.tensors[name] for name in weight.names]
    parts = zip(*(apart(x, weight, tensors) for x in (parameter.detach(), gradient)), strict=True)
    for tensor, (w, g) in zip(tensors, parts, strict=True):
        power = w.pow(2).mean(2).double()
        mean = (g.pow(2).mean(2).double() * power).sum(1) / power.sum(1).clamp_min(1e-30)
        found = figures.setdefault(tensor.name, MeasuredSensitivity(np.zeros(weight.n_matrices)))
        found.scales += 0.5 * mean.cpu().numpy() / n_tokens


def apart(x: torch.Tensor, weight: RecordedWeight, tensors: Sequence[Tensor]) -> Sequence[torch.Tensor]:
    """A parameter, or its gradient, as the tensors in the file that it becomes: each [n_matrices, out, in]."""
    if weight.turned is not None:
        found = weight.turned.to_gguf((tensor_from_array("x", x.cpu().float().numpy()),))
        return [torch.from_numpy(read_floats(one)).reshape(weight.n_matrices, -1, one.width) for one in found]
    stacked = x.reshape(weight.n_matrices, -1, x.shape[-1])
    return torch.split(stacked, [tensor.shape[-2] for tensor in tensors], 1)


def _forward(
    skeleton: Skeleton, corpus: Corpus, progress: Progress | None
) -> tuple[list[list[torch.Tensor]], list[BlockInputs]]:
    """What enters each block and leaves the last, [1, n_ctx, width] for each chunk, and the blocks' other inputs."""
    entering: list[list[torch.Tensor]] = [[]]
    inputs: list[BlockInputs] = []
    with torch.no_grad():
        ids = [torch.from_numpy(corpus.inputs[chunk : chunk + 1]).long() for chunk in range(corpus.n_chunks)]
        for hidden, others in skeleton.embed(ids):
            entering[0].append(hidden)
            inputs = others  # the same for all chunks, but for the tokens
        for layer in range(len(skeleton.layers)):
            with skeleton.block(layer) as module:
                leaving = []
                for chunk, hidden in enumerate(entering[-1]):
                    given = inputs[layer].with_tokens(_tokens(corpus, chunk, skeleton))
                    leaving.append(skeleton.run_block(module, hidden, given))
                entering.append(leaving)
            if progress is not None:
                progress(StepDone(f"forward {layer + 1}/{len(skeleton.layers)}", 1, 1))
    return entering, inputs


def _tokens(corpus: Corpus, chunk: int, skeleton: Skeleton) -> torch.Tensor:
    return torch.from_numpy(corpus.inputs[chunk : chunk + 1]).long().to(skeleton.device)


def _backward_head(
    skeleton: Skeleton, leaving: list[torch.Tensor], name: str, figures: dict[str, MeasuredSensitivity]
) -> list[torch.Tensor]:
    """The gradient with respect to what leaves the last block, for each chunk; sets the output matrix's figures."""
    seen: list[torch.Tensor] = []
    generator = torch.Generator().manual_seed(_SEED)
    gradients, spread = [], 0.0
    squares = np.zeros(skeleton.weights.embedding.width)
    keep = leaving[0].shape[1]
    with skeleton.head(keep, lambda x: seen.append(x.detach())) as run:
        for hidden in leaving:
            start = hidden.detach().requires_grad_(True)
            log_p = torch.log_softmax(run(start).float(), -1).reshape(keep, -1)
            p = log_p.detach().exp()
            drawn = torch.multinomial(p.cpu(), 1, generator=generator).to(log_p.device)
            (-log_p.gather(1, drawn).sum()).backward()  # type: ignore[no-untyped-call]
            assert start.grad is not None
            gradients.append(start.grad)
            spread += float((1 - p.double().pow(2).sum(1)).sum()) / p.shape[1]  # mean over rows of p (1 - p)
            squares = squares + seen.pop().double().pow(2).sum((0, 1)).cpu().numpy()
    n_tokens = keep * len(leaving)
    columns = squares / n_tokens
    mean = float(columns.mean())
    figures[name] = MeasuredSensitivity(np.array([0.5 * spread / n_tokens * mean]), columns / max(mean, 1e-300))
    return gradients


def _back(
    skeleton: Skeleton, module: torch.nn.Module, hidden: torch.Tensor, inputs: BlockInputs, gradient: torch.Tensor
) -> torch.Tensor:
    """The gradient with respect to a block's input, from that with respect to its output; sets its parameters' too."""
    start = hidden.detach().requires_grad_(True)
    with torch.enable_grad():
        skeleton.run_block(module, start, inputs).backward(gradient)  # type: ignore[no-untyped-call]
    assert start.grad is not None
    return start.grad


def _add_embedding(
    weights: Weights, corpus: Corpus, gradients: list[torch.Tensor], figures: dict[str, MeasuredSensitivity]
) -> None:
    """Set the embedding's figures. A row's error acts at each place of its token, and grows with its weights."""
    tensor = weights.embedding
    every = read_floats(tensor, 0, tensor.n_rows) if tensor.n_rows <= _SAMPLED_ROWS else _sampled(weights)
    mean_power = float(np.square(every, dtype=np.float64).mean())
    together, alone = np.zeros(tensor.width), np.zeros(tensor.width)
    for tokens, gradient in zip(corpus.inputs, gradients, strict=True):
        used, where = np.unique(tokens, return_inverse=True)
        by_position = gradient[0].double().cpu().numpy()
        power = np.array([np.square(read_floats(tensor, int(i), int(i) + 1), dtype=np.float64).mean() for i in used])
        rows = np.zeros((len(used), tensor.width))
        np.add.at(rows, where.reshape(-1), by_position)
        together += power / mean_power @ np.square(rows)
        alone += (power / mean_power)[where.reshape(-1)] @ np.square(by_position)
    # The places of a token may cancel out in one text and add up in the next (spaces of a table): assume the worse.
    by_column = together if together.sum() > alone.sum() else alone
    by_column *= 0.5 / tensor.n_rows / corpus.tokens.size
    found = figures.get(tensor.name)
    if found is not None:  # the matrices are tied: add both uses
        assert found.columns is not None
        by_column = by_column + found.scales[0] * found.columns
    mean = float(by_column.mean())
    figures[tensor.name] = MeasuredSensitivity(np.array([mean]), by_column / max(mean, 1e-300))


def _sampled(weights: Weights) -> NDArray[np.float32]:
    tensor = weights.embedding
    rows = np.linspace(0, tensor.n_rows - 1, _SAMPLED_ROWS).astype(int)
    return np.concatenate([read_floats(tensor, int(i), int(i) + 1) for i in rows])
