"""Faults of the network and answers of the hub: what is tried again, and the one line that says what is wrong."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..errors import FormatError, QuantmillError
from .address import HubAddress

Result = TypeVar("Result")
Say = Callable[[str], object]

WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)  # seconds before each further try; two minutes in all
LONGEST_WAIT = 300.0  # seconds; the hub counts requests in windows of five minutes
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_OF_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
_GO_ON = "run the same command again: what is complete is kept"


class EndedEarly(Exception):
    """The hub sent nothing of what was asked for."""


def patiently(call: Callable[[], Result], address: HubAddress, say: Say | None = None) -> Result:
    """Call the hub, again after a pause where the network or the hub failed.

    Args:
        call: what is done; it may be called several times.
        address: what it is about, for messages.
        say: called with a line before each pause.

    Raises:
        FormatError: the hub refuses, it has no such repository, revision or file, or the network fails for minutes.
    """
    waits = iter(WAITS)
    while True:
        try:
            return call()
        except QuantmillError:
            raise
        except Exception as error:
            wait = next(waits, None) if _is_passing(error) else None
            if wait is None:
                raise in_one_line(error, address) from error
            pause = min(max(wait, _asked_pause(error)), LONGEST_WAIT)
            if say is not None:
                say(f"{address}: {_reason(error)}: tries again in {pause:g} s")
            time.sleep(pause)


def in_one_line(error: Exception, address: HubAddress) -> FormatError:
    """What an error of the hub's client means, and what to do."""
    from huggingface_hub import constants, errors

    causes = list(_causes(error))

    def caused_by(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in causes)

    status = _status(error)
    page = f"{constants.ENDPOINT}/{address.repo}"
    login = "hf auth login, or set HF_TOKEN"
    if constants.is_offline_mode() or caused_by(errors.OfflineModeIsEnabled):
        return _refusal(address, "is not in the cache, and HF_HUB_OFFLINE allows no download", "unset HF_HUB_OFFLINE")
    if caused_by(errors.GatedRepoError):
        return _refusal(address, "access must be asked for", f"ask at {page}, then {login}")
    if caused_by(errors.RevisionNotFoundError):
        return _refusal(address, "no such revision", f"see {page}/tree/main for branches and tags")
    if caused_by(errors.RepositoryNotFoundError):
        return _refusal(address, "no such repository, or a private one", f"check the name, or {login}")
    if caused_by(errors.EntryNotFoundError) and not caused_by(errors.LocalEntryNotFoundError):
        return _refusal(address, "no such file in the repository", f"see {page}/tree/main")
    if caused_by(errors.HFValidationError):
        return _refusal(address, "is no name that the hub allows", "give org/name")
    if status in (401, 403):
        return _refusal(address, f"the hub refuses access ({status})", f"{login} with a token that allows it")
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in _OF_DISK:
            place = f"{constants.HF_HUB_CACHE} cannot be written: {cause.strerror}"
            return _refusal(address, place, "make room, or set HF_HOME to a folder on another disk")
    return _refusal(address, _reason(error), _GO_ON)


def _refusal(address: HubAddress, problem: str, hint: str | None) -> FormatError:
    return FormatError(problem, where=str(address), hint=hint)


def _is_passing(error: BaseException) -> bool:
    """Whether a further try may help: the network's faults, and the hub's own."""
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    if (status := _status(error)) is not None:
        return status in _AGAIN
    causes = list(_causes(error))
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        return False
    if isinstance(error, (json.JSONDecodeError, EndedEarly)):
        return True
    # A download that ended too early is an OSError of huggingface_hub without a number.
    short = isinstance(error, OSError) and error.errno is None and "Consistency check" in str(error)
    return short or any(isinstance(cause, httpx2.TransportError) for cause in causes)


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _responses(error: BaseException) -> Iterator[object]:
    for cause in _causes(error):
        if (response := getattr(cause, "response", None)) is not None:
            yield response


def _status(error: BaseException) -> int | None:
    return next((int(getattr(response, "status_code")) for response in _responses(error)), None)  # noqa: B009


def _asked_pause(error: BaseException) -> float:
    """Seconds that the hub asks to wait, by Retry-After."""
    for response in _responses(error):
        asked = getattr(response, "headers", {}).get("Retry-After", "")
        if asked.isdigit():
            return float(asked)
    return 0.0


def _reason(error: BaseException) -> str:
    if (status := _status(error)) is not None:
        return f"the hub answered {status}"
    if isinstance(error, json.JSONDecodeError):
        return "the hub answered what is no JSON"
    if isinstance(error, EndedEarly) or (isinstance(error, OSError) and "Consistency check" in str(error)):
        return "a download ended too early"
    last = list(_causes(error))[-1]
    text = str(last).strip().splitlines()
    return f"the hub cannot be reached: {text[0] if text else type(last).__name__}"
