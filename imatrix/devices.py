"""The devices that torch can compute on here, and what is said where one is missing or full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch

from ..formats.errors import QuantmillError

AUTO = "auto"
_BF16_UNITS = ("amx_bf16", "avx512_bf16")


def available() -> tuple[str, ...]:
    """The devices by name: the processor, and those of the accelerator that this torch was built for.

    Example:
        >>> available()[0]
        'cpu'
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ("cpu",)
    return ("cpu", *(f"{accelerator.type}:{number}" for number in range(torch.accelerator.device_count())))


def choose(name: str) -> str:
    """The device that a name stands for.

    Args:
        name: ``auto`` for the accelerator, or the processor where there is none; else a torch device, ``cuda:1``.

    Raises:
        QuantmillError: there is no such device, or it does not compute.

    Example:
        >>> choose("cpu")
        'cpu'
    """
    if name == AUTO:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return "cpu" if accelerator is None else accelerator.type
    try:
        torch.ones(1, device=name).item()  # "meta" is a device that computes nothing
    except (RuntimeError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise _full(name) from error
        raise QuantmillError(f"no device {name!r} here", hint=f"available: {', '.join(available())}") from None
    return name


def choose_dtype(device: str) -> Literal["f32", "bf16"]:
    """``bf16`` where a device has units for such products: AMX or AVX512-BF16 of a processor, or a GPU's; else ``f32``.

    Args:
        device: a torch device that is there.

    Example:
        >>> choose_dtype("cpu") in ("f32", "bf16")
        True
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "f32"
    return "bf16" if kind == "cpu" and any(map(_processor().get, _BF16_UNITS)) else "f32"


def _processor() -> Mapping[str, object]:
    """What the processor has, by torch's names; nothing where this torch does not tell."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)
    found: Mapping[str, object] = capabilities()
    return found


@contextmanager
def memory_explained(device: str) -> Iterator[None]:
    """Raise ``QuantmillError`` where what runs inside needs more memory than the device has.

    Example:
        >>> from quantmill.imatrix.devices import memory_explained
        >>> with memory_explained("cuda"):
        ...     raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        Traceback (most recent call last):
        quantmill.formats.errors.QuantmillError: cuda: out of memory (a smaller --batch or --ctx-size, or --device cpu)
    """
    try:
        yield
    except RuntimeError as error:
        # Apple's devices raise no class of its own
        if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error):
            raise
        raise _full(device) from error


def _full(device: str) -> QuantmillError:
    hint = "a smaller --batch or --ctx-size, or --device cpu"
    return QuantmillError("out of memory", path=device, hint=hint)
