"""A child process of the local runner: ``python -m tuner.measure.child ROLE REQUESTS REPLIES LIFELINE``.

Reads JSON lines from the pipe REQUESTS (the first one is the configuration) and answers each with one JSON line on
REPLIES: ``{"answer": ...}`` or ``{"failure": kind, "message": ...}``. Libraries may print what they like to stdout.
Only the standard library is imported before the lifeline is armed.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from tuner.errors import CandidateError
from tuner.lifeline import hold
from tuner.types import FailureKind

Handler = Callable[[Mapping[str, Any]], dict[str, Any]]

# role -> module with ``handler(config) -> Handler``, and what an exception of the handler means
NICENESS = 5  # of builders: whoever answers people on this machine goes first
_ROLES = {
    "build": ("tuner.measure.building", FailureKind.BUILD),
    "gpu": ("tuner.gpu.crafting", FailureKind.BUILD),
    "run": ("tuner.measure.running", FailureKind.ERROR),
    "reference": ("tuner.measure.reference", FailureKind.ERROR),
    "cluster": ("tuner.measure.cluster.link", FailureKind.ERROR),
    "contest": ("tuner.measure.contest_turns", FailureKind.ERROR),
    "gauge": ("tuner.measure.gauging", FailureKind.ERROR),
}


def main() -> None:
    role, *fds = sys.argv[1:]
    requests, replies, lifeline = map(int, fds)
    for fd in (requests, replies, lifeline):
        os.set_inheritable(fd, False)
    hold(lifeline)
    _be_expendable()
    if role == "build":
        os.nice(NICENESS)
    module, otherwise = _ROLES[role]
    with os.fdopen(requests, "rb") as lines, os.fdopen(replies, "wb") as out:

        def reply(value: Mapping[str, Any]) -> None:
            out.write(json.dumps(value).encode() + b"\n")
            out.flush()

        handle: Handler | None = None
        for line in lines:
            request = json.loads(line)
            try:
                if handle is None:
                    handle = import_module(module).handler(request)
                    reply({"answer": {"pid": os.getpid()}})
                else:
                    reply({"answer": handle(request)})
            except Exception as error:  # whatever a candidate raises is a value
                reply(_failure(error, otherwise))


def _failure(error: Exception, otherwise: FailureKind) -> dict[str, Any]:
    message = " ".join(str(error).split())
    if isinstance(error, CandidateError):
        kind = FailureKind.REJECTED if error.code == "rejected" else otherwise
    else:
        traceback.print_exc()
        kind = FailureKind.MEMORY if isinstance(error, MemoryError) or "std::bad_alloc" in message else otherwise
        message = f"{type(error).__name__}: {message}".removesuffix(": ")
    return {"failure": kind, "message": message[:1000]}


def _be_expendable() -> None:
    """No core dumps (a crash would write gigabytes), and first in line when memory runs out."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass  # a wish, not a need


if __name__ == "__main__":
    main()
