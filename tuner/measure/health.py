"""Whether a device is as fast as usual: what its calibration kernel takes now, against what it took before.

The kernel is the burst of ``tuner.measure.contention``, timed beside every sample of every trial. What others do on our
cores for a moment is dealt with there: such samples are taken again. Here it is about what lasts, such as a processor
that became hot and lowered its clock, or a neighbour that stays. Knows no database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

WINDOW = 512  # newest readings that say what is usual: a device that stays slower is at some time as it is
RECENT = 9  # newest readings that say how it is now
LEAST = 27  # readings before anything is said
LIMIT = 1.25  # times its usual that the kernel takes on a device that has drifted
CLEAR = 1.12  # ... and down to which it goes on counting as such


@dataclass(frozen=True)
class Condition:
    """A device at one moment."""

    usual: float | None = None  # seconds of the calibration kernel; None = too few readings to say
    ratio: float = 1.0  # what it took lately over that
    drifting: bool = False

    def drift(self, calibration: float | None) -> float | None:
        """How many times its usual the kernel took beside one trial (seconds), if that is too much; else None."""
        if calibration is None or self.usual is None:
            return None
        ratio = calibration / self.usual
        return ratio if ratio > LIMIT else None


def judge(readings: Sequence[float], drifting: bool = False) -> Condition:
    """The condition that readings (seconds, oldest first) tell; ``drifting`` = as it was said to be before them."""
    if len(readings) < LEAST:
        return Condition()
    usual = median(readings)
    ratio = median(readings[-RECENT:]) / usual
    return Condition(usual, ratio, ratio > (CLEAR if drifting else LIMIT))
