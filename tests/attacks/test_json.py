"""Any JSON value at any key that a reader looks up: a line that names the file and the key, or the same model.

``json_samples.py`` has the files, ``json_keys.py`` finds the keys, those that are missing included, and changes them.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import pytest

from attacks.json_keys import VALUES, Case, Sample
from attacks.json_samples import all_samples, archs
from quantmill.formats.errors import FormatError, QuantmillError

SECONDS = 10
# "all": every value at every key, which takes an hour; otherwise each type of JSON once at what each reader reads.
ALL = os.environ.get("QUANTMILL_JSON_CASES") == "all"
ONE_IN = 6  # of these cases, in the default tests
# What messages call two keys; and files whose values are read as text, discarded, or written as they are.
ALIASES = {"w_bit": "bits", "q_group_size": "group_size"}
NO_MODEL = ("README.md", "journal", "recorded.json")
# Of tokenizer_config.json: a text, or an object; of Laguna's config.json: true, or a word.
EITHER_TYPE = ("eos_token", "mask_token", "chat_template", "gating")
OTHER_RELEASE = "holds an unfinished release with other settings"


@contextmanager
def limited() -> Iterator[None]:
    """No endless work, and no numbers that overflow where nobody looked."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"no answer within {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attack(case: Case, folder: Path, whole: object) -> str:
    """Whether the case is read or refused. Fails with the case where it is neither, or another model in silence."""
    case.write(folder)
    try:
        with limited():
            found = case.sample.read(folder)
    except QuantmillError as error:
        check_message(case, error, folder)
        return "refused"
    except Exception as error:
        raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
    finally:
        case.undo(folder)
    if case.of_another_type and case.name not in NO_MODEL and not {*EITHER_TYPE}.intersection(case.place):
        assert found == whole, f"{case}: another model, and nothing said"
    return "read"


def check_message(case: Case, error: QuantmillError, folder: Path) -> None:
    message = str(error)
    assert isinstance(error, FormatError) or OTHER_RELEASE in message, f"{case}: {message}"
    assert message.isprintable(), f"{case}: {message}"  # one line, too
    assert str(folder) in message, f"{case}: {message}"
    if case.of_another_type and case.new != "\ud83d":  # of which the place in the text is not known
        names = [str(key) for key in case.place]
        assert any(name in message for name in (*names, *map(ALIASES.get, names)) if name), f"{case}: {message}"


def attacked(samples: list[Sample], folder: Path, *, every: bool = False, one_in: int = 1) -> Counter[str]:
    """Count what became of the cases of samples.

    Args:
        every: all cases, and not only the first of its kind (``Case.kind``).
        one_in: only one in so many cases, the same ones whatever other samples there are.
    """
    counts: Counter[str] = Counter()
    faults: list[str] = []
    kinds: set[object] = set()
    for i, sample in enumerate(samples):
        at = folder / str(i)
        sample.write(at)
        whole = sample.read(at)
        for case in sample.cases(at):
            new = every or (case.kind not in kinds and crc32(str(case.place).encode()) % one_in == 0)
            kinds.add(case.kind)
            if new:
                try:
                    counts[attack(case, at, whole)] += 1
                except AssertionError as error:
                    faults.append(str(error).partition("\n")[0])
    assert not faults, "\n".join(faults[:50])
    return counts


def told(counts: Counter[str], seconds: float) -> str:
    numbers = f"{counts.total()} values at keys of JSON, {counts['refused']} refused, {counts['read']} read"
    return f"{numbers}, {seconds:.0f} s"


@pytest.mark.parametrize("of_archs", [True, False], ids=["architectures", "other files"])
def test_some_values_at_every_kind_of_key(
    of_archs: bool, tmp_path: Path, record_property: pytest.FixtureRequest
) -> None:
    start = time.perf_counter()
    n = len(archs())
    samples = all_samples()[:n] if of_archs else all_samples()[n:]
    counts = attacked(samples, tmp_path, one_in=ONE_IN)
    line = told(counts, time.perf_counter() - start)
    record_property("counts", line)  # type: ignore[operator]
    print(line)
    assert min(counts["refused"], counts["read"]) > 200


@pytest.mark.slow
def test_each_type_at_every_kind_of_key(record_property: pytest.FixtureRequest) -> None:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        counts = attacked(all_samples(), Path(folder), every=ALL)
    line = told(counts, time.perf_counter() - start)
    record_property("counts", line)  # type: ignore[operator]
    print(line)
    assert counts.total() > (70_000 if ALL else 10_000)


def test_keys_that_a_file_lacks_are_attacked(tmp_path: Path) -> None:
    """Else a reader could stumble over what no sample has."""
    found: dict[str, set[str]] = {}
    for sample in all_samples():
        if sample.name in ("llama", "mpt", "adapter", "gptq", "byte-level", "checkpoint"):
            folder = tmp_path / sample.name
            sample.write(folder)
            places = {case.place for case in sample.cases(folder)}
            found[sample.name] = {".".join(map(str, place)) for place in places}
            assert len(list(sample.cases(folder))) == len(places) * len(VALUES) or len(sample.files) > 1
    assert {"rope_scaling", "text_config", "quantization_config", "per_layer_config"} <= found["llama"]
    assert "attn_config.clip_qkv" in found["mpt"]
    assert {"layer_replication", "exclude_modules", "alora_invocation_tokens"} <= found["adapter"]
    assert {"quantization_config.dynamic", "quantization_config.pack_dtype"} <= found["gptq"]
    assert "sequence" in found["checkpoint"]
    assert "model.byte_fallback" in found["byte-level"]
