"""Structured logs: one line per event with the ids of request, caller, job and trial, as JSON or for people.

Ids come with the record (``extra={"job": id}``) or from around it, so that no function has to hand them on::

    with logs.bind(job=job.id):
        log.info("claimed by %s", holder)

Secrets are never logged on purpose; what looks like one is blanked all the same. Standard library only: every driver
process imports this first.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

_BOUND: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("fusetune_log_fields", default=())
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message"}
_IDS = ("request", "caller", "job", "trial")  # what people see of a line's fields; JSON has all of them
_NOISY = ("alembic", "asyncio", "httpcore", "httpx", "uvicorn")  # these tell what we tell, or what nobody asked
ACCESS = "service.access"  # one line per request
_SECRETS = re.compile(
    r"\b(f[tcs]_)[A-Za-z0-9_-]{20,}"  # ours, by their beginnings (db/access.py)
    r"|((?:bearer|basic)\s+)\S+"
    r"|(://[^/\s:@]*:)[^@\s/]+(?=@)"  # the password in a URL
    r"|((?:[?&]code|password)=)[^&\s]+",
    re.IGNORECASE,
)


def set_up(*, json_lines: bool, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send everything from this level up to stderr, or ``stream``; lines about single requests only as JSON.

    Calling it again changes the form and adds nothing.
    """
    handler = _Stderr(stream)
    handler.setFormatter(_Json() if json_lines else _Plain())
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _Stderr)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger(ACCESS).setLevel(level if json_lines else max(level, logging.WARNING))
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


@contextmanager
def bind(**fields: str | None) -> Iterator[None]:
    """Add these fields to every line logged inside, in this thread or task and those it starts. None adds nothing."""
    given = {name: value for name, value in fields.items() if value is not None}
    token = _BOUND.set(tuple((dict(_BOUND.get()) | given).items()))
    try:
        yield
    finally:
        _BOUND.reset(token)


def bound() -> dict[str, str]:
    """The fields bound here."""
    return dict(_BOUND.get())


def blank_secrets(text: str) -> str:
    """The text without tokens, codes and passwords."""
    return _SECRETS.sub(lambda found: next(group for group in found.groups() if group is not None) + "***", text)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to a given stream, or to what sys.stderr is now: a live display puts itself there."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream or sys.stderr)
        self._given = stream

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = self._given or sys.stderr
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """A line for which there is no room is lost, without a word: where should that go?"""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _Json(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(
            {name: blank_secrets(v) if isinstance(v, str) else v for name, v in line.items()}, default=str
        )


class _Plain(logging.Formatter):
    """Time, level if it is worth a word, message, ids."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno <= logging.INFO else f" {record.levelname}"
        fields = _fields(record)
        ids = " ".join(f"{name}={fields[name]}" for name in _IDS if name in fields)
        text = f"{when}{level} {record.getMessage()}" + (f"  [{ids}]" if ids else "")
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return blank_secrets(text)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was bound around the line, and what came with it."""
    return bound() | {name: value for name, value in record.__dict__.items() if name not in _OWN}
