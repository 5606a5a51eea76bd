"""What a job does while the device it measures on is not there: it says so, and its clock stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from service.dispatch.drive import Drive

if TYPE_CHECKING:
    from tuner.clock import Clock

WAITING, BACK = "waiting for device", "the device is there again"


def waiter(
    drive: Drive, clock: Clock, tell: Callable[[str], None] = lambda _: None
) -> Callable[[], AbstractContextManager[None]]:  # fmt: skip
    """A context to wait in; ``tell`` hears what watchers of the job are told."""

    def say(message: str) -> None:
        drive.say(message)
        tell(message)

    @contextmanager
    def waiting() -> Iterator[None]:
        say(WAITING)
        with clock.stopped():
            yield
        say(BACK)

    return waiting
