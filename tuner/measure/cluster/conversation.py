"""Asking a machine that has a device to do something with folders of files, which are sent along; waits for one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from tuner.errors import CandidateError, DeviceError, InternalError
from tuner.measure.cluster.cluster import PATIENCE, Answer, Call, Cluster, Member
from tuner.measure.cluster.files import PIECE, listing, sha256
from tuner.measure.contest import Contestant
from tuner.scratch import Scratch
from tuner.types import Device

LOSSES = 3  # machines that may go away under one request
_WAIT = 0.5  # seconds of one exchange at most


class Conversation:
    """A tuner's side of what ``served`` answers, with any machine of a cluster that has the device. For one thread.

    ``waiting`` is entered while no such machine is there.
    """

    def __init__(
        self, cluster: Cluster, device: Device, waiting: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self._cluster, self._device, self._waiting = cluster, device, waiting
        self._scratch = Scratch()

    def close(self) -> None:
        """Leave the cluster. Idempotent."""
        self._cluster.close()
        self._cluster.dispose()
        self._scratch.remove()

    @staticmethod
    def describe(contestant: Contestant) -> dict[str, Any]:
        """A contestant as a request's header names it."""
        path = contestant.path
        said = {"name": contestant.name, "kind": contestant.kind, "options": dict(contestant.options),
                "path": path.name}  # fmt: skip
        if not contestant.beside:
            return said | {"files": listing(path), "from": str(path)}
        files = {name: sha256(path.parent / name) for name in (path.name, *contestant.beside)}
        return said | {"files": files, "from": str(path.parent), "within": True}

    def ask(self, header: dict[str, Any], blob: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """What a machine answers to ``header``, whose "contestants" it gets the files of.

        Raises DeviceError(code="device-lost") when several went away over it, CandidateError(code="contestant-failed")
        for what it could not run, InternalError for a machine that is not fit for it.
        """
        reason = ""
        for _ in range(LOSSES):
            member = self._member()
            try:
                self._send_files(member, header)
                return self._one(member, "whole", header, blob)
            except _LostError as error:
                reason = str(error)
        raise DeviceError(f"Workers went away {LOSSES} times over one request: {reason}", code="device-lost")

    def _member(self) -> Member:
        """A machine with the device; waits for one."""
        end = time.monotonic() + PATIENCE
        while not (found := self._cluster.having(self._device)) and time.monotonic() < end:
            self._cluster.exchange(_WAIT)
        if not found:
            with self._waiting():
                while not (found := self._cluster.having(self._device)):
                    self._cluster.exchange(_WAIT)
        return found[0]

    def _send_files(self, member: Member, header: Mapping[str, Any]) -> None:
        paths = {
            hash: Path(c["from"]) / name if name else Path(c["from"])
            for c in header["contestants"] for name, hash in c["files"].items()
        }  # fmt: skip
        said, _ = self._one(member, "files", {"missing": list(paths)}, b"")
        for hash in said["missing"]:
            size = paths[hash].stat().st_size
            with paths[hash].open("rb") as file:
                for offset in range(0, max(size, 1), PIECE):
                    piece = {"put": hash, "offset": offset, "last": offset + PIECE >= size}
                    self._one(member, "files", piece, file.read(PIECE))

    def _one(self, member: Member, method: str, header: Mapping[str, Any], blob: bytes) -> tuple[dict[str, Any], bytes]:
        sent, kept = self._scratch.path / "sent", self._scratch.path / "kept"
        sent.write_bytes(blob)
        kept.unlink(missing_ok=True)
        id = self._cluster.call(Call(member.name, method, header, blob=sent, keep=kept))
        answer: Answer | None = None
        while answer is None:
            answer = next((a for a in self._cluster.exchange(_WAIT) if a.id == id), None)
        if answer.header is None:
            raise _LostError(answer.lost)
        if "broken" in answer.header:
            raise InternalError(f"A worker cannot measure: {answer.header['broken']}", code="measuring-broken")
        if "refused" in answer.header:
            text, hint = answer.header["refused"]
            raise CandidateError(text, code="contestant-failed", hint=hint)
        return dict(answer.header), kept.read_bytes() if kept.exists() else b""


class _LostError(Exception):
    """The machine went away."""
