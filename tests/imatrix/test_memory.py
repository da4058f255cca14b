"""A model larger than the memory it is given: 8.4 GB of F16 weights run in less than 3 GB resident."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quantmill.formats.gguf.names import tensor_name
from quantmill.formats.gguf.reader import read_gguf
from quantmill.formats.gguf.writer import TensorInfo, layout
from quantmill.formats.ir import Role, Value, ValueType
from quantmill.formats.qtypes import F16, F32, QType

HIDDEN, FF, KV, VOCAB, LAYERS = 4096, 14336, 1024, 32000, 18  # the blocks of an 8B Llama 3

RUN = """
import resource, sys
from pathlib import Path
import numpy as np
from quantmill.imatrix.collect import Collector
from quantmill.imatrix.corpus import cut
from quantmill.imatrix.activations import Activations
from quantmill.imatrix.runner import DTYPES, ComputeOptions, Runner
from quantmill.imatrix.weights import Weights
from quantmill.formats.gguf.reader import read_gguf
weights = Weights(read_gguf(Path(sys.argv[1])))
text = cut(np.arange(256) % 32000, 128)
run = Runner(weights, text, ComputeOptions(), Activations((2, 128, 4096), DTYPES["f32"], Path(sys.argv[1]).parent))
collector = Collector()
run.embed()
run.finish(collector)
judged = sum(len(wanted) for _, _, wanted in run.logits(collector))
print(len(collector.sums), judged, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def sparse_model(path: Path) -> int:
    """A GGUF file of that size whose weights are a hole: they read as zeros and take no disk."""
    block = {
        Role.ATTN_NORM: (HIDDEN,), Role.ATTN_Q: (HIDDEN, HIDDEN), Role.ATTN_K: (KV, HIDDEN), Role.ATTN_V: (KV, HIDDEN),
        Role.ATTN_OUTPUT: (HIDDEN, HIDDEN), Role.FFN_NORM: (HIDDEN,), Role.FFN_GATE: (FF, HIDDEN),
        Role.FFN_UP: (FF, HIDDEN), Role.FFN_DOWN: (HIDDEN, FF),
    }  # fmt: skip
    outer = {Role.TOKEN_EMBD: (VOCAB, HIDDEN), Role.OUTPUT_NORM: (HIDDEN,), Role.OUTPUT: (VOCAB, HIDDEN)}
    shapes = {tensor_name(role): shape for role, shape in outer.items()}
    shapes |= {tensor_name(role, layer): shape for layer in range(LAYERS) for role, shape in block.items()}
    numbers = {
        "block_count": LAYERS, "context_length": 4096, "embedding_length": HIDDEN, "feed_forward_length": FF,
        "attention.head_count": 32, "attention.head_count_kv": 8, "vocab_size": VOCAB,
    }  # fmt: skip
    metadata = {"general.architecture": Value(ValueType.STRING, "llama")}
    metadata |= {f"llama.{key}": Value(ValueType.UINT32, number) for key, number in numbers.items()}
    metadata["llama.attention.layer_norm_rms_epsilon"] = Value(ValueType.FLOAT32, float(np.float32(1e-5)))

    def kind(shape: tuple[int, ...]) -> QType:
        return F32 if len(shape) == 1 else F16

    place = layout(metadata, [TensorInfo(name, shape, kind(shape)) for name, shape in shapes.items()], version=3)
    with path.open("wb") as file:
        file.write(place.header)
        file.truncate(place.size)
    return place.size


@pytest.mark.slow
def test_eight_gigabytes_in_three(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    assert sparse_model(path) > 8e9
    assert len(read_gguf(path).tensors) == 3 + 9 * LAYERS
    done = subprocess.run([sys.executable, "-c", RUN, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    matrices, judged, kilobytes = map(int, done.stdout.split())
    assert (matrices, judged) == (7 * LAYERS + 1, 2 * 63)
    assert kilobytes * 1024 < 3e9
