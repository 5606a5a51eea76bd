"""One HTTP connection to the server: authentication, retries with back-off, errors made fusetune's own."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from service.client.errors import error_of, unreachable
from tuner.errors import FusetuneError, InternalError, UserError

ATTEMPTS = 6  # of one request, in all
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0  # seconds between them, doubled each time, with jitter
PASSING = frozenset({429, 502, 503, 504})  # answers that another try may change
VERSION_PATH = "/api/v1"


class Wire:
    """Sends requests that may be repeated; every request of this client may be (see Client).

    Raises from every method: the problem's own error; InternalError ``server-unreachable``, ``bad-answer``.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        timeout: float,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connects nothing yet. Raises UserError for an address that is none (``bad-server-url``)."""
        self._sleep, self._reached = sleep, False
        try:
            self.url = httpx.URL(url.rstrip("/"))
        except (httpx.InvalidURL, TypeError) as error:
            raise UserError(f"{url!r} is no address of a server: {error}.", code="bad-server-url") from error
        if self.url.scheme not in {"http", "https"} or not self.url.host:
            raise UserError(
                f"{_masked(self.url)} is no address of a server.", code="bad-server-url",
                hint="Write it like http://127.0.0.1:8077.",
            )  # fmt: skip
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(
                base_url=f"{str(self.url).rstrip('/')}{VERSION_PATH}/", headers=headers, timeout=timeout,
                transport=transport, follow_redirects=False,
            )  # fmt: skip
        except UnicodeEncodeError as error:
            raise UserError("The token holds characters that no token has.", code="bad-token") from error

    @property
    def name(self) -> str:
        """The address, a password in it masked."""
        return _masked(self.url)

    def close(self) -> None:
        self._http.close()

    def json(self, method: str, path: str, **request: Any) -> Any:
        """Send and read the JSON answer; None for an empty one."""
        response = self.send(method, path, **request)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise InternalError(
                f"The server at {self.name} answered with something else than JSON.", code="bad-answer",
                hint="Is this the address of a fusetune server?",
            ) from error  # fmt: skip

    def send(
        self, method: str, path: str, *, body: Callable[[], Iterator[bytes]] | None = None, **request: Any
    ) -> httpx.Response:
        """Send, again where that may help; the answer is read whole. ``body`` makes a fresh stream for each try."""
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            new = not self._reached and attempt > 0  # nobody was ever there: more patience would not help
            try:
                response = self._http.request(method, path.lstrip("/"), content=body() if body else None, **request)
            except httpx.TransportError as error:
                if last or (new and isinstance(error, httpx.ConnectError)):
                    raise unreachable(self.name, error) from error
                self.pause(attempt)
                continue
            self._reached = True
            if response.is_success:
                return response
            if last or response.status_code not in PASSING:
                raise error_of(response)
            self.pause(attempt, response.headers)
        raise AssertionError  # the last attempt returned or raised

    @contextmanager
    def stream(self, path: str, *, timeout: float, **request: Any) -> Iterator[httpx.Response]:
        """An open answer, one try; ``httpx.TransportError`` passes through for the caller to resume."""
        with self._http.stream("GET", path.lstrip("/"), timeout=timeout, **request) as response:
            if not response.is_success:
                response.read()
                raise error_of(response)
            yield response

    def unreachable(self, error: Exception) -> InternalError:
        """What a broken connection means."""
        return unreachable(self.name, error)

    @staticmethod
    def passes(error: FusetuneError) -> bool:
        """Whether the same request may succeed later."""
        return isinstance(error, InternalError) or error.code == "rate-limited"

    def pause(self, attempt: int, headers: Mapping[str, str] | None = None) -> None:
        """Wait before the next try: as long as the server asks for, or twice as long as before."""
        wished = (headers or {}).get("retry-after", "")
        if wished.isdigit():
            self._sleep(min(int(wished), 60))
            return
        self._sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1.0))


def _masked(url: httpx.URL) -> str:
    return str(url.copy_with(password="***")) if url.password else str(url)  # noqa: S106
