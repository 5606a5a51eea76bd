"""What two machines must have in common."""

from __future__ import annotations

from tuner.measure.device import toolchain
from tuner.types import PROTOCOL
from tuner.versions import ENGINE


def versions() -> dict[str, str]:
    """What must be equal for results of two machines to be comparable."""
    return {"toolchain": toolchain(), "protocol": PROTOCOL, "engine": ENGINE}
