"""Taking turns on a device: whoever builds or measures holds it, so that no job disturbs another's times."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

# Called with what the device will be used for, in plain words; entering waits for the turn, leaving gives it back.
Turn = Callable[[str], AbstractContextManager[None]]


def alone(_: str) -> AbstractContextManager[None]:
    """The turn of a process that shares its device with nobody."""
    return nullcontext()
