"""What went wrong on the way to the server and back, as fusetune's own errors."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tuner.errors import CandidateError, FusetuneError, InternalError, UserError

_FAULTS: dict[str, type[FusetuneError]] = {"user": UserError, "candidate": CandidateError, "service": InternalError}


def error_of(response: httpx.Response) -> FusetuneError:
    """The error that an answer of 400 and above stands for; its body must have been read."""
    problem = _problem(response)
    if problem is None:
        said = f"{response.status_code} {response.reason_phrase}".strip()
        return InternalError(
            f"The server answered {said}, which is no answer of fusetune's.", code="bad-answer",
            hint="Is the address right, and does a proxy stand between?",
        )  # fmt: skip
    fault = str(problem.get("fault") or ("user" if response.status_code < 500 else "service"))
    message = str(problem.get("detail") or problem.get("title") or f"The server answered {response.status_code}.")
    places = [f"{e.get('where')}: {e.get('message')}" for e in problem.get("errors") or () if isinstance(e, dict)]
    if places:
        message = f"{message.rstrip('.')}: {'; '.join(places)}"
    code, hint = str(problem.get("code") or "bad-answer"), str(problem.get("hint") or "")
    return _FAULTS.get(fault, InternalError)(message, code=code, hint=hint)


def unreachable(url: str, error: Exception) -> InternalError:
    """The server did not answer at all."""
    said = str(error) or type(error).__name__
    return InternalError(
        f"The server at {url} cannot be reached: {said}.", code="server-unreachable",
        hint="Is it running (fusetune serve), and is its address right (--server or FUSETUNE_SERVER)?",
    )  # fmt: skip


def _problem(response: httpx.Response) -> dict[str, Any] | None:
    if "json" not in response.headers.get("content-type", ""):
        return None
    try:
        found = json.loads(response.content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
