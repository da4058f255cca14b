"""Encoders as bare machine code: compiled by numba once, loaded by LLVM alone in later runs.

Importing numba and asking its cache for one function takes half a second, as long as Q8_0 takes for a billion weights.
An image is the object code that numba has in its own cache, saved after a run with the symbol to call; loading it takes
hundredths. It is used only where nothing can differ from what numba would run: same sources, numba, LLVM, CPU and
settings, every symbol it needs at hand, its checksum right. Otherwise the kernel's module and numba do the work. The
types whose encoder is one compiled function without tables have images: Q8_0 and the k-quants.

The calling convention is numba's for native code: a pointer for the result, one for an exception, then each array as
(meminfo, parent, items, item size, data, shape..., strides...); 0 is returned when all went well.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...formats.ir import Bytes
from ...formats.qtypes import BY_NAME
from .cachedir import cache_dir, numba_version, sources_digest
from .contract import F32_ARRAY, Kernel

# What ``_call_type`` passes; an encoder compiled for anything else has no image.
_SIGNATURE = (
    "Array(uint8, 2, 'C', True, aligned=True)",
    "int64",
    "Array(float32, 1, 'C', True, aligned=True)",
    "Array(uint8, 2, 'C', False, aligned=True)",
)
_KNOWN_NUMBA = ("0.68.",)  # whose calling convention the tests have seen; another's could differ without a word
_ELF_SYMBOL = np.dtype("u4, u1, u1, u2, u8, u8")
_ELF_SECTION = np.dtype("u4, u4, u8, u8, u8, u8, u4, u4, u8, u8")
_FLAGS = ("uses_importance", "requires_importance", "shows_nonfinite")
_SYMBOL_TABLE = 2  # SHT_SYMTAB


def load(name: str, decode_rows: Callable[..., None]) -> Kernel | None:
    """The kernel of a type from its image, decoding with ``decode_rows``; None where there is no image to trust."""
    path = _path(name)
    try:
        assert path is not None
        head, _, code = path.read_bytes().partition(b"\n")
        about = json.loads(head)
        if hashlib.sha256(code).hexdigest() != about["sha256"]:
            return None
        flags = {flag: bool(about[flag]) for flag in _FLAGS}
        encode = _link(code, about["symbol"])
    except (AssertionError, OSError, ValueError, KeyError, TypeError, ImportError):
        return None
    if encode is None:
        return None
    return Kernel(BY_NAME[name], encode, decode_rows, **flags)


def save(kernel: Kernel) -> None:
    """Keep the image of a kernel that numba compiled; nothing happens where there is none or it cannot be kept."""
    compiled = getattr(kernel.encode_rows, "overloads", {})
    path = _path(kernel.qtype.name)
    if len(compiled) != 1 or path is None or path.exists():
        return
    (result,) = compiled.values()
    if tuple(map(repr, result.signature.args)) != _SIGNATURE:
        return
    code = _object_code(kernel.encode_rows, result)
    if code is None:
        return
    about = {
        "symbol": result.fndesc.llvm_func_name,
        "sha256": hashlib.sha256(code).hexdigest(),
    } | {flag: getattr(kernel, flag) for flag in _FLAGS}
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        temporary.write_bytes(json.dumps(about).encode() + b"\n" + code)
        os.replace(temporary, path)


def _object_code(dispatcher: Any, result: Any) -> bytes | None:
    """What LLVM made of a function: still at hand if that was just now, else in numba's cache."""
    try:
        code: bytes = result.library._get_compiled_object()
        return code
    except RuntimeError:  # the linker took it
        pass
    try:
        files = dispatcher._cache
        (_, kind, content), *_ = files._cache_file.load(files._index_key(result.signature.args, result.library.codegen))
    except (AttributeError, OSError, TypeError, ValueError):  # another numba
        return None
    return content[0] if kind == "object" else None


def _path(name: str) -> Path | None:
    key = _key()
    return cache_dir() / f"{name}.{key}.image" if key else None


@cache
def _key() -> str | None:
    """All that the machine code depends on, hashed; None where images are not made."""
    numba = importlib.util.find_spec("numba")  # finds, does not import
    if sys.platform != "linux" or numba is None or numba.origin is None:
        return None
    if not (numba_version() or "").startswith(_KNOWN_NUMBA):
        return None
    import llvmlite
    import llvmlite.binding as llvm

    settings = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith("NUMBA_") and k != "NUMBA_CACHE_DIR")
    version = Path(numba.origin).with_name("_version.py").read_text()
    cpu = (llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())
    parts = (sources_digest(), numba.origin, version, llvmlite.__version__, sys.version, *cpu, *settings)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _link(code: bytes, symbol: str) -> Callable[..., None] | None:
    """The function at ``symbol`` of an object file as a kernel's ``encode_rows``."""
    import llvmlite.binding as llvm

    runtime = _numba_runtime()
    # LLVM ends the process over a symbol it cannot find.
    if not all(name in runtime or hasattr(ctypes.pythonapi, name) for name in _undefined(code)):
        return None
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for name, address in runtime.items():
        llvm.add_symbol(name, address)
    module = llvm.parse_assembly("")
    module.triple = llvm.get_process_triple()
    machine = llvm.Target.from_triple(module.triple).create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(symbol)
    if not address:
        return None
    function = _call_type()(address)

    def encode_rows(src: Bytes, code: int, importance: F32_ARRAY, out: Bytes) -> None:
        result, exception = ctypes.c_void_p(), ctypes.c_void_p()
        arrays = _words(src), _words(importance), _words(out)
        status = function(ctypes.byref(result), ctypes.byref(exception), *arrays[0], code, *arrays[1], *arrays[2])
        if status:  # kernels raise nothing of their own; what is left is their scratch memory
            raise MemoryError

    encode_rows.engine = engine  # type: ignore[attr-defined]  # owns the code
    return encode_rows


@cache
def _numba_runtime() -> dict[str, int]:
    """Addresses of the C functions that compiled code may call, from numba's extension modules alone."""
    package = importlib.util.find_spec("numba")
    assert package is not None
    assert package.origin is not None
    found: dict[str, int] = {}
    for place, prefix in (("core/runtime/_nrt_python", "NRT_"), ("_helperlib", "numba_")):
        stem = Path(package.origin).parent / place
        path = f"{stem}{importlib.machinery.EXTENSION_SUFFIXES[0]}"
        loader = importlib.machinery.ExtensionFileLoader(stem.name, path)
        module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(stem.name, loader, origin=path))
        found |= {prefix + name: address for name, address in module.c_helpers.items()}
    return found


def _undefined(code: bytes) -> set[str]:
    """Names that a 64-bit ELF object wants from outside."""
    if code[:5] != b"\x7fELF\x02":
        raise ValueError("no ELF")
    at, size, count = (int.from_bytes(code[a:b], "little") for a, b in ((40, 48), (58, 60), (60, 62)))
    assert size == _ELF_SECTION.itemsize
    sections = np.frombuffer(code, _ELF_SECTION, count, at)
    names = set()
    for _, kind, _, _, offset, nbytes, strings, *_ in sections.tolist():
        if kind != _SYMBOL_TABLE:
            continue
        text = int(sections[strings][4])
        for name, _, _, section, _, _ in np.frombuffer(code, _ELF_SYMBOL, nbytes // 24, offset).tolist():
            if section == 0 and name:
                names.add(code[text + name : code.index(b"\0", text + name)].decode())
    return names


@cache
def _call_type() -> Any:
    pointer, word = ctypes.c_void_p, ctypes.c_int64

    def array(dims: int) -> list[Any]:
        return [pointer, pointer, word, word, pointer, *[word] * (2 * dims)]

    return ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, *array(2), word, *array(1), *array(2))


def _words(array: NDArray[Any]) -> tuple[Any, ...]:
    return (None, None, array.size, array.itemsize, array.ctypes.data, *array.shape, *array.strides)
