"""llama.cpp's towers, from xllamacpp's shared object: what mtmd makes of an image or of sound, in a child process.

with Mtmd(text_gguf) as m:
    m.open(mmproj)
    m.encode_image(pixels)

With ``whole=True`` the text model computes, too: ``m.read(prompt, pixels)``.
"""

from __future__ import annotations

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from oracles.llama import _LOG, Child, LlamaError, _ContextParams, _ModelParams, serve


class Mtmd(Child):
    """Towers in llama.cpp, one after the other, beside a text model of which only the vocabulary is read, or all."""

    def __init__(self, vocabulary: str | Path, whole: bool = False) -> None:
        # Pixtral's graph makes zeros as memory that it has not written, times 0: NaN, where that holds one. glibc then
        # hands out zeros.
        super().__init__(__file__, MALLOC_PERTURB_="255")
        try:
            self._ask("load", str(vocabulary), whole)
        except LlamaError:
            self.close()
            raise

    def open(self, mmproj: str | Path, image_min_tokens: int = -1) -> None:
        self._ask("open", str(mmproj), image_min_tokens)

    def encode_image(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """The embeddings of an image, uint8 [height, width, 3]: float32 [tokens, width] of each chunk."""
        found: list[NDArray[np.float32]] = self._ask("image", pixels)
        return found

    def encode_audio(self, samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The embeddings of sound, float32 at 16 kHz: float32 [tokens, width] of each chunk."""
        found: list[NDArray[np.float32]] = self._ask("audio", samples)
        return found

    def read(
        self, before: str, pixels: NDArray[np.uint8], after: str
    ) -> tuple[list[list[int] | int], NDArray[np.float32]]:
        """An image between texts: the tokens of each chunk, or how many it is for an image, and the last logits."""
        found: tuple[list[list[int] | int], NDArray[np.float32]] = self._ask("read", before, pixels, after)
        return found

    def heard(self) -> list[NDArray[np.float32]]:
        """The mel spectrograms that the last sound became: float32 [frames, bins] of each chunk."""
        found: list[NDArray[np.float32]] = self._ask("heard")
        return found


# --- the child


class _MtmdParams(ctypes.Structure):
    """mtmd.h, struct mtmd_context_params, with room for what later releases append."""

    _fields_ = [
        ("use_gpu", ctypes.c_bool),
        ("device", ctypes.c_void_p),
        ("print_timings", ctypes.c_bool),
        ("n_threads", ctypes.c_int),
        ("image_marker", ctypes.c_char_p),
        ("media_marker", ctypes.c_char_p),
        ("flash_attn", ctypes.c_int),
        ("warmup", ctypes.c_bool),
        ("image_min_tokens", ctypes.c_int),
        ("image_max_tokens", ctypes.c_int),
        ("cb_eval", ctypes.c_void_p),
        ("cb_eval_user_data", ctypes.c_void_p),
        ("batch_max_tokens", ctypes.c_int32),
        ("progress_callback", ctypes.c_void_p),
        ("progress_callback_user_data", ctypes.c_void_p),
        ("opaque", ctypes.c_ubyte * 256),
    ]


class _Tensor(ctypes.Structure):
    """ggml.h, struct ggml_tensor."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]
_EVAL = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.POINTER(_Tensor), ctypes.c_bool, ctypes.c_void_p)
_INPUT = b"inp_raw"  # the graph's input, as clip.cpp names it


class _Text(ctypes.Structure):
    _fields_ = [
        ("text", ctypes.c_char_p),
        ("text_len", ctypes.c_size_t),
        ("add_special", ctypes.c_bool),
        ("parse_special", ctypes.c_bool),
    ]


class _Session:
    def __init__(self) -> None:
        spec = find_spec("xllamacpp")
        assert spec, "xllamacpp is not installed (pip install '.[test]')"
        self.lib = lib = ctypes.CDLL(str(next(Path(spec.origin or "").parent.glob("xllamacpp*.so"))))
        pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
        for name, result, args in (
            ("llama_model_default_params", _ModelParams, []),
            ("llama_model_load_from_file", pointer, [text, _ModelParams]),
            ("llama_model_n_embd", ctypes.c_int32, [pointer]),
            ("llama_context_default_params", _ContextParams, []),
            ("llama_init_from_model", pointer, [pointer, _ContextParams]),
            ("llama_model_get_vocab", pointer, [pointer]),
            ("llama_vocab_n_tokens", ctypes.c_int32, [pointer]),
            ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, ctypes.c_int32]),
            ("mtmd_context_params_default", _MtmdParams, []),
            ("mtmd_init_from_file", pointer, [text, pointer, _MtmdParams]),
            ("mtmd_free", None, [pointer]),
            ("mtmd_default_marker", text, []),
            ("mtmd_bitmap_init", pointer, [ctypes.c_uint32, ctypes.c_uint32, pointer]),
            ("mtmd_bitmap_init_from_audio", pointer, [size, pointer]),
            ("mtmd_bitmap_free", None, [pointer]),
            ("mtmd_input_chunks_init", pointer, []),
            ("mtmd_input_chunks_free", None, [pointer]),
            ("mtmd_input_chunks_size", size, [pointer]),
            ("mtmd_input_chunks_get", pointer, [pointer, size]),
            ("mtmd_input_chunk_get_type", ctypes.c_int, [pointer]),
            ("mtmd_input_chunk_get_n_tokens", size, [pointer]),
            ("mtmd_input_chunk_get_tokens_text", ctypes.POINTER(ctypes.c_int32), [pointer, ctypes.POINTER(size)]),
            (
                "mtmd_helper_eval_chunks",
                ctypes.c_int32,
                [*[pointer] * 3, *[ctypes.c_int32] * 3, ctypes.c_bool, ctypes.POINTER(ctypes.c_int32)],
            ),
            ("mtmd_tokenize", ctypes.c_int32, [pointer, pointer, ctypes.POINTER(_Text), pointer, size]),
            ("mtmd_encode_chunk", ctypes.c_int32, [pointer, pointer]),
            ("mtmd_get_output_embd", ctypes.POINTER(ctypes.c_float), [pointer]),
        ):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, args
        self.log: list[str] = []
        self._callback = _LOG(lambda level, line, _: self.log.append(line.decode(errors="replace")))
        for name in ("llama_log_set", "mtmd_log_set", "mtmd_helper_log_set"):
            getattr(lib, name)(self._callback, None)
        lib.llama_backend_init()
        self.context: int | None = None
        self.inputs: list[NDArray[np.float32]] = []
        self.inputs_seen = False
        self._tap = _EVAL(self._taste)

    def load(self, path: str, whole: bool) -> None:
        params = self.lib.llama_model_default_params()
        params.vocab_only, params.n_gpu_layers = not whole, 0
        self.model = self.lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self.model:
            raise LlamaError(f"{path}: " + "".join(self.log[-6:]))
        if not whole:
            return
        context = self.lib.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = 512
        context.n_threads = context.n_threads_batch = 1
        assert (context.type_k, context.type_v) == (1, 1), "struct llama_context_params has changed"
        context.type_k = context.type_v = context.flash_attn_type = 0
        self.text = self.lib.llama_init_from_model(self.model, context)
        if not self.text:
            raise LlamaError("no context: " + "".join(self.log[-6:]))

    def open(self, path: str, image_min_tokens: int) -> None:
        if self.context:
            self.lib.mtmd_free(self.context)
        self.log.clear()
        params = self.lib.mtmd_context_params_default()
        drift = (params.n_threads, params.image_min_tokens, params.batch_max_tokens)
        assert drift == (4, -1, 1024), f"struct mtmd_context_params has changed: {drift}"
        params.use_gpu = params.warmup = params.print_timings = False
        params.flash_attn, params.n_threads = 0, 1
        params.image_min_tokens = image_min_tokens
        params.cb_eval = ctypes.cast(self._tap, ctypes.c_void_p)
        self.width = _projection(Path(path))
        self.context = self.lib.mtmd_init_from_file(os.fsencode(path), self.model, params)
        if not self.context:
            raise LlamaError(f"{path}: " + "".join(self.log[-8:]))

    def _taste(self, tensor: Any, ask: bool, _: int) -> bool:
        """Copy the graph's input where the first operation reads it."""
        for source in tensor.contents.src:
            if ask and source and source.contents.name == _INPUT and not self.inputs_seen:
                self.inputs_seen = True
                shape = tuple(source.contents.ne)[1::-1]
                data = ctypes.cast(source.contents.data, ctypes.POINTER(ctypes.c_float))
                self.inputs.append(np.ctypeslib.as_array(data, shape).T.copy())
        return False

    def heard(self) -> list[NDArray[np.float32]]:
        return self.inputs

    def image(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        height, width, _ = pixels.shape
        data = np.ascontiguousarray(pixels)
        return self._encode(self.lib.mtmd_bitmap_init(width, height, data.ctypes.data))

    def audio(self, samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        data = np.ascontiguousarray(samples, np.float32)
        return self._encode(self.lib.mtmd_bitmap_init_from_audio(data.size, data.ctypes.data))

    def read(self, before: str, pixels: NDArray[np.uint8], after: str) -> tuple[list[Any], NDArray[np.float32]]:
        lib = self.lib
        height, width, _ = pixels.shape
        data = np.ascontiguousarray(pixels)
        bitmap = lib.mtmd_bitmap_init(width, height, data.ctypes.data)
        chunks = self._chunks(bitmap, before.encode(), after.encode())
        found: list[Any] = []
        for i in range(lib.mtmd_input_chunks_size(chunks)):
            chunk, n = lib.mtmd_input_chunks_get(chunks, i), ctypes.c_size_t()
            if lib.mtmd_input_chunk_get_type(chunk) == 0:
                tokens = lib.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(n))
                found.append(tokens[: n.value])
            else:
                found.append(int(lib.mtmd_input_chunk_get_n_tokens(chunk)))
        past = ctypes.c_int32()
        code = lib.mtmd_helper_eval_chunks(self.context, self.text, chunks, 0, 0, 512, True, ctypes.byref(past))
        if code:
            raise LlamaError(f"mtmd_helper_eval_chunks gave {code}: " + "".join(self.log[-4:]))
        n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(self.text, -1), (n_vocab,)).copy()
        lib.mtmd_input_chunks_free(chunks)
        lib.mtmd_bitmap_free(bitmap)
        return found, logits

    def _chunks(self, bitmap: int, before: bytes = b"", after: bytes = b"") -> int:
        chunks: int = self.lib.mtmd_input_chunks_init()
        whole = before + self.lib.mtmd_default_marker() + after
        text = _Text(whole, len(whole), False, True)
        bitmaps = (ctypes.c_void_p * 1)(bitmap)
        if code := self.lib.mtmd_tokenize(self.context, chunks, ctypes.byref(text), bitmaps, 1):
            raise LlamaError(f"mtmd_tokenize gave {code}: " + "".join(self.log[-4:]))
        return chunks

    def _encode(self, bitmap: int) -> list[NDArray[np.float32]]:
        lib = self.lib
        chunks = self._chunks(bitmap)
        out = []
        self.inputs.clear()
        for i in range(lib.mtmd_input_chunks_size(chunks)):
            chunk = lib.mtmd_input_chunks_get(chunks, i)
            if lib.mtmd_input_chunk_get_type(chunk) == 0:
                continue
            self.inputs_seen = False
            if code := lib.mtmd_encode_chunk(self.context, chunk):
                raise LlamaError(f"mtmd_encode_chunk gave {code}: " + "".join(self.log[-4:]))
            n = lib.mtmd_input_chunk_get_n_tokens(chunk)
            found = lib.mtmd_get_output_embd(self.context)
            out.append(np.ctypeslib.as_array(found, (n, self.width)).copy())
        lib.mtmd_input_chunks_free(chunks)
        lib.mtmd_bitmap_free(bitmap)
        return out


def _projection(path: Path) -> int:
    """The width of the embeddings: for Qwen3-VL those of the deepstack layers stand beside the others."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    name = next(
        f"clip.{kind}.projection_dim" for kind in ("vision", "audio") if f"clip.{kind}.projection_dim" in fields
    )
    deep = fields.get("clip.vision.is_deepstack_layers")
    return int(fields[name].contents()) * (1 + (sum(deep.contents()) if deep else 0))


if __name__ == "__main__":
    serve(_Session)
