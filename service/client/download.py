"""Downloads: a file that appears whole or not at all, its hash checked where the server names it."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from service.client.wire import ATTEMPTS, Wire
from tuner.errors import FusetuneError, InternalError, UserError

_NAME = re.compile(r'filename="([^"]+)"')
LONGEST_SECONDS = 320.0  # some logs are made when they are asked for


def fetch(wire: Wire, address: str, params: Mapping[str, Any], to: Path | None, name: str) -> Path:
    """Fetch into ``to``, again from the start if it is cut.

    ``to`` is a file, a folder, or None for here; in a folder the server's name for the file is taken, else ``name``.
    """
    for attempt in range(ATTEMPTS):
        last = attempt == ATTEMPTS - 1
        try:
            return _once(wire, address, params, to, name)
        except httpx.TransportError as error:
            if last:
                raise wire.unreachable(error) from error
        except FusetuneError as error:
            if last or not wire.passes(error):
                raise
        wire.pause(attempt)
    raise AssertionError  # the last attempt returned or raised


def _once(wire: Wire, address: str, params: Mapping[str, Any], to: Path | None, name: str) -> Path:
    with wire.stream(address, params=params, timeout=LONGEST_SECONDS) as response:
        target = _target(to, response.headers, name)
        try:
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}-", delete=False) as file:
                part = Path(file.name)
                try:
                    found = hashlib.sha256()
                    for chunk in response.iter_bytes():
                        file.write(chunk)
                        found.update(chunk)
                    _check(target, response.headers, found)
                    file.close()
                    part.chmod(0o644)
                    part.replace(target)
                finally:
                    with suppress(FileNotFoundError):
                        part.unlink()
        except OSError as error:
            raise UserError(f"{target} cannot be written: {error.strerror}.", code="bad-output") from error
    return target


def _target(to: Path | None, headers: httpx.Headers, name: str) -> Path:
    if to is not None and not to.is_dir():
        return to
    named = _NAME.search(headers.get("content-disposition", ""))
    given = Path(named[1]).name if named else ""  # never a path: the server does not choose the folder
    return (to or Path()) / (name if given in {"", ".."} or given.startswith(".") else given)


def _check(target: Path, headers: httpx.Headers, found: Any) -> None:
    expected = headers.get("x-content-sha256")
    if expected is not None and expected != found.hexdigest():
        raise InternalError(f"What arrived for {target} is not what was sent.", code="bad-download",
                            hint="Try again.")  # fmt: skip
