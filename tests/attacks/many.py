"""Many damaged files against one reader, in a process whose memory is limited: ``many.py READER CASES SEED``.

Prints one line of JSON: how many were refused, how many read. Ends at the first that does anything else (another error,
more memory than 64 MB beyond what the process had, ten seconds), keeping the file in ``CRASHES``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from attacks import readers, samples
from attacks.damage import damaged, json_bytes, strange_json
from quantmill.formats.errors import FormatError
from quantmill.formats.ir import Value, ValueType
from quantmill.formats.qtypes import BY_NAME

HEADROOM = (64 + 24) << 20  # what a reader may take beyond a file of kilobytes, and room for Python's own arenas
SECONDS = 10
CRASHES = Path(os.environ.get("CRASHES", Path(tempfile.gettempdir()) / "quantmill-crashes"))
_NESTED = Value(ValueType.ARRAY, (Value(ValueType.ARRAY, ("a",), ValueType.STRING),) * 2, ValueType.ARRAY)


_STRANGE = (
    Value(ValueType.STRING, "x"), Value(ValueType.STRING, ""), Value(ValueType.UINT32, 2**32 - 1),
    Value(ValueType.INT64, -(2**63)), Value(ValueType.UINT64, 2**64 - 1), Value(ValueType.FLOAT32, float("nan")),
    Value(ValueType.FLOAT64, float("inf")), Value(ValueType.BOOL, True), _NESTED,
    Value(ValueType.ARRAY, ("a", "b"), ValueType.STRING), Value(ValueType.ARRAY, (), ValueType.STRING),
    Value(ValueType.ARRAY, np.array([0, 2**63], np.uint64), ValueType.UINT64),
    Value(ValueType.ARRAY, np.array([], np.int32), ValueType.INT32),
    Value(ValueType.ARRAY, np.array([np.nan, np.inf], np.float32), ValueType.FLOAT32),
    Value(ValueType.ARRAY, (), ValueType.ARRAY),
)  # fmt: skip


def stranger(metadata: dict[str, Value], random: Random) -> dict[str, Value]:
    """The keys, one of them perhaps with a value of another type."""
    return metadata | ({random.choice(list(metadata)): random.choice(_STRANGE)} if random.random() < 0.5 else {})


def whole_files(reader: str, random: Random) -> list[bytes]:
    """Files to damage."""
    if reader == "gguf":
        keys = {
            "general.architecture": Value(ValueType.STRING, "llama"),
            "llama.block_count": Value(ValueType.UINT32, 2),
            "llama.attention.head_count": Value(ValueType.UINT32, 4),
            "llama.attention.head_count_kv": Value(ValueType.UINT32, 2),
            "nested": _NESTED,
        }
        words = samples.vocabulary(("<s>", "é", "▁the", "a", ""))
        shapes = [("token_embd.weight", (2, 256)), ("blk.0.attn_q.weight", (1, 256)), ("output_norm.weight", (256,))]
        kinds = random.sample(list(BY_NAME.values()), 3)
        tensors = [(name, shape, kind) for (name, shape), kind in zip(shapes, kinds, strict=True)]
        shard = {"split.no": Value(ValueType.UINT16, 0), "split.count": Value(ValueType.UINT16, 1)}
        return [
            samples.gguf_bytes(stranger(keys, random), tensors),
            samples.gguf_bytes(stranger(keys | words, random), tensors[:1]),
            samples.gguf_bytes(stranger(words | shard, random), [], byteorder="big"),
            samples.gguf_bytes(
                keys | {"general.alignment": Value(ValueType.UINT32, 64)}, tensors, version=2, alignment=64
            ),
        ]
    if reader == "imatrix":
        names = ["blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"]
        keys = stranger({f"imatrix.{key}": Value(ValueType.UINT32, 4) for key in ("chunk_count", "chunk_size")}, random)
        if random.random() < 0.2:
            keys["imatrix.datasets"] = random.choice(_STRANGE)
        moments = samples.imatrix_bytes(names, 5, keys=keys, block=random.choice((1, 2, 5, 9)))
        return [
            moments,
            samples.imatrix_bytes(names, keys=keys),
            samples.dat_bytes(names),
            samples.dat_bytes(names[:1])[:-12],
        ]
    if reader == "ggml":
        return [
            samples.ggml_bytes(),
            samples.ggml_bytes(kind="Q4_0", n_layer=2),
            samples.ggml_bytes(version=1, kind="F16"),
        ]
    if reader == "safetensors":
        return [samples.safetensors_bytes(["a", "b"]), samples.safetensors_bytes([])]
    assert reader == "journal"
    return [samples.journal_bytes()]


def _limit_memory() -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + HEADROOM, taken + HEADROOM))


def _too_long(*_: object) -> None:
    raise TimeoutError(f"no answer within {SECONDS} seconds")


def damaged_folder(reader: str, whole: list[dict[str, bytes]], random: Random) -> dict[str, bytes]:
    """The files of a folder, one of them damaged: its JSON made strange, or its bytes."""
    files = dict(random.choice(whole))
    name = random.choice(list(files))
    if name.endswith(".json") and random.random() < 0.7:
        files[name] = json_bytes(strange_json(json.loads(files[name]), random))
    elif name.endswith(".bin") and random.random() < 0.7:
        parts = samples.pickled_parts()
        part = random.choice(list(parts))
        files[name] = samples.zipped({**parts, part: damaged(parts[part], random)})
    else:
        files[name] = damaged(files[name], random)
    return files


def whole_folders(reader: str) -> list[dict[str, bytes]]:
    if reader == "tokenizer":
        bpe = {name: json_bytes(data) for name, data in samples.tokenizer_files().items()}
        return [bpe, bpe, {"tokenizer.model": samples.sentencepiece_bytes(), "tokenizer_config.json": b"{}"}]
    assert reader == "weights"
    one, two = (samples.safetensors_bytes([name]) for name in "ab")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = samples.index_bytes({"a": names[0], "b": names[1]})
    return [
        {names[0]: one, names[1]: two, "model.safetensors.index.json": index},
        {"pytorch_model.bin": samples.zipped(samples.pickled_parts())},
    ]


def run_folders(reader: str, cases: int, seed: int) -> Counter[str]:
    random = Random(seed)
    whole = whole_folders(reader)
    read = readers.FOLDERS[reader]
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as temporary:
        folder = Path(temporary)
        for files in whole:  # what is imported late is imported now
            _fill(folder, files)
            read(folder)
        _limit_memory()
        for _ in range(cases):
            files = damaged_folder(reader, whole, random)
            _fill(folder, files)
            _count(counts, lambda: read(folder), lambda files=files: _keep_folder(reader, files))
    return counts


def _fill(folder: Path, files: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def run(reader: str, cases: int, seed: int) -> Counter[str]:
    random = Random(seed)
    file = os.memfd_create("damaged")
    path = Path(f"/proc/self/fd/{file}")
    read = readers.FILES[reader]
    counts: Counter[str] = Counter()
    for data in whole_files(reader, random):
        os.ftruncate(file, 0)
        os.pwrite(file, data, 0)
        with suppress(FormatError):  # strangers among the keys
            read(path)
    _limit_memory()
    originals: list[bytes] = []
    for i in range(cases):
        if i % 20 == 0:
            originals = whole_files(reader, random)
        data = damaged(random.choice(originals), random)
        os.ftruncate(file, 0)
        os.pwrite(file, data, 0)
        _count(counts, lambda: read(path), lambda data=data: _keep(reader, f"crash-{time.time_ns():x}", data))
    return counts


def _count(counts: Counter[str], read: Callable[[], None], keep: Callable[[], None]) -> None:
    signal.alarm(SECONDS)
    try:
        read()
        counts["read"] += 1
    except FormatError:
        counts["refused"] += 1
    except BaseException:
        keep()
        raise
    finally:
        signal.alarm(0)


def _keep(reader: str, name: str, data: bytes) -> None:
    folder = CRASHES / reader
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    print(f"kept as {folder / name}", file=sys.stderr)


def _keep_folder(reader: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        _keep(f"{reader}/crash-{time.time_ns() >> 30:x}", name, data)


if __name__ == "__main__":
    warnings.simplefilter("error", RuntimeWarning)  # numbers that overflow where nobody looked
    signal.signal(signal.SIGALRM, _too_long)
    start = time.perf_counter()
    name, cases, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    found = run(name, cases, seed) if name in readers.FILES else run_folders(name, cases, seed)
    print(json.dumps({**found, "seconds": round(time.perf_counter() - start, 1)}))
