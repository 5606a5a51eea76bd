"""How often one client may ask, by the ``limits`` library in memory: a restart forgets, which is fine."""

from __future__ import annotations

import ipaddress
import time
from math import ceil
from typing import Literal

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

Kind = Literal["request", "public", "login", "failure"]

LOGINS = 10  # attempts a minute to redeem a code
FAILURES = 60  # requests a minute with a wrong token or none


class Rates:
    """Counts requests per minute and client. 0 = only failed ones and sign-in are limited."""

    def __init__(self, per_minute: int) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._items: dict[str, RateLimitItem] = {
            "login": RateLimitItemPerMinute(LOGINS),
            "failure": RateLimitItemPerMinute(FAILURES),
        }
        if per_minute:
            self._items["request"] = RateLimitItemPerMinute(per_minute)
            # Pages' own files and health checks, counted by address: many users may share one.
            self._items["public"] = RateLimitItemPerMinute(10 * per_minute)

    async def hit(self, kind: Kind, who: str) -> int | None:
        """Count one; None if it is within the limit, else the seconds to wait, at least 1."""
        item = self._items.get(kind)
        if item is None or await self._limiter.hit(item, kind, who):
            return None
        stats = await self._limiter.get_window_stats(item, kind, who)
        return max(1, ceil(stats.reset_time - time.time()))


def client(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 that an IPv6 subscriber owns."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:
        return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
    return str(parsed)
