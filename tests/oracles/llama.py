"""llama.cpp itself, from xllamacpp's shared object, one child process per model: a ggml assert aborts the process.

with Llama(path, vocab_only=True) as m:
    m.tokenize("Hello", add_special=True, parse_special=True)
"""

from __future__ import annotations

import ctypes
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self


class LlamaError(RuntimeError):
    """llama.cpp refused or died; the message ends with the last lines of its log."""


class Child:
    """A process that answers for llama.cpp: what this module, or one like it, serves when it is run."""

    def __init__(self, script: str, **environment: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "GGML_NO_BACKTRACE": "1", **environment},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe
            pipe.close()
        self._child.wait()

    def _ask(self, verb: str, *args: Any) -> Any:
        assert self._child.stdin
        assert self._child.stdout
        try:
            _send(self._child.stdin, (verb, args))
            ok, answer = _receive(self._child.stdout)
        except (BrokenPipeError, EOFError):
            raise LlamaError(f"llama.cpp died on {verb} (exit {self._child.wait()})") from None
        if not ok:
            raise LlamaError(answer)
        return answer


class Llama(Child):
    """A GGUF model in llama.cpp. With ``vocab_only`` its weights are not read and only the tokenizer works.

    ``flash``: with flash attention, which is off for the other models as it rounds.
    """

    def __init__(self, path: str | Path, vocab_only: bool = False, n_ctx: int = 512, flash: bool = False) -> None:
        super().__init__(__file__)
        try:
            self.open(path, vocab_only, n_ctx, flash)
        except LlamaError:
            self.close()
            raise

    def open(self, path: str | Path, vocab_only: bool = False, n_ctx: int = 512, flash: bool = False) -> None:
        """Another model, in place of the one before; the child stays unless llama.cpp aborts."""
        self._ask("open", str(path), vocab_only, n_ctx, flash)

    @property
    def n_vocab(self) -> int:
        return int(self._ask("n_vocab"))

    def tokenize(self, text: str | bytes, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return self.tokenize_many([text], add_special, parse_special)[0]

    def tokenize_many(
        self, texts: Sequence[str | bytes], add_special: bool = False, parse_special: bool = True
    ) -> list[list[int]]:
        raw = [text if isinstance(text, bytes) else text.encode() for text in texts]
        result: list[list[int]] = self._ask("tokenize", raw, add_special, parse_special)
        return result

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """What each token prints, special ones included."""
        result: list[bytes] = self._ask("pieces", list(tokens))
        return result

    def special(self) -> dict[str, int]:
        """Ids of bos, eos, eot, sep, nl, pad, mask; -1 where llama.cpp knows none."""
        result: dict[str, int] = self._ask("special")
        return result

    def stops(self) -> list[int]:
        """Every token that ends generation."""
        result: list[int] = self._ask("stops")
        return result

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 [len(tokens), n_vocab], from an empty cache."""
        result: NDArray[np.float32] = self._ask("logits", list(tokens))
        return result

    def embeddings(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 [len(tokens), width]: each token's last hidden state, of a model without pooling."""
        result: NDArray[np.float32] = self._ask("embeddings", list(tokens))
        return result

    def pooled(self, texts: Sequence[Sequence[int]], pooling: str | None = None) -> NDArray[np.float32]:
        """float32 [len(texts), width]: one embedding, or a classifier's results, of each text.

        Args:
            texts: their tokens.
            pooling: ``mean``, ``cls``, ``last`` or ``rank``, which is a classifier's; None for what the file says.
        """
        result: NDArray[np.float32] = self._ask("pooled", [list(text) for text in texts], pooling)
        return result

    def decoded(self, source: Sequence[int], target: Sequence[int]) -> NDArray[np.float32]:
        """float32 [len(target), n_vocab] of an encoder-decoder: logits of ``target`` with ``source`` encoded."""
        result: NDArray[np.float32] = self._ask("decoded", list(source), list(target))
        return result

    def adapt(self, path: str | Path) -> None:
        """Add a LoRA adapter to the open model."""
        self._ask("adapt", str(path))

    def greedy(self, tokens: Sequence[int], n: int) -> list[int]:
        """The ``n`` most likely next tokens, one at a time; no stopping at an end token."""
        result: list[int] = self._ask("greedy", list(tokens), n)
        return result


def oracle_version() -> str:
    """Which oracle speaks, for golden files."""
    return f"xllamacpp {version('xllamacpp')}"


def _send(stream: Any, value: Any) -> None:
    data = pickle.dumps(value)
    stream.write(struct.pack("<Q", len(data)) + data)
    stream.flush()


def _receive(stream: Any) -> Any:
    header = stream.read(8)
    if len(header) < 8:
        raise EOFError
    size = struct.unpack("<Q", header)[0]
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)


# --- the child


class _ModelParams(ctypes.Structure):
    """llama.h, struct llama_model_params: its head as of 2026-10, then room for what later releases append."""

    _fields_ = [
        ("devices", ctypes.c_void_p),
        ("tensor_buft_overrides", ctypes.c_void_p),
        ("n_gpu_layers", ctypes.c_int32),
        ("split_mode", ctypes.c_int32),
        ("load_mode", ctypes.c_int32),
        ("lazy_mode", ctypes.c_int32),
        ("main_gpu", ctypes.c_int32),
        ("tensor_split", ctypes.c_void_p),
        ("progress_callback", ctypes.c_void_p),
        ("progress_callback_user_data", ctypes.c_void_p),
        ("kv_overrides", ctypes.c_void_p),
        ("vocab_only", ctypes.c_bool),
        ("opaque", ctypes.c_ubyte * 512),
    ]


class _ContextParams(ctypes.Structure):
    """llama.h, struct llama_context_params: the fields we set, then room for the rest."""

    _fields_ = [
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("n_seq_max", ctypes.c_uint32),
        ("n_rs_seq", ctypes.c_uint32),
        ("n_outputs_max", ctypes.c_uint32),
        ("n_outputs_max_per_seq", ctypes.c_uint32),
        ("n_threads", ctypes.c_int32),
        ("n_threads_batch", ctypes.c_int32),
        ("ctx_type", ctypes.c_int32),
        ("rope_scaling_type", ctypes.c_int32),
        ("pooling_type", ctypes.c_int32),
        ("attention_type", ctypes.c_int32),
        ("flash_attn_type", ctypes.c_int32),
        ("rope_and_yarn", ctypes.c_int32 * 8),
        ("cb_eval", ctypes.c_void_p),
        ("cb_eval_user_data", ctypes.c_void_p),
        ("type_k", ctypes.c_int32),
        ("type_v", ctypes.c_int32),
        ("opaque", ctypes.c_ubyte * 1024),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_SPECIAL = ("bos", "eos", "eot", "sep", "nl", "pad", "mask")
_UNSPECIFIED = -1  # enum llama_pooling_type
_POOLINGS = {"mean": 1, "cls": 2, "last": 3, "rank": 4}


class _Session:
    def __init__(self) -> None:
        spec = find_spec("xllamacpp")
        assert spec, "xllamacpp is not installed (pip install '.[test]')"
        self.lib = lib = ctypes.CDLL(str(next(Path(spec.origin or "").parent.glob("xllamacpp*.so"))))
        pointer, i32, text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
        for name, result, args in (
            ("llama_model_default_params", _ModelParams, []),
            ("llama_context_default_params", _ContextParams, []),
            ("llama_model_load_from_file", pointer, [text, _ModelParams]),
            ("llama_init_from_model", pointer, [pointer, _ContextParams]),
            ("llama_model_get_vocab", pointer, [pointer]),
            ("llama_vocab_n_tokens", i32, [pointer]),
            ("llama_vocab_is_eog", ctypes.c_bool, [pointer, i32]),
            ("llama_tokenize", i32, [pointer, text, i32, ctypes.POINTER(i32), i32, ctypes.c_bool, ctypes.c_bool]),
            ("llama_token_to_piece", i32, [pointer, i32, text, i32, i32, ctypes.c_bool]),
            ("llama_batch_init", _Batch, [i32, i32, i32]),
            ("llama_decode", i32, [pointer, _Batch]),
            ("llama_encode", i32, [pointer, _Batch]),
            ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, i32]),
            ("llama_get_embeddings_ith", ctypes.POINTER(ctypes.c_float), [pointer, i32]),
            ("llama_get_embeddings_seq", ctypes.POINTER(ctypes.c_float), [pointer, i32]),
            ("llama_pooling_type", i32, [pointer]),
            ("llama_set_embeddings", None, [pointer, ctypes.c_bool]),
            ("llama_model_n_cls_out", ctypes.c_uint32, [pointer]),
            ("llama_model_n_embd_out", i32, [pointer]),
            ("llama_model_n_embd", i32, [pointer]),
            ("llama_model_has_encoder", ctypes.c_bool, [pointer]),
            ("llama_adapter_lora_init", pointer, [pointer, text]),
            ("llama_set_adapters_lora", i32, [pointer, ctypes.POINTER(pointer), ctypes.c_size_t, pointer]),
            ("llama_free", None, [pointer]),
            ("llama_model_free", None, [pointer]),
            ("llama_get_memory", pointer, [pointer]),
            ("llama_memory_clear", None, [pointer, ctypes.c_bool]),
            *((f"llama_vocab_{name}", i32, [pointer]) for name in _SPECIAL),
        ):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, args
        self.log: list[str] = []
        self._callback = _LOG(lambda level, line, _: self.log.append(line.decode(errors="replace")))
        lib.llama_log_set(self._callback, None)  # the object must live as long as the library may log
        lib.llama_backend_init()
        self.model: int | None = None
        self.context: int | None = None

    def open(self, path: str, vocab_only: bool, n_ctx: int, flash: bool) -> None:
        if self.context:
            self.lib.llama_free(self.context)
        if self.model:
            self.lib.llama_model_free(self.model)
        self.model = self.context = None
        self.log.clear()
        params = self.lib.llama_model_default_params()
        params.vocab_only, params.n_gpu_layers = vocab_only, 0
        self.model = self.lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self.model:
            raise LlamaError(f"{path}: " + "".join(self.log[-6:]))
        self.vocab = self.lib.llama_model_get_vocab(self.model)
        self.n_ctx = n_ctx
        if not vocab_only:
            self.flash = flash
            self.context = self._new_context()
            self.batch = self.lib.llama_batch_init(n_ctx, 0, 1)

    def _new_context(self, pooling: int | None = None) -> int:
        context = self.lib.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = self.n_ctx
        # of short texts, one at a time, threads would mostly wait for each other
        n_threads = min(4, os.cpu_count() or 1) if pooling is None else 1
        context.n_threads = context.n_threads_batch = n_threads
        # Keys and values in F32, not F16: less rounding between us and the truth.
        assert (context.type_k, context.type_v) == (1, 1), "struct llama_context_params has changed"
        context.type_k = context.type_v = 0
        context.flash_attn_type = int(self.flash)
        context.pooling_type = _UNSPECIFIED if pooling is None else pooling
        made: int | None = self.lib.llama_init_from_model(self.model, context)
        if not made:
            raise LlamaError("no context: " + "".join(self.log[-6:]))
        return made

    def adapt(self, path: str) -> None:
        adapter = self.lib.llama_adapter_lora_init(self.model, os.fsencode(path))
        if not adapter:
            raise LlamaError(f"{path}: " + "".join(self.log[-6:]))
        scale = ctypes.c_float(1)
        one = (ctypes.c_void_p * 1)(adapter)
        if code := self.lib.llama_set_adapters_lora(self.context, one, 1, ctypes.addressof(scale)):
            raise LlamaError(f"llama_set_adapters_lora gave {code}")

    def n_vocab(self) -> int:
        return int(self.lib.llama_vocab_n_tokens(self.vocab))

    def tokenize(self, texts: list[bytes], add_special: bool, parse_special: bool) -> list[list[int]]:
        result = []
        for text in texts:
            room = len(text) + 16  # a token is at least a byte; a space prefix, bos and eos may come on top
            buffer = (ctypes.c_int32 * room)()
            n = self.lib.llama_tokenize(self.vocab, text, len(text), buffer, room, add_special, parse_special)
            if n < 0:
                raise LlamaError(f"llama_tokenize gave {n} for {text[:40]!r}")
            result.append(list(buffer[:n]))
        return result

    def pieces(self, tokens: list[int]) -> list[bytes]:
        result = []
        for token in tokens:
            buffer = ctypes.create_string_buffer(4096)
            n = self.lib.llama_token_to_piece(self.vocab, token, buffer, 4096, 0, True)
            result.append(buffer.raw[:n])
        return result

    def special(self) -> dict[str, int]:
        return {name: getattr(self.lib, f"llama_vocab_{name}")(self.vocab) for name in _SPECIAL}

    def stops(self) -> list[int]:
        return [token for token in range(self.n_vocab()) if self.lib.llama_vocab_is_eog(self.vocab, token)]

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        self._forget()
        return self._decode(tokens, 0)

    def pooled(self, texts: list[list[int]], pooling: str | None) -> NDArray[np.float32]:
        whole, self.context = self.context, self._new_context(_POOLINGS.get(pooling or "", _UNSPECIFIED))
        try:
            self.lib.llama_set_embeddings(self.context, True)
            ranks = self.lib.llama_pooling_type(self.context) == _POOLINGS["rank"]
            width = (self.lib.llama_model_n_cls_out if ranks else self.lib.llama_model_n_embd_out)(self.model)
            encodes = self.lib.llama_model_has_encoder(self.model)
            rows = []
            for tokens in texts:
                self._forget()
                self._run(tokens, 0, self.lib.llama_encode if encodes else None)
                rows.append(self._rows(self.lib.llama_get_embeddings_seq, 1, width)[0])
            return np.stack(rows)
        finally:
            self.lib.llama_free(self.context)
            self.context = whole

    def embeddings(self, tokens: list[int]) -> NDArray[np.float32]:
        self._forget()
        self.lib.llama_set_embeddings(self.context, True)
        encodes = self.lib.llama_model_has_encoder(self.model)
        self._run(tokens, 0, self.lib.llama_encode if encodes else None)
        return self._rows(self.lib.llama_get_embeddings_ith, len(tokens), self.lib.llama_model_n_embd(self.model))

    def decoded(self, source: list[int], target: list[int]) -> NDArray[np.float32]:
        self._forget()
        self._run(source, 0, self.lib.llama_encode)
        return self._decode(target, 0)

    def _forget(self) -> None:
        if memory := self.lib.llama_get_memory(self.context):  # embedders have none
            self.lib.llama_memory_clear(memory, True)

    def greedy(self, tokens: list[int], n: int) -> list[int]:
        out: list[int] = []
        row = self.logits(tokens)[-1]
        while len(out) < n:
            out.append(int(row.argmax()))
            row = self._decode(out[-1:], len(tokens) + len(out) - 1)[-1]
        return out

    def _decode(self, tokens: list[int], start: int) -> NDArray[np.float32]:
        self._run(tokens, start)
        return self._rows(self.lib.llama_get_logits_ith, len(tokens), self.n_vocab())

    def _run(self, tokens: list[int], start: int, run: Any = None) -> None:
        if not self.context or start + len(tokens) > self.n_ctx:
            raise LlamaError(
                f"no room for {start + len(tokens)} tokens (n_ctx {self.n_ctx}, or opened with vocab_only)"
            )
        self.batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            self.batch.token[i], self.batch.pos[i], self.batch.n_seq_id[i] = token, start + i, 1
            self.batch.seq_id[i][0], self.batch.logits[i] = 0, 1
        if code := (run or self.lib.llama_decode)(self.context, self.batch):
            raise LlamaError(f"llama.cpp gave {code}: " + "".join(self.log[-6:]))

    def _rows(self, get: Any, n: int, width: int) -> NDArray[np.float32]:
        found = [get(self.context, i) for i in range(n)]
        if not all(found):
            raise LlamaError("no output: " + "".join(self.log[-6:]))
        return np.stack([np.ctypeslib.as_array(row, (width,)) for row in found])


def serve(make: Callable[[], Any]) -> None:
    """Answer what is asked, by the methods of a session."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever llama.cpp prints must not enter the answers
    session = make()
    while True:
        try:
            verb, args = _receive(sys.stdin.buffer)
        except EOFError:
            os._exit(0)  # no destructors: freeing contexts at exit has crashed in some releases
        try:
            answer = True, getattr(session, verb)(*args)
        except LlamaError as error:
            answer = False, str(error)
        _send(answers, answer)


if __name__ == "__main__":
    serve(_Session)
