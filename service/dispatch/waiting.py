"""What a job does while the device it measures on is not there: it says so, and its clock stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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

    return waiting(say, clock.stopped)


def waiting(
    say: Callable[[str], None], stopped: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Callable[[], AbstractContextManager[None]]:  # fmt: skip
    """A context to wait in, of which ``say`` hears; inside of ``stopped``."""

    @contextmanager
    def wait() -> Iterator[None]:
        say(WAITING)
        with stopped():
            yield
        say(BACK)

    return wait
