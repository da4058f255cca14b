"""GGML v3's own client, llama-cpp-python 0.1.78, in an environment of its own; and a small Llama for it.

    with Client(path, n_gqa=4, rms_norm_eps=1e-5) as client:
        logits = client.logits([1, 300, 301])

``make_ggml_v3_client.py`` builds the environment, once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracles.make_ggml_v3_client import PINNED, client_folder

# Run with `-c` and the client's folder first on the path: as a file it would find this folder's modules beside it.
_CHILD = """
import json, sys
import numpy as np
from llama_cpp import Llama
options = json.loads(sys.argv[1])
model = Llama(logits_all=True, verbose=False, n_ctx=256, n_threads=2, use_mmap=False, **options)
for line in sys.stdin:
    tokens = json.loads(line)
    model.reset()
    model.eval(tokens)
    sys.stdout.buffer.write(np.array(model.eval_logits, "<f4").tobytes())
    sys.stdout.buffer.flush()
"""


N_VOCAB = 900
EPS = 1e-5


def save_gqa_llama(folder: Path) -> Path:
    """A Llama whose 8 heads share 2 of keys and values, wide enough for k-quants, with a tokenizer.model of 900.

    Its weights are large enough that a wrongly permuted key moves the logits (cosine 0.995), and small enough that the
    8 bits llama.cpp gives activations hardly do (0.9997; with weights of 0.08 it is 0.998).
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from oracles.small_tokenizers import train_sentencepiece

    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=N_VOCAB, hidden_size=256, intermediate_size=768, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=EPS, bos_token_id=1, eos_token_id=2,
        initializer_range=0.03,
    )  # fmt: skip
    LlamaForCausalLM(config).half().save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(train_sentencepiece(N_VOCAB))
    return folder


class ClientError(RuntimeError):
    """The client refused the file or died."""


class Client:
    """A GGML file in its client, in a process of its own: an assert there aborts."""

    def __init__(self, path: Path, n_vocab: int, **options: Any) -> None:
        """``options``: of ``llama_cpp.Llama``: n_gqa, rms_norm_eps, rope_freq_base."""
        self.n_vocab = n_vocab
        self._child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps({"model_path": str(path), **options})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(client_folder())},
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        """float32 [len(tokens), n_vocab]."""
        assert self._child.stdin
        assert self._child.stdout
        assert self._child.stderr
        self._child.stdin.write(json.dumps(tokens).encode() + b"\n")
        self._child.stdin.flush()
        size = len(tokens) * self.n_vocab * 4
        raw = self._child.stdout.read(size)
        if len(raw) < size:
            raise ClientError(f"{PINNED}: {self._child.stderr.read().decode(errors='replace')[-800:]}")
        return np.frombuffer(raw, "<f4").reshape(len(tokens), self.n_vocab)
