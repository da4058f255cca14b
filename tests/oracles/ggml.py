"""llama.cpp's own quantizers, from xllamacpp's shared object, in a child process: a ggml assert aborts the process.

The child is started on first use and lives as long as this module; rows travel through its pipes.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import struct
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_REQUEST = struct.Struct("<4sIQQII")  # verb, type id, rows, width, has importance, repeats
_QUANTIZE, _DEQUANTIZE, _TIME, _ROW_SIZE = b"quan", b"dequ", b"time", b"rows"
_TYPE_IDS = {
    **{"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12},
    **{"Q5_K": 13, "Q6_K": 14, "IQ2_XXS": 16, "IQ2_XS": 17, "IQ3_XXS": 18, "IQ1_S": 19, "IQ4_NL": 20, "IQ3_S": 21},
    **{"IQ2_S": 22, "IQ4_XS": 23, "IQ1_M": 29, "BF16": 30, "TQ1_0": 34, "TQ2_0": 35, "MXFP4": 39, "NVFP4": 40},
    **{"Q1_0": 41, "Q2_0": 42},
}  # ggml.h, enum ggml_type; written out so that the oracle does not lean on the code it judges

_child: subprocess.Popen[bytes] | None = None


def oracle_version() -> str:
    """Which oracle speaks, for golden files."""
    return f"xllamacpp {version('xllamacpp')}"


def ggml_quantize(type_name: str, x: NDArray[np.float32], imatrix: NDArray[np.float32] | None = None) -> Any:
    """``ggml_quantize_chunk`` of float32 rows [n, k] with importance float32 [k] or None: uint8 [n, row_bytes]."""
    rows = np.ascontiguousarray(x, np.float32)
    n, k = rows.shape
    weights = b"" if imatrix is None else np.ascontiguousarray(imatrix, np.float32).tobytes()
    assert imatrix is None or imatrix.shape == (k,), (imatrix.shape, k)
    data = _ask(_QUANTIZE, type_name, n, k, int(imatrix is not None), 1, rows.tobytes() + weights)
    return np.frombuffer(data, np.uint8).reshape(n, -1)


def ggml_dequantize(type_name: str, blocks: NDArray[np.uint8], k: int) -> NDArray[np.float32]:
    """``to_float`` of uint8 [n, row_bytes] whose rows are ``k`` weights wide: float32 [n, k]."""
    n = len(blocks)
    assert blocks.size == n * ggml_row_size(type_name, k), (type_name, blocks.shape, k)
    return np.frombuffer(_ask(_DEQUANTIZE, type_name, n, k, 0, 1, blocks.tobytes()), np.float32).reshape(n, k)


def ggml_row_size(type_name: str, k: int) -> int:
    """Bytes of a row of ``k`` weights."""
    return int(struct.unpack("<Q", _ask(_ROW_SIZE, type_name, 0, k, 0, 1, b""))[0])


def ggml_time(type_name: str, x: NDArray[np.float32], imatrix: NDArray[np.float32] | None, repeats: int = 1) -> float:
    """Best CPU time in seconds of ``repeats`` calls of ``ggml_quantize_chunk`` on these rows."""
    n, k = x.shape
    weights = b"" if imatrix is None else np.ascontiguousarray(imatrix, np.float32).tobytes()
    rows = np.ascontiguousarray(x, np.float32).tobytes()
    data = _ask(_TIME, type_name, n, k, int(imatrix is not None), repeats, rows + weights)
    return float(struct.unpack("<d", data)[0])


def _ask(verb: bytes, type_name: str, n: int, k: int, has_importance: int, repeats: int, payload: bytes) -> bytes:
    global _child
    if _child is None or _child.poll() is not None:
        _child = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
        atexit.register(_child.kill)
    assert _child.stdin
    assert _child.stdout
    header = _REQUEST.pack(verb, _TYPE_IDS[type_name], n, k, has_importance, repeats)
    try:
        _child.stdin.write(header + struct.pack("<Q", len(payload)) + payload)
        _child.stdin.flush()
        size = struct.unpack("<Q", _exactly(_child.stdout, 8))[0]
        return _exactly(_child.stdout, size)
    except (BrokenPipeError, EOFError):
        code = _child.wait()
        raise RuntimeError(f"the ggml oracle died (exit {code}) on {verb.decode()} {type_name} [{n}, {k}]") from None


def _exactly(stream: Any, size: int) -> bytes:
    parts = []
    while size:
        data = stream.read(size)
        if not data:
            raise EOFError
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


# --- the child


class _TypeTraits(ctypes.Structure):  # ggml.h, struct ggml_type_traits
    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    ]


def _library() -> ctypes.CDLL:
    spec = find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise RuntimeError("xllamacpp is not installed (pip install '.[test]')")
    lib = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("xllamacpp*.so"))))
    i64, size = ctypes.c_int64, ctypes.c_size_t
    floats = ctypes.c_void_p
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, i64, i64, i64, floats]
    lib.ggml_quantize_chunk.restype = size
    lib.ggml_row_size.argtypes, lib.ggml_row_size.restype = [ctypes.c_int, i64], size
    lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
    lib.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    return lib


def _serve() -> None:
    from time import thread_time

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever ggml prints must not enter the answers
    lib = _library()
    while header := sys.stdin.buffer.read(_REQUEST.size):
        verb, type_id, n, k, has_importance, repeats = _REQUEST.unpack(header)
        payload = _exactly(sys.stdin.buffer, struct.unpack("<Q", _exactly(sys.stdin.buffer, 8))[0])
        row_bytes = lib.ggml_row_size(type_id, k)
        if verb == _ROW_SIZE:
            answer = struct.pack("<Q", row_bytes)
        elif verb == _DEQUANTIZE:
            source, floats = np.frombuffer(payload, np.uint8), np.empty((n, k), np.float32)
            if type_id == 0:  # F32 has no to_float
                floats[:] = source.view(np.float32).reshape(n, k)
            else:
                lib.ggml_get_type_traits(type_id).contents.to_float(source.ctypes.data, floats.ctypes.data, n * k)
            answer = floats.tobytes()
        else:
            values = np.frombuffer(payload, np.float32)
            weights = values[n * k :].ctypes.data if has_importance else None
            out = np.zeros((n, row_bytes), np.uint8)
            lib.ggml_quantize_init(type_id)
            best = float("inf")
            for _ in range(repeats):
                start = thread_time()
                done = lib.ggml_quantize_chunk(type_id, values.ctypes.data, out.ctypes.data, 0, n, k, weights)
                best = min(best, thread_time() - start)
                assert done == out.size, (done, out.size)
            answer = struct.pack("<d", best) if verb == _TIME else out.tobytes()
        answers.write(struct.pack("<Q", len(answer)) + answer)
        answers.flush()


if __name__ == "__main__":
    _serve()
