"""A tuner's way into a Ray cluster: a child process of its own, which alone imports Ray.

Ray ends a process whose cluster went away; a tuner has to outlive that. Requests and answers are JSON:

    {"calls": [{"id", "member", "method", "header", "blob": path or null}, ...], "wait": seconds}
    {"done": [{"id", "header"} or {"id", "lost": reason}, ...], "members": {name: description}}

What comes with an answer as bytes is written to the file "keep" of its call. ``wait`` ends with the first answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from tuner.measure.cluster.messages import pack, unpack
from tuner.measure.cluster.names import NAMESPACE, is_member

LOOK = 1.0  # seconds between two looks at who is there


def handler(config: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    ray.init(address=config["address"], namespace=NAMESPACE, log_to_driver=False, logging_level="warning")
    return _Link().handle


class _Link:
    """Calls under way, and members as last seen."""

    def __init__(self) -> None:
        self._calls: dict[Any, dict[str, Any]] = {}  # ObjectRef -> its call
        self._asked: dict[Any, str] = {}  # ObjectRef of a description -> member
        self._handles: dict[str, Any] = {}
        self._members: dict[str, Any] = {}
        self._looked = -1e9

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        done = [answer for call in request["calls"] if (answer := self._send(call)) is not None]
        self._look()
        end = time.monotonic() + (0.0 if done else float(request["wait"]))
        while not done:
            pending = [*self._calls, *self._asked]
            left = max(0.0, min(end - time.monotonic(), LOOK))
            if pending:
                ready, _ = ray.wait(pending, num_returns=1, timeout=left)
            else:
                time.sleep(min(left, 0.05))
                ready = []
            if ready:  # and what came with it
                ready, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
            met = any(ref in self._asked for ref in ready)
            done += [self._answer(ref) for ref in ready if ref in self._calls]
            for ref in ready:
                if ref in self._asked:
                    self._meet(ref)
            self._look()
            if met or time.monotonic() >= end:
                break
        return {"done": done, "members": self._members}

    def _send(self, call: dict[str, Any]) -> dict[str, Any] | None:
        """Begin a call; an answer at once if its member is gone."""
        handle = self._handles.get(call["member"])
        if handle is None:
            return {"id": call["id"], "lost": f"{call['member']} is not there any more"}
        blob = Path(call["blob"]).read_bytes() if call.get("blob") else b""
        try:
            self._calls[getattr(handle, call["method"]).remote(pack(call["header"], blob))] = call
        except RayError as error:
            return {"id": call["id"], "lost": _text(error)}
        return None

    def _answer(self, ref: Any) -> dict[str, Any]:
        call = self._calls.pop(ref)
        try:
            header, blob = unpack(ray.get(ref))
        except RayActorError as error:
            self._forget(call["member"])
            return {"id": call["id"], "lost": _text(error)}
        except RayError as error:  # the host raised: a defect there
            return {"id": call["id"], "header": {"broken": _text(error)}}
        if blob and call.get("keep"):
            Path(call["keep"]).write_bytes(blob)
        return {"id": call["id"], "header": header}

    def _look(self) -> None:
        """Meet members that are new; forget those that are gone."""
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        there = {each["name"] for each in ray.util.list_named_actors(all_namespaces=True)
                 if each["namespace"] == NAMESPACE and is_member(each["name"])}  # fmt: skip
        for name in [name for name in self._handles if name not in there]:
            self._forget(name)
        for name in there - self._handles.keys():
            try:
                self._handles[name] = ray.get_actor(name)
                self._asked[self._handles[name].describe.remote()] = name
            except (ValueError, RayError):  # gone again
                self._handles.pop(name, None)

    def _meet(self, ref: Any) -> None:
        name = self._asked.pop(ref)
        try:
            self._members[name], _ = unpack(ray.get(ref))
        except (RayError, ValueError):
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._handles.pop(name, None)
        self._members.pop(name, None)


def _text(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
