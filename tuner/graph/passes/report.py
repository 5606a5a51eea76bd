"""What one cleaning pass did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PassReport:
    """Passes run in rounds; counts and seconds are sums over the rounds, listed as if run one after the other."""

    name: str
    seconds: float
    before: int  # layers before the pass
    after: int  # layers after it
    enabled: bool
